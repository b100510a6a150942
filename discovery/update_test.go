package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

var generate = discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}

func modelNamed(name string) discovery.Model {
	return discovery.Model{Scope: generate, Card: json.RawMessage(`{"display_name":"` + name + `"}`)}
}

func registerAs(t *testing.T, c *discovery.Client, instance uint64, spec discovery.Spec) *discovery.Registration {
	t.Helper()
	reg, err := c.RegisterAs(t.Context(), instance, spec)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

func TestUpdateRefuses(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	c := discovery.NewClient(registry.Open(), discovery.Options{})
	endpoint := registerAs(t, c, 1, discovery.Endpoint{Scope: generate, Transport: discovery.TCP("a")})
	model := registerAs(t, c, 1, modelNamed("m"))
	registerAs(t, c, 2, modelNamed("m"))
	source := registerAs(t, c, 1, discovery.EventSource{Scope: generate, Topic: "t", Metadata: json.RawMessage(`{"a":1}`)})
	elsewhere := discovery.Endpoint{Scope: generate, Transport: discovery.TCP("a")}
	elsewhere.Scope.Endpoint = "other"
	for _, c := range []struct {
		name string
		reg  *discovery.Registration
		spec discovery.Spec
		is   error
		want string
	}{
		{"no spec", endpoint, nil, nil, "no spec"},
		{"another id", endpoint, elsewhere, nil, "ns/comp/other/1"},
		{"another kind", endpoint, modelNamed("m"), nil, "Model"},
		{"an invalid spec", endpoint, discovery.Endpoint{Scope: generate}, nil, "no transport"},
		{"a card without a name", model, discovery.Model{Scope: generate, Card: json.RawMessage(`{}`)}, nil, "display_name"},
		{"a conflicting model", model, modelNamed("other"), discovery.ErrModelConflict, `"m"`},
		{"a source that changes", source, discovery.EventSource{Scope: generate, Topic: "t", Metadata: json.RawMessage(`{"a":2}`)}, discovery.ErrSourceConflict, "discovery: update namespace/ns/"},
	} {
		former := c.reg.Instance()
		err := c.reg.Update(t.Context(), c.spec)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "discovery: ") != 1 {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
		if !reflect.DeepEqual(c.reg.Instance(), former) {
			t.Errorf("%s: the registration has changed to %+v", c.name, c.reg.Instance())
		}
	}
}

// TestUpdateOfAModel: its only model can be renamed, and a conflict that appears
// meanwhile restores the former value.
func TestUpdateOfAModel(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	store := &rivalUpdate{Store: registry.Open(), registry: registry}
	c := discovery.NewClient(store, discovery.Options{})
	reg := registerAs(t, c, 1, modelNamed("first"))
	if err := reg.Update(t.Context(), modelNamed("second")); err != nil {
		t.Fatal(err)
	}
	store.appear = true
	if err := reg.Update(t.Context(), modelNamed("third")); !errors.Is(err, discovery.ErrModelConflict) {
		t.Fatalf("got %v, want ErrModelConflict", err)
	}
	in, err := c.Get(t.Context(), reg.Instance().ID())
	if err != nil || !strings.Contains(string(in.Spec.(discovery.Model).Card), "second") {
		t.Errorf("got %s, %v, want the second card", in.Raw, err)
	}
	if card := string(reg.Instance().Spec.(discovery.Model).Card); !strings.Contains(card, "second") {
		t.Errorf("the registration has the card %s", card)
	}
}

// rivalUpdate is a store in which a rival of a model appears when it is updated.
type rivalUpdate struct {
	discovery.Store
	registry *memory.Registry
	appear   bool
}

type rivalUpdateLease struct {
	discovery.Lease
	store *rivalUpdate
}

func (s *rivalUpdate) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	lease, err := s.Store.Register(ctx, id, value, o)
	return &rivalUpdateLease{lease, s}, err
}

func (l *rivalUpdateLease) Update(ctx context.Context, value []byte) error {
	if l.store.appear {
		l.store.appear = false
		rival := discovery.Instance{InstanceID: 9, Spec: modelNamed("rival")}
		json, err := rival.MarshalJSON()
		if err != nil {
			return err
		}
		if _, err := l.store.registry.Open().Register(ctx, rival.ID(), json, discovery.RegisterOptions{}); err != nil {
			return err
		}
	}
	return l.Lease.Update(ctx, value)
}

