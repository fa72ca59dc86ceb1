// A client with grpc-js. Arguments: the gateway, then the errors that are wanted.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { ErrorSchema } from "./gen/palisade/v1/palisade_pb.js";
import { ErrorInfoSchema, StatusSchema } from "./gen/google/rpc/status_pb.js";
import { run } from "./calls.mjs";

const [address, ...wanted] = process.argv.slice(2);
const definition = loader.loadSync("palisade/v1/palisade.proto", { includeDirs: [process.env.PROTO_DIR] });
const { LockService } = grpc.loadPackageDefinition(definition).palisade.v1;
const client = new LockService(address, grpc.credentials.createInsecure());

function call(method, request, timeoutMs) {
  const plain = Object.fromEntries(Object.entries(request).map(([key, value]) => [key, Number.isNaN(Number(value)) ? value : Number(value)]));
  return new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer));
    client[method](plain, { deadline: Date.now() + timeoutMs }, done);
  });
}

await run(wanted, call, (error) => {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const details = fromBinary(StatusSchema, bytes).details;
  const unpacked = (schema) => details.map((detail) => anyUnpack(detail, schema)).find((found) => found);
  return { code: error.code, info: unpacked(ErrorInfoSchema), ours: unpacked(ErrorSchema) };
});
client.close();
