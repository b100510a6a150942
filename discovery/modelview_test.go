package discovery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/internal/wait"
)

// countingStore counts its watches and the changes that they have delivered.
type countingStore struct {
	discovery.Store
	opened, closed, delivered atomic.Int64

	drop    func(discovery.Change) bool // changes that the watches do not deliver; nil for none
	written func()                      // called after each registration; nil for nothing
}

type countingWatcher struct {
	discovery.Watcher
	store *countingStore
}

func (s *countingStore) Watch(ctx context.Context, q discovery.Query) (discovery.Watcher, error) {
	w, err := s.Store.Watch(ctx, q)
	if err != nil {
		return nil, err
	}
	s.opened.Add(1)
	return &countingWatcher{w, s}, nil
}

func (s *countingStore) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	lease, err := s.Store.Register(ctx, id, value, o)
	if err == nil && s.written != nil {
		s.written()
	}
	return lease, err
}

func (w *countingWatcher) Next(ctx context.Context) (discovery.Change, error) {
	ch, err := w.Watcher.Next(ctx)
	w.store.delivered.Add(1)
	if err == nil && w.store.drop != nil && w.store.drop(ch) {
		return discovery.Change{Op: discovery.OpProgress, More: ch.More}, nil
	}
	return ch, err
}

func (w *countingWatcher) Close() error {
	w.store.closed.Add(1)
	return w.Watcher.Close()
}