// TestInstanceDuringUpdates: Instance and Update may be called at once.
func TestInstanceDuringUpdates(t *testing.T) {
	t.Parallel()
	c := discovery.NewClient(memory.New().Open(), discovery.Options{})
	reg := registerAs(t, c, 1, discovery.Endpoint{Scope: generate, Transport: discovery.TCP("0")})
	var group sync.WaitGroup
	for _, address := range []string{"1", "2", "3", "4"} {
		group.Go(func() {
			for range 100 {
				if err := reg.Update(t.Context(), discovery.Endpoint{Scope: generate, Transport: discovery.TCP(address)}); err != nil {
					t.Error(err)
				}
				_ = reg.Instance().ID()
			}
		})
	}
	group.Wait()
	in, err := c.Get(t.Context(), reg.Instance().ID())
	if err != nil || !reflect.DeepEqual(in.Spec, reg.Instance().Spec) {
		t.Errorf("the store has %+v, %v, and the registration %+v", in, err, reg.Instance())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reg.Update(canceled, discovery.Endpoint{Scope: generate, Transport: discovery.TCP("5")}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("update with a canceled context: %v", err)
	}
}

// TestChangedValuesWithoutUpdates: by default a changed value is Added again, without
// the previous one.
func TestChangedValuesWithoutUpdates(t *testing.T) {
	t.Parallel()
	c := discovery.NewClient(memory.New().Open(), discovery.Options{})
	reg := registerAs(t, c, 1, discovery.Endpoint{Scope: generate, Transport: discovery.TCP("0")})
	var got []string
	for ev, err := range c.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev.String())
		if ev.Previous.Spec != nil {
			t.Errorf("%v has the previous value %+v", ev, ev.Previous)
		}
		if ev.Type == discovery.Synced {
			if err := reg.Update(t.Context(), discovery.Endpoint{Scope: generate, Transport: discovery.TCP("1")}); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) == 3 {
			break
		}
	}
	if want := "added ns/comp/ep/1, synced, added ns/comp/ep/1"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGetOfAnEntryThatIsNotValid(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	c := discovery.NewClient(registry.Open(), discovery.Options{})
	id := modelNamed("m").ID(1)
	if _, err := registry.Open().Register(t.Context(), id, []byte(`{"type":"Model"}`), discovery.RegisterOptions{}); err != nil {
		t.Fatal(err)
	}
	if in, err := c.Get(t.Context(), id); err == nil || errors.Is(err, discovery.ErrNotFound) || c.Stats().InvalidEntries != 1 {
		t.Errorf("got %+v, %v, want another error, and the entry counted", in, err)
	}
	if _, err := c.Get(t.Context(), discovery.ID{Kind: discovery.KindModel}); err == nil || errors.Is(err, discovery.ErrNotFound) {
		t.Errorf("got %v for an invalid id, want another error", err)
	}
}

// TestUpdateKeepsUnknownFields of an instance that was registered with a Raw.
func TestUpdateKeepsUnknownFields(t *testing.T) {
	t.Parallel()
	c := discovery.NewClient(memory.New().Open(), discovery.Options{})
	var in discovery.Instance
	if err := json.Unmarshal([]byte(`{"type":"Endpoint","namespace":"ns","component":"comp","endpoint":"ep","instance_id":1,"transport":{"tcp":"a"},"new":7}`), &in); err != nil {
		t.Fatal(err)
	}
	reg, err := c.RegisterInstance(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	spec := discovery.Endpoint{Scope: generate, Transport: discovery.TCP("b")}
	if err := reg.Update(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(t.Context(), in.ID())
	if err != nil || !reflect.DeepEqual(got.Spec, spec) || !strings.Contains(string(got.Raw), `"new":7`) || !reflect.DeepEqual(got, reg.Instance()) {
		t.Errorf("got %s, %v, and the registration is %+v", got.Raw, err, reg.Instance())
	}
}
