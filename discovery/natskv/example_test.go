package natskv_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/natsconn"
)

// On a NATS server the registration ends with the process, however that ends.
func ExampleNew() {
	ctx := context.Background()
	cfg, err := natsconn.FromEnv(os.LookupEnv)
	if err != nil {
		fmt.Println(err)
		return
	}
	nc, err := natsconn.Connect(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	store, err := natskv.New(nc, natskv.Options{TTL: 5 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := discovery.NewClient(store, discovery.Options{})
	defer func() { _ = client.Shutdown(ctx) }()
	reg, err := client.Register(ctx, discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
		Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Lives until another owner takes the id over, or ctx is done.
	fmt.Println(reg.Wait(ctx))
}
