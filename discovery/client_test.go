package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestListTakesTheLastOfWhatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	client := NewClient(&script{steps(
		play(OpReset), put(3, "a"), put(1, "a"), put(2, "a"), put(1, "b"), gone(2, CauseUnregistered), play(OpSynced),
	)}, Options{})
	for range 20 { // a map would have it in any order
		list, err := client.List(t.Context(), Query{Kind: KindEndpoint})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, in := range list {
			got = append(got, in.ID().Path()+" "+in.Spec.(Endpoint).Transport.Address)
		}
		if s := strings.Join(got, ", "); s != "ns/comp/ep/1 b, ns/comp/ep/3 a" {
			t.Fatalf("listed %s", s)
		}
	}
}

func TestListFailsWithItsWatch(t *testing.T) {
	t.Parallel()
	client := NewClient(&script{steps(play(OpReset), put(1, "a"))}, Options{})
	_, err := client.List(t.Context(), Query{Kind: KindEndpoint, Scope: Scope{Namespace: "ns"}})
	if !errors.Is(err, errScriptEnds) || !strings.HasPrefix(err.Error(), `discovery: watch of kind Endpoint at "ns"`) {
		t.Fatalf("got %v", err)
	}
}

func TestWarningsOfBadEntriesAreShort(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	huge := `{"type":"` + strings.Repeat("x", 3<<20) + `"}`
	client := NewClient(&script{steps(play(OpReset), putRaw(1, huge), play(OpSynced))},
		Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := client.List(t.Context(), Query{Kind: KindEndpoint}); err != nil {
		t.Fatal(err)
	}
	if log.Len() > 1000 || !strings.Contains(log.String(), scriptID(1).Path()) {
		t.Errorf("a warning of %d bytes: %.500s", log.Len(), log.String())
	}
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	scope := Scope{"ns", "comp", "ep"}
	card := json.RawMessage(`{"display_name":"m"}`)
	for _, c := range []struct {
		name string
		spec Spec
		want string
	}{
		{"no scope", Endpoint{Transport: TCP("x")}, "want a namespace"},
		{"no component", Endpoint{Scope: Scope{"ns", "", "ep"}, Transport: TCP("x")}, `namespace "ns" and endpoint "ep": want a component`},
		{"no endpoint", Endpoint{Scope: Scope{"ns", "comp", ""}, Transport: TCP("x")}, "want namespace, component and endpoint"},
		{"no request transport", Endpoint{Scope: scope}, "no transport: want TCP(address) or NATSTCP(address)"},
		{"another device", Endpoint{Scope: scope, Transport: TCP("x"), Device: "tpu"}, `device "tpu": want cpu, cuda or none`},
		{"not UTF-8", Endpoint{Scope: Scope{"ns", "comp", "\xff"}, Transport: TCP("x")}, `name "\xff" is not UTF-8`},
		{"no topic", EventChannel{Scope: scope, Transport: ZMQ{"tcp://127.0.0.1:1"}}, "want a topic"},
		{"no transport", EventChannel{Scope: scope, Topic: "t"}, "want NATS, ZMQ or ZMQBroker"},
		{"no card", Model{Scope: scope}, "card of model at ns/comp/ep"},
		{"no display name", Model{Scope: scope, Card: json.RawMessage(`{}`)}, "no display_name: want a string"},
		{"display name of another type", Model{Scope: scope, Card: json.RawMessage(`{"display_name":5}`)}, "display_name"},
		{"suffix not UTF-8", Model{Scope: scope, Card: card, Suffix: "\xff"}, "not UTF-8"},
		{"pointer to a spec", &Endpoint{Scope: scope, Transport: TCP("x")}, "*discovery.Endpoint: want Endpoint, Model, EventChannel or EventSource"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewClient(NewMemory().Open(), Options{}).Register(t.Context(), c.spec)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "discovery: register") {
				t.Fatalf("got %v, want one that says %s", err, c.want)
			}
			if n := strings.Count(err.Error(), "discovery: "); n != 1 {
				t.Errorf("the package is named %d times: %v", n, err)
			}
		})
	}
}

// rival is a store in which another model appears as soon as one is
// registered, and which may be unable to take the registration back.
type rival struct {
	Store
	registry   *Memory
	unregister error
}

type rivalLease struct {
	Lease
	err error
}

