package eventplane

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// stuckTransport opens nothing until the context is done.
type stuckTransport struct{ entered chan struct{} }

func (s stuckTransport) publisher(context.Context, route, uint64) (*pubConn, error) { return nil, nil }

func (s stuckTransport) subscriber(ctx context.Context, _ route, _ driver.QueueOptions) (*subConn, error) {
	close(s.entered)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s stuckTransport) close() error { return nil }

func TestShutdownEndsWhatIsBeingOpened(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		by   func(*Client, context.CancelFunc)
		want error
	}{
		"shutdown": {func(c *Client, _ context.CancelFunc) { _ = c.Shutdown(context.Background()) }, ErrClosed},
		"context":  {func(_ *Client, cancel context.CancelFunc) { cancel() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := New(Config{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			stuck := stuckTransport{make(chan struct{})}
			client.transport = stuck
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error)
			go func() {
				_, err := client.Subscriber(ctx, discovery.Scope{Namespace: "ns"}, "t")
				done <- err
			}()
			<-stuck.entered
			go end.by(client, cancel)
			if err := <-done; !errors.Is(err, end.want) || errors.Is(err, ErrClosed) != errors.Is(end.want, ErrClosed) {
				t.Errorf("error %v: want %v", err, end.want)
			}
			if err := client.Shutdown(context.Background()); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
	}
}

// flakyShutdown fails until its context is not done.
type flakyShutdown struct {
	client  *Client
	running *sync.WaitGroup // all of them have begun
}

func (f *flakyShutdown) Shutdown(ctx context.Context) error {
	f.running.Done()
	f.running.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	f.client.remove(f)
	return nil
}

func TestShutdownOfManyRunsAtOnceAndCanBeRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // which fails if they wait for each other in turn
		c := &Client{transport: stuckTransport{}, open: map[shutdowner]struct{}{}}
		var running sync.WaitGroup
		for range 10 {
			c.add(&flakyShutdown{c, &running})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		running.Add(10)
		if err := c.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("shutdown with a context that is done: got %v, want its error", err)
		}
		running.Add(10)
		if err := c.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown again: %v", err)
		}
		if err := c.Shutdown(t.Context()); err != nil || len(c.all()) != 0 {
			t.Errorf("shutdown once more: %v, with %d left", err, len(c.all()))
		}
	})
}
