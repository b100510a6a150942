package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	scope := discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}
	card := json.RawMessage(`{"display_name":"m"}`)
	for _, c := range []struct {
		name string
		spec discovery.Spec
		want string
	}{
		{"no scope", discovery.Endpoint{Transport: discovery.TCP("x")}, "want a namespace"},
		{"no component", discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "", Endpoint: "ep"}, Transport: discovery.TCP("x")}, `namespace "ns" and endpoint "ep": want a component`},
		{"no endpoint", discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: ""}, Transport: discovery.TCP("x")}, "want namespace, component and endpoint"},
		{"no request transport", discovery.Endpoint{Scope: scope}, "no transport: want TCP(address) or NATSTCP(address)"},
		{"another device", discovery.Endpoint{Scope: scope, Transport: discovery.TCP("x"), Device: "tpu"}, `device "tpu": want cpu, cuda or none`},
		{"not UTF-8", discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "\xff"}, Transport: discovery.TCP("x")}, `name "\xff" is not UTF-8`},
		{"no topic", discovery.EventChannel{Scope: scope, Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}}, "want a topic"},
		{"no transport", discovery.EventChannel{Scope: scope, Topic: "t"}, "want NATS, ZMQ or ZMQBroker"},
		{"no card", discovery.Model{Scope: scope}, "card of model at ns/comp/ep"},
		{"no display name", discovery.Model{Scope: scope, Card: json.RawMessage(`{}`)}, "no display_name: want a string"},
		{"display name of another type", discovery.Model{Scope: scope, Card: json.RawMessage(`{"display_name":5}`)}, "display_name"},
		{"suffix not UTF-8", discovery.Model{Scope: scope, Card: card, Suffix: "\xff"}, "not UTF-8"},
		{"pointer to a spec", &discovery.Endpoint{Scope: scope, Transport: discovery.TCP("x")}, "*discovery.Endpoint: want Endpoint, Model, EventChannel or EventSource"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := discovery.NewClient(memory.New().Open(), discovery.Options{}).Register(t.Context(), c.spec)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "discovery: register") {
				t.Fatalf("got %v, want one that contains %s", err, c.want)
			}
			if n := strings.Count(err.Error(), "discovery: "); n != 1 {
				t.Errorf("the package is named %d times: %v", n, err)
			}
		})
	}
}

func TestRegisterInstanceWithoutASpecIsRefused(t *testing.T) {
	t.Parallel()
	_, err := discovery.NewClient(memory.New().Open(), discovery.Options{}).RegisterInstance(t.Context(), discovery.Instance{InstanceID: 1})
	if err == nil || !strings.Contains(err.Error(), "no spec") {
		t.Errorf("got %v, want one that names what is missing", err)
	}
}

func TestEventsPrintWithoutAnInstance(t *testing.T) {
	t.Parallel()
	synced := discovery.Event{Type: discovery.Synced}
	if id := synced.Instance.ID(); id != (discovery.ID{}) || id.String() != "" {
		t.Errorf("the id of Synced is %v, want the zero ID with an empty path", id)
	}
	added := discovery.Event{Type: discovery.Added, Instance: discovery.Instance{
		InstanceID: 0x2a,
		Spec:       discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}},
	}}
	for _, c := range []struct {
		event discovery.Event
		want  string
	}{{synced, "synced"}, {added, "added ns/comp/ep/2a"}} {
		if got := c.event.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// rival is a store in which another model appears just before one is registered,
// after the first check, and which may be unable to take the registration back.
type rival struct {
	discovery.Store
	registry   *memory.Registry
	unregister error
}

type rivalLease struct {
	discovery.Lease
	err error
}

func (s *rival) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	rival := id
	rival.Instance++
	other := discovery.Instance{InstanceID: rival.Instance, Spec: discovery.Model{Scope: id.Scope, Card: json.RawMessage(`{"display_name":"rival"}`)}}
	otherValue, err := json.Marshal(other)
	if err != nil {
		return nil, err
	}
	if _, err := s.registry.Open().Register(ctx, rival, otherValue, o); err != nil {
		return nil, err
	}
	lease, err := s.Store.Register(ctx, id, value, o)
	if err != nil {
		return nil, err
	}
	return &rivalLease{lease, s.unregister}, nil
}

