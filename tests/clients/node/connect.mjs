// A client with connect-es, over gRPC. Arguments: the gateway, then the errors that are wanted.
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorSchema, LockService } from "./gen/palisade/v1/palisade_pb.js";
import { ErrorInfoSchema } from "./gen/google/rpc/status_pb.js";
import { run } from "./calls.mjs";

const [address, ...wanted] = process.argv.slice(2);
const client = createClient(LockService, createGrpcTransport({ baseUrl: `http://${address}` }));
await run(
  wanted,
  (method, request, timeoutMs) => client[method](request, { timeoutMs }),
  (error) => {
    const [info] = error.findDetails(ErrorInfoSchema);
    const [ours] = error.findDetails(ErrorSchema);
    return { code: error.code, info, ours };
  },
);
process.exit(0);
