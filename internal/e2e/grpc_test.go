package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
)

// grpcAPI is a gRPC service. Each call ends with a trailer.
type grpcAPI struct {
	testpb.UnimplementedTestServiceServer
}

var usage = metadata.Pairs("x-usage", "7")

func (grpcAPI) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, usage)
	if in.GetFillUsername() {
		return nil, grpcstatus.Error(codes.ResourceExhausted, "told in a trailer")
	}
	return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (grpcAPI) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	stream.SetTrailer(usage)
	size := 0
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(in.GetPayload().GetBody())
	}
}

func (grpcAPI) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	stream.SetTrailer(usage)
	for range in.GetResponseParameters() {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
	return nil
}

func (grpcAPI) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	stream.SetTrailer(usage)
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

// startGRPC starts a Caddy before a gRPC service that the account home may use,
// and returns a client with the context for its calls. It does not retry.
func startGRPC(t *testing.T) (*caddy, testpb.TestServiceClient, context.Context) {
	t.Helper()
	c := newCaddy(t, "work", "home")
	c.start(config{handler: "credential_pool api h2c://" + c.upstream.Listener.Addr().String() + " {\nclient agent {env.PHANTOM}\n}"})
	server := grpc.NewServer()
	t.Cleanup(server.Stop)
	testpb.RegisterTestServiceServer(server, grpcAPI{})
	c.upstream.answer("home", server.ServeHTTP)
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:"+c.port, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return c, testpb.NewTestServiceClient(conn), metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.phantom)
}

// payload is a message of 9 kB that says which one it is.
func payload(n int) *testpb.Payload {
	return &testpb.Payload{Body: fmt.Appendf(nil, "%9000d", n)}
}

// calls are the four kinds of calls. Each checks the messages that it gets, and
// returns what came before and after them.
var calls = map[string]func(context.Context, *testing.T, testpb.TestServiceClient) (header, trailer metadata.MD){
	"UnaryCall": func(ctx context.Context, t *testing.T, client testpb.TestServiceClient) (header, trailer metadata.MD) {
		res, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(1)}, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "answer", string(res.GetPayload().GetBody()), string(payload(1).GetBody()))
		return header, trailer
	},
	"StreamingInputCall": func(ctx context.Context, t *testing.T, client testpb.TestServiceClient) (header, trailer metadata.MD) {
		stream, err := client.StreamingInputCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			if err := stream.Send(&testpb.StreamingInputCallRequest{Payload: payload(n)}); err != nil {
				t.Fatal(err)
			}
		}
		res, err := stream.CloseAndRecv()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "bytes that arrived", res.GetAggregatedPayloadSize(), 100*9000)
		return must(stream.Header()), stream.Trailer()
	},
	"StreamingOutputCall": func(ctx context.Context, t *testing.T, client testpb.TestServiceClient) (header, trailer metadata.MD) {
		stream, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{
			Payload: payload(1), ResponseParameters: make([]*testpb.ResponseParameters, 100),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			got, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "message", string(got.GetPayload().GetBody()), string(payload(1).GetBody()))
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v at the end of the stream", err)
		}
		return must(stream.Header()), stream.Trailer()
	},
	"FullDuplexCall": func(ctx context.Context, t *testing.T, client testpb.TestServiceClient) (header, trailer metadata.MD) {
		stream, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 { // each waits for the answer to the one before it
			if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload(n)}); err != nil {
				t.Fatal(err)
			}
			got, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "message", string(got.GetPayload().GetBody()), string(payload(n).GetBody()))
		}
		_ = stream.CloseSend()
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v at the end of the stream", err)
		}
		return must(stream.Header()), stream.Trailer()
	},
}

func TestGRPC_eachKindOfCall(t *testing.T) {
	t.Parallel()
	for kind, call := range calls {
		for code, refuse := range map[string]http.HandlerFunc{ // by the header alone, as a gateway does it
			"429": refusal(429, `{"code":8,"message":"quota"}`),
			"401": refusal(401, `{"code":16,"message":"credential"}`),
		} {
			t.Run(kind+" after "+code, func(t *testing.T) {
				t.Parallel()
				c, client, ctx := startGRPC(t)
				c.upstream.answer("work", refuse)
				header, trailer := call(ctx, t, client)
				c.add("the answer of gRPC", fmt.Append(nil, header, trailer))
				equal(t, "trailer", trailer.Get("x-usage"), "[7]")
				c.failedOver(t, "POST /grpc.testing.TestService/"+kind, code)
			})
		}
	}
}

func TestGRPC_errorInATrailerIsPassedOn(t *testing.T) {
	t.Parallel()
	c, client, ctx := startGRPC(t)
	c.upstream.answer("work", c.upstream.answers["home"])
	var trailer metadata.MD
	_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{FillUsername: true}, grpc.Trailer(&trailer))
	if grpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want what the trailer says", err)
	}
	equal(t, "trailer", trailer.Get("x-usage"), "[7]")
	equal(t, "attempts", c.upstream.served(), "[work]")
}
