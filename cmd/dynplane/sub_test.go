package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/natsconn"
)

// On a terminal, sub prints on stderr from how many publishers it receives, and in
// the end how many events.
func TestSubReportsOnATerminal(t *testing.T) {
	t.Parallel()
	url := natstest.Run(t).URL()
	nc, err := natsconn.Connect(t.Context(), natsconn.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan struct{})
	var stderr logtest.Buffer
	go func() {
		defer close(published)
		for seq := 0; wait.Sleep(ctx, 50*time.Millisecond) == nil; seq++ {
			event := fmt.Sprintf(`{"publisher_id":7,"sequence":%d,"published_at":7,"topic":"t","event":1}`, seq)
			_ = nc.Publish("namespace.ns.component.c.t", []byte(event))
		}
	}()
	var stdout bytes.Buffer
	a := &app{
		lookup: lookupIn([]string{"NATS_SERVER=" + url}), stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		stderrTerminal: true,
	}
	code := a.run(t.Context(), []string{"sub", "ns/c", "t", "--count", "60", "--timeout", "1m"})
	cancel()
	<-published
	for _, want := range []string{"dynplane: receiving from 1 publishers\n", "dynplane: received 60 events, missed 0 in 0 gaps"} {
		if !strings.Contains(stderr.String(), want) || code != 0 {
			t.Errorf("exit code %d, stderr %q: want %q", code, stderr.String(), want)
		}
	}
}
