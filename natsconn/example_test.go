package natsconn_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

// A program reads its environment once and connects with the result.
func ExampleConnect() {
	url, stop, err := natstest.ForExample()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	cfg, err := natsconn.FromEnv(os.LookupEnv)
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg.URL = url // for this example alone

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nc, err := natsconn.Connect(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	fmt.Println(nc.Status())
	// Output: CONNECTED
}

// The error has the variable, its value without credentials, and the valid values.
func ExampleFromEnv() {
	env := map[string]string{"NATS_SERVER": "http://user:password@hub:4222"}
	_, err := natsconn.FromEnv(func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	})
	fmt.Println(err)
	// Output:
	// natsconn: NATS_SERVER "http://xxxxx@hub:4222": wrong scheme: want nats://HOST[:PORT] or tls://HOST[:PORT], several separated by commas
}
