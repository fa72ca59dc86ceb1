// Makes calls that fail, and prints a line for each: what grpc-go makes of the error.
//
// Arguments: the gateway, then the errors that are wanted. tests/tests/clients.rs says what is expected.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "palisadetest/palisadev1"
)

func call(locks pb.LockServiceClient, name string) error {
	timeout := 20 * time.Second
	if name == "NO_LEADER" {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var err error
	switch name {
	case "HELD":
		_, err = locks.Acquire(ctx, &pb.AcquireRequest{Name: "held", Owner: "bob"})
	case "NOT_OWNER":
		_, err = locks.Release(ctx, &pb.ReleaseRequest{Name: "held", FencingToken: 1 << 40})
	case "INVALID_ARGUMENT":
		_, err = locks.Acquire(ctx, &pb.AcquireRequest{Name: "held", TtlMs: 1})
	case "WAIT_TIMEOUT":
		_, err = locks.Acquire(ctx, &pb.AcquireRequest{Name: "held", WaitMs: 100})
	case "NO_LEADER":
		_, err = locks.Check(ctx, &pb.CheckRequest{Name: "held"})
	}
	return err
}

func main() {
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	locks := pb.NewLockServiceClient(channel)
	for _, name := range os.Args[2:] {
		told := status.Convert(call(locks, name))
		var info *errdetails.ErrorInfo
		var ours *pb.Error
		for _, detail := range told.Details() {
			switch detail := detail.(type) {
			case *errdetails.ErrorInfo:
				info = detail
			case *pb.Error:
				ours = detail
			}
		}
		fmt.Printf("%s grpc=%d reason=%s domain=%s error=%s token=%d\n",
			name, told.Code(), info.GetReason(), info.GetDomain(), ours.GetCode(), ours.GetCurrentToken())
	}
}
