//go:build cgo && !nozmq

package broker_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/dynplane/dynplane/broker"
)

func Example() {
	b, err := broker.New(broker.Options{XSubBind: "tcp://127.0.0.1:0", XPubBind: "tcp://127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a program would cancel when it is to stop
	fmt.Println("run:", b.Run(ctx))
	fmt.Println("publishers connect to tcp:", strings.HasPrefix(b.XSubEndpoint(), "tcp://127.0.0.1:"))
	fmt.Println("relayed:", b.Stats().Messages)
	// Output:
	// run: <nil>
	// publishers connect to tcp: true
	// relayed: 0
}
