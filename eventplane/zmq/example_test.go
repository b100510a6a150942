//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := hello(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: publisher 1, event 0: hello
}

func hello(ctx context.Context) error {
	zc, err := zmqdriver.New(zmqdriver.Options{})
	if err != nil {
		return err
	}
	defer zc.Close()
	pub, err := zc.DirectPublisher("127.0.0.1", "kv-events", 1)
	if err != nil {
		return err
	}
	sub, err := zc.Subscribe("kv-events")
	if err != nil {
		return err
	}
	if err := sub.Connect(pub.Endpoint()); err != nil {
		return err
	}
	if err := sub.Ready(ctx); err != nil { // events that are published before are not received
		return err
	}
	event := driver.Message{Subject: "kv-events", PublisherID: 1, Body: []byte("hello")}
	if err := pub.Publish(ctx, &event); err != nil {
		return err
	}
	var m driver.Message
	for {
		if err := sub.Next(ctx, &m); err != nil {
			return err
		}
		if m.Kind == driver.Event {
			fmt.Printf("publisher %d, event %d: %s\n", m.PublisherID, m.Sequence, m.Body)
			return nil
		}
	}
}
