// The calls that fail, and the line that is printed for each. `call(method, request, timeoutMs)` makes one.
import { ErrorCode } from "./gen/palisade/v1/palisade_pb.js";

const CALLS = {
  HELD: ["acquire", { name: "held", owner: "bob" }, 20_000],
  NOT_OWNER: ["release", { name: "held", fencingToken: 1n << 40n }, 20_000],
  INVALID_ARGUMENT: ["acquire", { name: "held", ttlMs: 1 }, 20_000],
  WAIT_TIMEOUT: ["acquire", { name: "held", waitMs: 100 }, 20_000],
  NO_LEADER: ["check", { name: "held" }, 3_000],
};

/** `explain(error)` gives the gRPC code, and the details ErrorInfo and palisade.v1.Error. */
export async function run(wanted, call, explain) {
  for (const name of wanted) {
    const [method, request, timeoutMs] = CALLS[name];
    try {
      await call(method, request, timeoutMs);
      console.log(name, "succeeded");
    } catch (error) {
      const { code, info, ours } = explain(error);
      const line = `grpc=${code} reason=${info.reason} domain=${info.domain}`;
      console.log(`${name} ${line} error=ERROR_CODE_${ErrorCode[ours.code]} token=${ours.currentToken}`);
    }
  }
}
