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
	client := NewClient(&script{steps: steps(
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
	client := NewClient(&script{steps: steps(play(OpReset), put(1, "a"))}, Options{})
	_, err := client.List(t.Context(), Query{Kind: KindEndpoint, Scope: Scope{Namespace: "ns"}})
	if !errors.Is(err, errScriptEnds) || !strings.HasPrefix(err.Error(), `discovery: watch of kind Endpoint at "ns"`) {
		t.Fatalf("got %v", err)
	}
}

func TestWarningsOfBadEntriesAreShort(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	huge := `{"type":"` + strings.Repeat("x", 3<<20) + `"}`
	client := NewClient(&script{steps: steps(play(OpReset), putRaw(1, huge), play(OpSynced))},
		Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := client.List(t.Context(), Query{Kind: KindEndpoint}); err != nil {
		t.Fatal(err)
	}
	if log.Len() > 1000 || !strings.Contains(log.String(), scriptID(1).Path()) {
		t.Errorf("a warning of %d bytes: %.500s", log.Len(), log.String())
	}
}

// blind is a store whose reads never show the writes, like a replica that no
// longer follows its leader.
type blind struct {
	script
	taken bool
}

func (b *blind) Register(context.Context, ID, []byte, RegisterOptions) (Lease, error) {
	return &blindLease{NewLeaseState(time.Now()), b}, nil
}

type blindLease struct {
	*LeaseState
	b *blind
}

func (l *blindLease) Update(context.Context, []byte) error { return nil }
func (l *blindLease) Unregister(ctx context.Context) error { l.b.taken = true; return ctx.Err() }

func TestModelThatNeverShowsIsTakenBack(t *testing.T) {
	t.Parallel()
	model := Model{Scope: Scope{"ns", "comp", "ep"}, Card: json.RawMessage(`{"display_name":"mine"}`)}
	synctest.Test(t, func(t *testing.T) {
		store := &blind{script: script{steps: steps(listing(), quiet(time.Minute))}}
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

// TestIdentityInOnePass: a card that is read in one pass has the identity that
// encoding/json reads.
func TestIdentityInOnePass(t *testing.T) {
	t.Parallel()
	for card, plain := range map[string]bool{
		`{"display_name":"m"}`: true,
		`{"display_name":"m","source_path":"a/b","lora":{"name":"x"},"runtime_config":{"display_name":7}}`: true,
		`{"display_name":"m","source_path":7,"lora":null}`:                                                 true,
		`{"display_name":"m","source_path":null,"lora":0}`:                                                 true,
		`{"display_name":"m\u0041"}`:                                                                       false,
		`{"display_name":"m","source_path":"a\/b"}`:                                                        false,
		`{"display_name":"m","display_name":"n"}`:                                                          false,
		`{"Display_Name":"m"}`:                                                                             false,
		`{"display_name":"m"`:                                                                              false,
		`{"display_name":null}`:                                                                            false,
		`{"display_name":5}`:                                                                               false,
		`{}`:                                                                                               false,
		`null`:                                                                                             false,
		`[]`:                                                                                               false,
		``:                                                                                                 false,
		"{\"display_name\":\"\xff\"}":                                                                      false,
		`{"display_name":"m","source_path":{"a":"b"}}`:                                                     true,
	} {
		got, ok := plainIdentity([]byte(card))
		if ok != plain {
			t.Errorf("%s is read in one pass: %v, want %v", card, ok, plain)
		}
		if want, err := anyIdentity([]byte(card)); ok && (err != nil || got != want) {
			t.Errorf("%s has the identity %+v, want %+v, %v", card, got, want, err)
		}
	}
}