func (s *rival) Register(ctx context.Context, id ID, value []byte) (Lease, error) {
	lease, err := s.Store.Register(ctx, id, value)
	if err != nil {
		return nil, err
	}
	id.Instance++
	other := Instance{InstanceID: id.Instance, Spec: Model{Scope: id.Scope, Card: json.RawMessage(`{"display_name":"rival"}`)}}
	value, err = json.Marshal(other)
	if err != nil {
		return nil, err
	}
	if _, err := s.registry.Open().Register(ctx, id, value); err != nil {
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
	model := Model{Scope: Scope{"ns", "comp", "ep"}, Card: json.RawMessage(`{"display_name":"mine"}`)}
	broken := errors.New("the store is broken")
	for _, undo := range []error{nil, broken} {
		registry := NewMemory()
		client := NewClient(&rival{registry.Open(), registry, undo}, Options{})
		_, err := client.RegisterAs(t.Context(), 1, model)
		if !errors.Is(err, ErrModelConflict) || errors.Is(err, broken) != (undo != nil) {
			t.Fatalf("got %v, want ErrModelConflict and %v", err, undo)
		}
		for _, part := range []string{`"mine"`, "ns/comp/ep", `"rival"`} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not name %s", err, part)
			}
		}
		list, err := client.List(t.Context(), Query{Kind: KindModel})
		if want := 1; undo == nil && (err != nil || len(list) != want) {
			t.Errorf("%d models are left, %v, want the rival alone", len(list), err)
		}
	}
}

// blind is a store whose reads never show what was written, as a replica that
// has been left behind.
type blind struct {
	script
	taken bool
}

func (b *blind) Register(context.Context, ID, []byte) (Lease, error) { return &blindLease{b}, nil }

type blindLease struct{ b *blind }

func (l *blindLease) Unregister(ctx context.Context) error { l.b.taken = true; return ctx.Err() }
func (l *blindLease) Wait(ctx context.Context) error       { <-ctx.Done(); return ctx.Err() }

func TestModelThatNeverShowsIsTakenBack(t *testing.T) {
	t.Parallel()
	model := Model{Scope: Scope{"ns", "comp", "ep"}, Card: json.RawMessage(`{"display_name":"mine"}`)}
	synctest.Test(t, func(t *testing.T) {
		store := &blind{script: script{listing()}}
		begin := time.Now()
		_, err := NewClient(store, Options{}).Register(t.Context(), model)
		if !errors.Is(err, context.DeadlineExceeded) || !store.taken {
			t.Errorf("got %v, taken back %v", err, store.taken)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestCompatibleModels(t *testing.T) {
	t.Parallel()
	identity := func(suffix, card string) modelIdentity {
		id, err := Model{Suffix: suffix, Card: json.RawMessage(card)}.identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	base := identity("", `{"display_name":"llama","source_path":"meta/llama"}`)
	for _, c := range []struct {
		name  string
		other modelIdentity
		want  bool
	}{
		{"same name", identity("", `{"display_name":"llama"}`), true},
		{"another name", identity("", `{"display_name":"qwen"}`), false},
		{"another name of the same path", identity("", `{"display_name":"qwen","source_path":"meta/llama"}`), false},
		{"same name of another path", identity("", `{"display_name":"llama","source_path":"x"}`), true},
		{"adapter by suffix, of this path", identity("s", `{"display_name":"lora","source_path":"meta/llama"}`), true},
		{"adapter by field, of this path", identity("", `{"display_name":"lora","source_path":"meta/llama","lora":{}}`), true},
		{"adapter of another path", identity("s", `{"display_name":"llama","source_path":"x"}`), false},
		{"adapter that names its base by name", identity("s", `{"display_name":"meta/llama"}`), true},
		{"null lora is none", identity("", `{"display_name":"lora","source_path":"meta/llama","lora":null}`), false},
		{"a path that is no string is none", identity("s", `{"display_name":"meta/llama","source_path":7}`), true},
	} {
		if got := base.compatible(c.other); got != c.want {
			t.Errorf("%s: compatible is %v", c.name, got)
		}
		if base.compatible(c.other) != c.other.compatible(base) {
			t.Errorf("%s: it matters who comes first", c.name)
		}
	}
}

func TestCardsThatCannotBeReadDoNotBlock(t *testing.T) {
	t.Parallel()
	registry := NewMemory()
	scope := Scope{"ns", "comp", "ep"}
	for i, card := range []string{`{}`, `5`, `null`, `{"display_name":null}`} {
		id := Model{Scope: scope}.ID(uint64(i))
		value := []byte(`{"type":"Model","namespace":"ns","component":"comp","endpoint":"ep","instance_id":` + string(rune('0'+i)) + `,"card_json":` + card + `}`)
		if _, err := registry.Open().Register(t.Context(), id, value); err != nil {
			t.Fatal(err)
		}
	}
	client := NewClient(registry.Open(), Options{InstanceID: 99})
	reg, err := client.Register(t.Context(), Model{Scope: scope, Card: json.RawMessage(`{"display_name":"m"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if client.InstanceID() != 99 || reg.Instance.InstanceID != 99 {
		t.Errorf("registered as %d", reg.Instance.InstanceID)
	}
	if client.Stats().InvalidEntries == 0 {
		t.Error("the bad cards are not counted")
	}
}
