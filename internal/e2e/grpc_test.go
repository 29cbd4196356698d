package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
)

// grpcAPI is a gRPC service.
type grpcAPI struct {
	testpb.UnimplementedTestServiceServer
}

func (grpcAPI) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-usage", "7"))
	if in.GetFillUsername() {
		return nil, grpcstatus.Error(codes.ResourceExhausted, "told in a trailer")
	}
	return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (grpcAPI) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

func TestStream_gRPC(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{handler: "credential_pool api h2c://" + c.upstream.Listener.Addr().String() + " {\nclient agent {env.PHANTOM}\n}"})
	server := grpc.NewServer()
	defer server.Stop()
	testpb.RegisterTestServiceServer(server, grpcAPI{})
	c.upstream.answer("work", status429)
	c.upstream.answer("home", server.ServeHTTP)

	conn, err := grpc.NewClient("passthrough:///127.0.0.1:"+c.port, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.phantom)
	client := testpb.NewTestServiceClient(conn)

	var header, trailer metadata.MD
	payload := &testpb.Payload{Body: []byte(strings.Repeat("question ", 1000))}
	res, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	c.add("the answer of gRPC", fmt.Append(nil, header, trailer, res))
	equal(t, "payload", len(res.GetPayload().GetBody()), len(payload.GetBody()))
	equal(t, "trailer", trailer.Get("x-usage"), "[7]")
	equal(t, "attempts", c.upstream.served(), "[work home]")

	if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{FillUsername: true}); grpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want what the trailer says", err)
	}
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		body := fmt.Append(nil, n)
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: body}}); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "payload", string(got.GetPayload().GetBody()), n)
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end of the stream", err)
	}
}
