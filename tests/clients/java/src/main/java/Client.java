import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.concurrent.TimeUnit;
import palisade.v1.AcquireRequest;
import palisade.v1.CheckRequest;
import palisade.v1.LockServiceGrpc;
import palisade.v1.ReleaseRequest;

/**
 * Makes calls that fail, and prints a line for each: what grpc-java makes of the error.
 *
 * <p>Arguments: the gateway, then the errors that are wanted. tests/tests/clients.rs says what is expected.
 */
public final class Client {
  private static void call(LockServiceGrpc.LockServiceBlockingStub stub, String name) {
    var locks = stub.withDeadlineAfter(name.equals("NO_LEADER") ? 3 : 20, TimeUnit.SECONDS);
    var acquire = AcquireRequest.newBuilder().setName("held").setOwner("bob");
    switch (name) {
      case "HELD" -> locks.acquire(acquire.build());
      case "NOT_OWNER" ->
          locks.release(ReleaseRequest.newBuilder().setName("held").setFencingToken(1L << 40).build());
      case "INVALID_ARGUMENT" -> locks.acquire(acquire.setTtlMs(1).build());
      case "WAIT_TIMEOUT" -> locks.acquire(acquire.setWaitMs(100).build());
      case "NO_LEADER" -> locks.check(CheckRequest.newBuilder().setName("held").build());
      default -> throw new IllegalArgumentException(name);
    }
  }

  /** The detail of this type, or the type's default. */
  private static <M extends Message> M unpacked(List<Any> details, Class<M> type, M otherwise)
      throws InvalidProtocolBufferException {
    for (Any detail : details) {
      if (detail.is(type)) {
        return detail.unpack(type);
      }
    }
    return otherwise;
  }

  public static void main(String[] args) throws Exception {
    ManagedChannel channel =
        Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
    var locks = LockServiceGrpc.newBlockingStub(channel);
    for (String name : List.of(args).subList(1, args.length)) {
      try {
        call(locks, name);
        System.out.println(name + " succeeded");
      } catch (StatusRuntimeException error) {
        var details = StatusProto.fromThrowable(error).getDetailsList();
        var info = unpacked(details, ErrorInfo.class, ErrorInfo.getDefaultInstance());
        var ours = unpacked(details, palisade.v1.Error.class, palisade.v1.Error.getDefaultInstance());
        System.out.printf(
            "%s grpc=%d reason=%s domain=%s error=%s token=%d%n",
            name, error.getStatus().getCode().value(), info.getReason(), info.getDomain(),
            ours.getCode(), ours.getCurrentToken());
      }
    }
    channel.shutdownNow();
  }
}
