package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

// putModel writes the card of a model past the conflict check.
func putModel(t *testing.T, store discovery.Store, instance uint64, number int) discovery.Lease {
	t.Helper()
	model, err := discovery.NewModel(discovery.Scope{Namespace: "n", Component: "c", Endpoint: "e"},
		map[string]any{"display_name": "m", "number": number}, "")
	if err != nil {
		t.Fatal(err)
	}
	in := discovery.Instance{InstanceID: instance, Spec: model}
	value, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Register(t.Context(), in.ID(), value, discovery.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

type numberCard struct {
	Number int `json:"number"`
}

func TestWatchFieldOfManyModels(t *testing.T) {
	t.Parallel()
	const models, changes = 8_000, 1_000
	store := memory.New().Open()
	var leases []discovery.Lease
	for i := range models {
		leases = append(leases, putModel(t, store, uint64(i)+1, 0))
	}
	read := 0
	field := func(c numberCard) int { read++; return c.Number }
	first := true
	for view, err := range discovery.WatchField(t.Context(), discovery.NewClient(store, discovery.Options{}), discovery.Query{}, field) {
		if err != nil {
			t.Fatal(err)
		}
		if first {
			first = false
			if len(view) != models || read != models {
				t.Fatalf("first view of %d models after reading %d cards, want %d", len(view), read, models)
			}
			for i := range changes {
				putModel(t, store, uint64(i)+1, 7)
				if err := leases[models-1-i].Unregister(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		changed := 0
		for _, number := range view {
			changed += number / 7
		}
		if len(view) == models-changes && changed == changes {
			break
		}
	}
	if read != models+changes {
		t.Errorf("%d cards read, want each one once: %d", read, models+changes)
	}
}

func TestWatchFieldEndsWithItsContext(t *testing.T) {
	t.Parallel()
	store := memory.New().Open()
	putModel(t, store, 1, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	for view, err := range discovery.WatchField(ctx, discovery.NewClient(store, discovery.Options{}), discovery.Query{},
		func(c numberCard) int { return c.Number }) {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(view))
		putModel(t, store, 1, len(got))
		cancel()
	}
	if want := "[map[1:0] map[]]"; fmt.Sprint(got) != want {
		t.Errorf("views %v, want %s", got, want)
	}
}

// A store that shuts down ends the view with the reason, after the last changes.
func TestWatchFieldEndsWithItsStore(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	store := registry.Open()
	putModel(t, registry.Open(), 1, 5)
	var last error
	views := 0
	for _, err := range discovery.WatchField(t.Context(), discovery.NewClient(store, discovery.Options{}), discovery.Query{},
		func(c numberCard) int { return c.Number }) {
		if last = err; err != nil {
			continue
		}
		views++
		if err := store.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if views != 1 || !errors.Is(last, discovery.ErrClosed) {
		t.Errorf("%d views, then %v: want 1, then ErrClosed", views, last)
	}
}
