package natskv

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
)

// The clock of a machine that was suspended is behind.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	var back atomic.Int64
	now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	s := openStore(t, server.Connect(t), Options{TTL: 2 * time.Second, Now: now})
	reader := discovery.NewClient(openStore(t, server.Connect(t), Options{}), discovery.Options{})
	l := registerOne(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	for ev, err := range reader.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
		if err == nil && ev.Type == discovery.Synced {
			back.Store(int64(5 * time.Minute))
		}
		if err == nil && ev.Type == discovery.Removed {
			t.Error("a living owner was removed")
		}
	}
	if _, there := present(t, s, l); !there {
		t.Error("the entry is gone")
	}
}

func TestServerClock(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	clock := serverClock{now: func() time.Time { return t0.Add(ms(5000)) }}
	// The server is an hour ahead, and half of the round trip is each way.
	first, off := clock.set(t0.Add(time.Hour+ms(100)), t0, t0.Add(ms(200)))
	if !first || off != time.Hour {
		t.Errorf("first %v, offset %v", first, off)
	}
	if got := clock.serverNow().Sub(t0); got != time.Hour+ms(5000) {
		t.Errorf("the server's time is %v from the beginning", got)
	}
	// The stamp of a slow answer is less accurate than an old one.
	if first, _ = clock.set(t0, t0.Add(ms(1000)), t0.Add(ms(3000))); first {
		t.Error("it is the first again")
	}
	if got := clock.serverNow().Sub(t0); got != time.Hour+ms(5000) {
		t.Errorf("after a slow answer the server's time is %v from the beginning", got)
	}
	// A later fast answer replaces the first.
	clock.set(t0.Add(2*time.Hour), t0.Add(ms(4000)), t0.Add(ms(4000)))
	if got := clock.serverNow().Sub(t0); got != 2*time.Hour+ms(1000) {
		t.Errorf("after a later answer the server's time is %v from the beginning", got)
	}
	// Time advances by the monotonic clock, which a step of the wall clock does
	// not affect. The string of a Time shows whether it has a monotonic reading.
	clock.set(time.Unix(0, 0), t0, t0)
	if !strings.Contains(clock.local.String(), " m=") {
		t.Error("the clock has lost the monotonic reading")
	}
}
