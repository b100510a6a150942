package requestplane_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/requestplane"
)

// A server answers with several items; a client reads them.
func Example() {
	server, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()
	path := requestplane.Endpoint{Instance: 42, Namespace: "dynamo", Component: "backend", Name: "count"}.Path()
	_, err = server.Handle(path, func(_ context.Context, _ *requestplane.Request, send func([]byte) error) error {
		for _, item := range []string{`"one"`, `"two"`} {
			if err := send([]byte(item)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	client, err := requestplane.NewClient(requestplane.ClientOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	for item, err := range client.Call(context.Background(), server.Address(path), []byte(`{}`), requestplane.CallOptions{}) {
		fmt.Println(string(item), err)
	}
	// Output:
	// "one" <nil>
	// "two" <nil>
}

// One encodes and decodes Go values.
func ExampleOne() {
	type query struct {
		Worker uint64 `json:"worker" msgpack:"worker"`
	}
	type state struct {
		Blocks int `json:"blocks" msgpack:"blocks"`
	}
	server, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0", AllowCallHome: requestplane.SameHost})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()
	_, err = server.Handle("2a/state", func(_ context.Context, r *requestplane.Request, send func([]byte) error) error {
		enc, err := codec.Lookup(string(r.Codec))
		if err != nil {
			return err
		}
		var q query
		if err := enc.Unmarshal(r.Payload, &q); err != nil {
			return err
		}
		if q.Worker != 42 {
			return errors.New("no such worker")
		}
		item, err := enc.Append(nil, state{Blocks: 7})
		if err != nil {
			return err
		}
		return send(item)
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	client, err := requestplane.NewClient(requestplane.ClientOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	for _, worker := range []uint64{42, 43} {
		answer, err := requestplane.One[state](context.Background(), client, server.Address("2a/state"), codec.Msgpack, query{worker}, requestplane.CallOptions{})
		if remote := (*requestplane.RemoteError)(nil); errors.As(err, &remote) {
			fmt.Println("failed:", remote.Message)
			continue
		}
		fmt.Println(answer.Blocks, err)
	}
	// Output:
	// 7 <nil>
	// failed: no such worker
}

func ExampleParseAddress() {
	addr, err := requestplane.ParseAddress("127.0.0.1:46105/2a/dynamo/backend/worker_kv_query_source_1f")
	if err != nil {
		fmt.Println(err)
		return
	}
	endpoint, err := requestplane.ParsePath(addr.Path)
	fmt.Println(addr.Host, endpoint.Instance, endpoint.Name, err)
	// Output: 127.0.0.1:46105 42 worker_kv_query_source_1f <nil>
}
