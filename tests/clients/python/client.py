"""Makes calls that fail, and prints a line for each: what grpcio and grpcio-status make of the error.

Arguments: the gateway, then the errors that are wanted. tests/tests/system/clients.rs says what is expected.
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from palisade.v1 import palisade_pb2 as pb
from palisade.v1 import palisade_pb2_grpc

CALLS = {
    "HELD": lambda locks: locks.Acquire(pb.AcquireRequest(name="held", owner="bob"), timeout=20),
    "NOT_OWNER": lambda locks: locks.Release(pb.ReleaseRequest(name="held", fencing_token=1 << 40), timeout=20),
    "INVALID_ARGUMENT": lambda locks: locks.Acquire(pb.AcquireRequest(name="held", ttl_ms=1), timeout=20),
    "WAIT_TIMEOUT": lambda locks: locks.Acquire(pb.AcquireRequest(name="held", wait_ms=100), timeout=20),
    "NO_LEADER": lambda locks: locks.Check(pb.CheckRequest(name="held"), timeout=3),
}


def unpacked(details, message):
    """The first detail of the message's type, or None."""
    for detail in details:
        if detail.Unpack(message):
            return message
    return None


def main():
    address, wanted = sys.argv[1], sys.argv[2:]
    with grpc.insecure_channel(address) as channel:
        locks = palisade_pb2_grpc.LockServiceStub(channel)
        for name in wanted:
            try:
                CALLS[name](locks)
                print(name, "succeeded")
            except grpc.RpcError as error:
                # Also checks that code and message are the same in both places.
                details = rpc_status.from_call(error).details
                info = unpacked(details, error_details_pb2.ErrorInfo())
                ours = unpacked(details, pb.Error())
                code = error.code().value[0]
                print(
                    f"{name} grpc={code} reason={info.reason} domain={info.domain}"
                    f" error={pb.ErrorCode.Name(ours.code)} token={ours.current_token}"
                )


main()