func (l *rivalLease) Unregister(ctx context.Context) error {
	if l.err != nil {
		return l.err
	}
	return l.Lease.Unregister(ctx)
}

func TestConflictFoundAfterTheRegistration(t *testing.T) {
	t.Parallel()
	model := discovery.Model{Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}, Card: json.RawMessage(`{"display_name":"mine"}`)}
	broken := errors.New("the store is broken")
	for _, undo := range []error{nil, broken} {
		registry := memory.New()
		client := discovery.NewClient(&rival{registry.Open(), registry, undo}, discovery.Options{})
		_, err := client.RegisterAs(t.Context(), 1, model)
		if !errors.Is(err, discovery.ErrModelConflict) || errors.Is(err, broken) != (undo != nil) {
			t.Fatalf("got %v, want ErrModelConflict and %v", err, undo)
		}
		for _, part := range []string{`"mine"`, "ns/comp/ep", `"rival"`} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not name %s", err, part)
			}
		}
		list, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindModel})
		if want := 1; undo == nil && (err != nil || len(list) != want) {
			t.Errorf("%d models are left, %v, want only the rival", len(list), err)
		}
	}
}

// competitor is a store in which the caller's source is registered with other metadata
// just before it is written, after the first check.
type competitor struct {
	discovery.Store
	registry *memory.Registry
	metadata string
}

func (s *competitor) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	if s.metadata != "" {
		source := discovery.EventSource{Scope: id.Scope, Topic: id.Topic, Metadata: json.RawMessage(s.metadata)}
		s.metadata = ""
		value, err := json.Marshal(discovery.Instance{InstanceID: id.Instance, Spec: source})
		if err != nil {
			return nil, err
		}
		if _, err := s.registry.Open().Register(ctx, id, value, discovery.RegisterOptions{}); err != nil {
			return nil, err
		}
	}
	return s.Store.Register(ctx, id, value, o)
}

// TestSourcesRegisteredAtOnce: with other metadata, only the first one succeeds.
func TestSourcesRegisteredAtOnce(t *testing.T) {
	t.Parallel()
	source := discovery.EventSource{Scope: generate, Topic: "t", Metadata: json.RawMessage(`{"a":1}`)}
	for metadata, want := range map[string]error{`{"a":2}`: discovery.ErrSourceConflict, `{"a": 1}`: nil} {
		registry := memory.New()
		client := discovery.NewClient(&competitor{registry.Open(), registry, metadata}, discovery.Options{})
		if _, err := client.RegisterAs(t.Context(), 1, source); !errors.Is(err, want) {
			t.Errorf("beside %s: got %v, want %v", metadata, err, want)
		}
		in, err := client.Get(t.Context(), source.ID(1))
		if err != nil || want != nil && !strings.Contains(string(in.Raw), metadata) {
			t.Errorf("beside %s: the store has %s, %v", metadata, in.Raw, err)
		}
	}
}

func TestCardsThatCannotBeReadDoNotBlock(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	scope := discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}
	for i, card := range []string{`{}`, `5`, `null`, `{"display_name":null}`} {
		id := discovery.Model{Scope: scope}.ID(uint64(i))
		value := []byte(`{"type":"Model","namespace":"ns","component":"comp","endpoint":"ep","instance_id":` + string(rune('0'+i)) + `,"card_json":` + card + `}`)
		if _, err := registry.Open().Register(t.Context(), id, value, discovery.RegisterOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client := discovery.NewClient(registry.Open(), discovery.Options{InstanceID: 99})
	reg, err := client.Register(t.Context(), discovery.Model{Scope: scope, Card: json.RawMessage(`{"display_name":"m"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if client.InstanceID() != 99 || reg.Instance().InstanceID != 99 {
		t.Errorf("registered as %d", reg.Instance().InstanceID)
	}
	if client.Stats().InvalidEntries == 0 {
		t.Error("the bad cards are not counted")
	}
}
