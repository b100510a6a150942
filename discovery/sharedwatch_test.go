package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// promptStore is a Store whose watches are Prompters. Each lists one entry, and has
// another one once it is prompted.
type promptStore struct {
	script // for the methods that are not used

	mu      sync.Mutex
	watches []*promptWatcher
	failing time.Duration // the first listing fails after it; zero: it succeeds
}

func (s *promptStore) Watch(context.Context, Query) (Watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &promptWatcher{number: uint64(len(s.watches)), failing: s.failing, prompts: make(chan struct{}, 1)}
	w.steps = listing(1)
	s.watches = append(s.watches, w)
	return w, nil
}

func (s *promptStore) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watches)
}

type promptWatcher struct {
	number  uint64
	failing time.Duration
	steps   []scriptStep
	prompts chan struct{}
}

func (w *promptWatcher) Prompt() { w.prompts <- struct{}{} }
func (w *promptWatcher) Close() error {
	w.steps = nil
	return nil
}

func (w *promptWatcher) Next(ctx context.Context) (Change, error) {
	if w.failing > 0 {
		if err := wait.Sleep(ctx, w.failing); err != nil {
			return Change{}, err
		}
		return Change{}, fmt.Errorf("watch %d: %w", w.number, errScriptEnds)
	}
	if len(w.steps) == 0 {
		select {
		case <-ctx.Done():
			return Change{}, ctx.Err()
		case <-w.prompts:
			now := Change{Op: OpProgress, AliveSince: time.Now()}
			w.steps = []scriptStep{after(time.Second, put(2, "a")), {time.Second, now}}
		}
	}
	step := w.steps[0]
	w.steps = w.steps[1:]
	return step.change, wait.Sleep(ctx, step.wait)
}

// follow records the events of a watch, as the time since a beginning and what they
// are, until ctx is done.
func follow(ctx context.Context, c *Client, begun time.Time) (events []string) {
	for ev, err := range c.Watch(ctx, Query{Kind: KindEndpoint}) {
		text := describe(ev)
		if err != nil {
			text = err.Error()
		}
		events = append(events, fmt.Sprint(time.Since(begun), " ", text))
	}
	return events
}

func TestSharedWatchesAreSyncedWhenTheFeedIsProven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &promptStore{}
		client := NewClient(store, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		var got [4][]string
		var watches sync.WaitGroup
		for i := range got {
			watches.Go(func() { got[i] = follow(ctx, client, begun) })
			<-time.After(10 * time.Second)
		}
		watches.Wait()
		for i, want := range [][]string{
			{"0s added 1 a", "0s synced", "1m0s context deadline exceeded"}, // never prompted
			{"10s added 1 a", "11s added 2 a", "12s synced", "1m0s context deadline exceeded"},
			{"20s added 1 a", "20s added 2 a", "22s synced", "1m0s context deadline exceeded"},
			{"30s added 1 a", "30s added 2 a", "32s synced", "1m0s context deadline exceeded"},
		} {
			if !slices.Equal(got[i], want) {
				t.Errorf("watch %d: got %q, want %q", i, got[i], want)
			}
		}
		if n := store.opened(); n != 2 {
			t.Errorf("the watches read the store %d times, want 2", n)
		}
		<-time.After(viewLinger)
		synctest.Wait() // or the bubble does not end: the feed has
	})
}

func TestSharedWatchesFailWithTheirFeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &promptStore{}
		client := NewClient(store, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var watches sync.WaitGroup
		watches.Go(func() { follow(ctx, client, time.Now()) })
		synctest.Wait()
		store.failing = 10 * time.Second
		begun := time.Now()
		var got [3][]string
		for i := range got {
			watches.Go(func() { got[i] = follow(ctx, client, begun) })
			<-time.After(3 * time.Second)
		}
		<-time.After(time.Minute)
		cancel()
		watches.Wait()
		const failed = " discovery: watch of kind Endpoint at \"\": watch "
		for i, want := range []string{
			"10s" + failed + "1: the script has ended",
			"20s" + failed + "2: the script has ended", // these began after the first feed
			"20s" + failed + "2: the script has ended",
		} {
			if len(got[i]) != 1 || got[i][0] != want {
				t.Errorf("watch %d: got %q, want %q", i, got[i], want)
			}
		}
	})
}

func TestShutdownEndsSharedWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := NewClient(&promptStore{}, Options{})
		ended := make(chan error, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var watches sync.WaitGroup
		for range cap(ended) {
			watches.Go(func() {
				for _, err := range client.Watch(ctx, Query{Kind: KindEndpoint}) {
					if err != nil {
						ended <- err
					}
				}
			})
			synctest.Wait()
		}
		if err := client.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) { // the other one reads the store
			t.Errorf("the shared watch ended with %v", err)
		}
		cancel()
		watches.Wait()
	})
}