// TestModelsAreReadOncePerBurst: registrations at once, and soon one after another,
// share one watch, whatever the number of models; it is closed when it is idle.
func TestModelsAreReadOncePerBurst(t *testing.T) {
	t.Parallel()
	const present, burst = 200, 64
	synctest.Test(t, func(t *testing.T) {
		registry := memory.New()
		others := discovery.NewClient(registry.Open(), discovery.Options{})
		for i := range uint64(present) {
			registerAs(t, others, i, modelNamed("m"))
		}
		store := &countingStore{Store: registry.Open()}
		c := discovery.NewClient(store, discovery.Options{})
		var group sync.WaitGroup
		for i := range uint64(burst) {
			group.Go(func() {
				if _, err := c.RegisterAs(t.Context(), present+i, modelNamed("m")); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for i := range uint64(burst) {
			_ = wait.Sleep(t.Context(), time.Second)
			registerAs(t, c, present+burst+i, modelNamed("m"))
		}
		if n := store.opened.Load(); n != 1 {
			t.Errorf("%d watches were opened, want one", n)
		}
		if n := store.delivered.Load(); n > present+2*burst+2 {
			t.Errorf("%d changes were delivered, want each model once", n)
		}
		_ = wait.Sleep(t.Context(), 10*time.Second)
		if n := store.closed.Load(); n != 1 {
			t.Errorf("%d of one watch is closed after the last registration", n)
		}
		registerAs(t, c, 9999, modelNamed("m"))
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if opened, closed := store.opened.Load(), store.closed.Load(); opened != 2 || closed != 2 {
			t.Errorf("%d watches were opened and %d closed at the end, want two", opened, closed)
		}
	})
}

// TestOneNameWins: of conflicting models that many clients register at once, those
// of one name win at most.
func TestOneNameWins(t *testing.T) {
	t.Parallel()
	for range 30 {
		registry := memory.New()
		var group sync.WaitGroup
		var mu sync.Mutex
		won := map[string]bool{}
		for i := range uint64(8) {
			c := discovery.NewClient(registry.Open(), discovery.Options{})
			name := fmt.Sprint("model-", i%2)
			group.Go(func() {
				for j := range uint64(4) {
					_, err := c.RegisterAs(t.Context(), 100*i+j, modelNamed(name))
					mu.Lock()
					won[name] = won[name] || err == nil
					mu.Unlock()
					if err != nil && !errors.Is(err, discovery.ErrModelConflict) {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if won["model-0"] && won["model-1"] {
			t.Fatal("conflicting models are registered")
		}
		c := discovery.NewClient(registry.Open(), discovery.Options{})
		found, err := c.List(t.Context(), discovery.Query{Kind: discovery.KindModel})
		if err != nil || (len(found) > 0) != (won["model-0"] || won["model-1"]) {
			t.Fatalf("%d models are listed, %v, and won are %v", len(found), err, won)
		}
	}
}

// TestAModelThatIsGoneDoesNotConflict: the view may be late, and the store decides.
func TestAModelThatIsGoneDoesNotConflict(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	hidden := func(ch discovery.Change) bool { return ch.Op == discovery.OpDelete }
	c := discovery.NewClient(&countingStore{Store: registry.Open(), drop: hidden}, discovery.Options{})
	for i := range uint64(3) {
		reg := registerAs(t, c, i, modelNamed(fmt.Sprint("m", i)))
		if _, err := c.RegisterAs(t.Context(), 99, modelNamed("other")); !errors.Is(err, discovery.ErrModelConflict) {
			t.Fatalf("got %v, want ErrModelConflict", err)
		}
		if err := reg.Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnchangedModelIsRegisteredAgain, though the store reports no change.
func TestUnchangedModelIsRegisteredAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := memory.New()
		values := map[discovery.ID][]byte{}
		listing := true
		unchanged := func(ch discovery.Change) bool {
			switch ch.Op {
			case discovery.OpReset:
				listing = true
			case discovery.OpSynced:
				listing = false
			case discovery.OpPut:
				drop := !listing && bytes.Equal(values[ch.ID], ch.Value)
				values[ch.ID] = ch.Value
				return drop
			}
			return false
		}
		c := discovery.NewClient(&countingStore{Store: registry.Open(), drop: unchanged}, discovery.Options{})
		defer func() { _ = c.Shutdown(context.WithoutCancel(t.Context())) }()
		registerAs(t, c, 1, modelNamed("m"))
		begin := time.Now()
		registerAs(t, c, 1, modelNamed("m"))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestCanceledAfterTheWrite: the registration either succeeds, or is taken back.
func TestCanceledAfterTheWrite(t *testing.T) {
	t.Parallel()
	for _, blind := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			registry := memory.New()
			ctx, cancel := context.WithCancel(t.Context())
			store := &countingStore{Store: registry.Open(), written: cancel}
			if blind {
				store.drop = func(ch discovery.Change) bool { return ch.Op == discovery.OpPut }
			}
			c := discovery.NewClient(store, discovery.Options{})
			defer func() { _ = c.Shutdown(context.WithoutCancel(t.Context())) }()
			begin := time.Now()
			reg, err := c.RegisterAs(ctx, 1, modelNamed("m"))
			if (err != nil) != blind {
				t.Errorf("blind %v: got %v", blind, err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("blind %v: took %v", blind, took)
			}
			_, err = c.Get(t.Context(), modelNamed("m").ID(1))
			if (reg != nil) != (err == nil) || err != nil && !errors.Is(err, discovery.ErrNotFound) {
				t.Errorf("blind %v: the registration is %v, and the entry %v", blind, reg, err)
			}
		})
	}
}

// TestAnotherCallerReadsOn: if the caller that reads the watch is canceled, another
// one continues.
func TestAnotherCallerReadsOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		store := &countingStore{Store: memory.New().Open(), drop: func(ch discovery.Change) bool {
			if ch.Op == discovery.OpSynced {
				<-gate
			}
			return false
		}}
		c := discovery.NewClient(store, discovery.Options{})
		defer func() { _ = c.Shutdown(context.WithoutCancel(t.Context())) }()
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() {
			_, err := c.RegisterAs(ctx, 1, modelNamed("m"))
			errs <- err
		}()
		synctest.Wait() // it reads the listing
		go func() {
			_, err := c.RegisterAs(t.Context(), 2, modelNamed("m"))
			errs <- err
		}()
		waiting, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if _, err := c.RegisterAs(waiting, 3, modelNamed("m")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that waits for the reader: %v, want the error of its context", err)
		}
		cancel()
		close(gate)
		first, second := <-errs, <-errs
		if first != nil && second != nil {
			t.Errorf("got %v and %v, want the second caller to succeed", first, second)
		}
	})
}

// TestShutdownEndsTheRegistrationOfAModel that waits for its endpoint's models.
func TestShutdownEndsTheRegistrationOfAModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{Store: memory.New().Open(), drop: func(ch discovery.Change) bool { return ch.Op == discovery.OpSynced }}
		c := discovery.NewClient(store, discovery.Options{})
		errs := make(chan error)
		for i := range uint64(3) {
			go func() {
				_, err := c.RegisterAs(t.Context(), i, modelNamed("m"))
				errs <- err
			}()
		}
		synctest.Wait()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := <-errs; !errors.Is(err, discovery.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		synctest.Wait()
		if opened, closed := store.opened.Load(), store.closed.Load(); opened != closed {
			t.Errorf("%d watches were opened, and %d closed", opened, closed)
		}
	})
}

// TestManyAdapters: each adapter has a name of its own, and one base.
func TestManyAdapters(t *testing.T) {
	t.Parallel()
	c := discovery.NewClient(memory.New().Open(), discovery.Options{})
	adapter := func(i uint64, base string) discovery.Model {
		return discovery.Model{
			Scope: generate, Suffix: fmt.Sprint("lora-", i),
			Card: json.RawMessage(fmt.Sprintf(`{"display_name":"lora-%d","source_path":%q,"lora":{}}`, i, base)),
		}
	}
	registerAs(t, c, 1, modelNamed("base"))
	for i := range uint64(20) {
		registerAs(t, c, 1, adapter(i, "base"))
	}
	_, err := c.RegisterAs(t.Context(), 2, adapter(99, "elsewhere"))
	if !errors.Is(err, discovery.ErrModelConflict) || !strings.Contains(err.Error(), `"lora-99"`) {
		t.Errorf("got %v, want ErrModelConflict", err)
	}
}
