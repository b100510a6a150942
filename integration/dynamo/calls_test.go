package dynamo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/certtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/requestplane"
)

// TestCalls calls the endpoints of a real worker, and has a real router, which is
// started late, request the blocks of a worker of ours.
func TestCalls(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		tls     bool // mutual; the older generation has none
	}{{dynamotest.Gen2, false}, {dynamotest.Gen2, true}, {dynamotest.Gen1, false}} {
		t.Run(fmt.Sprintf("%s/TLS %t", c.version, c.tls), func(t *testing.T) {
			t.Parallel()
			for name, part := range map[string]func(*place, *testing.T){"ours": (*place).callTheirs, "theirs": (*place).answerTheirs} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					p := newPlace(t, c.version, "file", "direct")
					if c.tls {
						p.useTLS(t)
					}
					part(p, t)
				})
			}
		})
	}
}

// useTLS has both sides listen and connect with certificates.
func (p *place) useTLS(t *testing.T) {
	t.Helper()
	ca := certtest.New(t)
	cert, key := ca.Leaf("listener")
	clientCert, clientKey := ca.Leaf("dialer")
	p.set(map[string]string{
		"DYN_TCP_TLS_CERT_PATH": cert, "DYN_TCP_TLS_KEY_PATH": key, "DYN_TCP_TLS_CLIENT_CA_CERT_PATH": ca.File,
		"DYN_TCP_TLS_CA_CERT_PATH": ca.File, "DYN_TCP_TLS_CLIENT_CERT_PATH": clientCert, "DYN_TCP_TLS_CLIENT_KEY_PATH": clientKey,
	})
}

// kvQuery is the request for the blocks of a worker.
type kvQuery struct {
	WorkerID uint64  `json:"worker_id"`
	Rank     uint32  `json:"dp_rank"`
	Start    *uint64 `json:"start_event_id"`
	End      *uint64 `json:"end_event_id"`
}

// kvAnswer has one field.
type kvAnswer struct {
	TreeDump *kvState `json:"TreeDump,omitempty"`
	Events   *kvState `json:"Events,omitempty"`
}

type kvState struct {
	Events []routerEvent `json:"events"`
	Last   uint64        `json:"last_event_id"`
}

func (s *kvState) blocks() (hashes []uint64) {
	if s == nil {
		return nil
	}
	for _, ev := range s.Events {
		for _, b := range ev.Event.Data.Stored.Blocks {
			hashes = append(hashes, b.BlockHash)
		}
	}
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// callTheirs requests the state of a real worker, in both codecs, and calls its
// endpoint.
func (p *place) callTheirs(t *testing.T) {
	store := openStore(t, p.ours)
	worker := p.start(t, "worker.py")
	id := worker.Await("ready", 1).WorkerID
	const blocks = 20
	worker.Ask(map[string]any{"publish": blocks}, "sent")
	client := p.callClient(t)
	query, generated := p.targets(t, store, id)
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		waittest.Eventually(t, "all blocks are in the answer", func() bool {
			answer, err := requestplane.One[kvAnswer](t.Context(), client, query, c, kvQuery{WorkerID: id}, requestplane.CallOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(answer.TreeDump.blocks()) == blocks && answer.TreeDump.Last == blocks
		})
		start := uint64(5)
		answer, err := requestplane.One[kvAnswer](t.Context(), client, query, c, kvQuery{WorkerID: id, Start: &start}, requestplane.CallOptions{})
		if err != nil || len(answer.Events.blocks()) != blocks-4 {
			t.Errorf("answer %+v, error %v, want the events from 5", answer, err)
		}
		// All items to the end, by the endpoint's own handler.
		var echoes []map[string]any
		for item, err := range requestplane.Items[map[string]any](t.Context(), client, generated, c, map[string]int{"n": 7}, requestplane.CallOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			echoes = append(echoes, item)
		}
		if got := fmt.Sprint(echoes); !strings.Contains(got, "echo:map[n:7]") {
			t.Errorf("items %s, want an echo", got)
		}
	}
	query.Path += "x"
	_, err := requestplane.One[kvAnswer](t.Context(), client, query, codec.JSON, kvQuery{WorkerID: id}, requestplane.CallOptions{})
	if refused := (*requestplane.RefusedError)(nil); !errors.As(err, &refused) {
		t.Errorf("error %v of a call to an unknown endpoint, want a refusal", err)
	}
	if got := client.Stats(); got.BadHandshakes+got.UnknownSubjects > 0 || got.Complete != 2 {
		t.Errorf("counted %+v, want the two echoes to be complete", got)
	}
}

// callClient returns a client with the settings of our side.
func (p *place) callClient(t *testing.T) *requestplane.Client {
	t.Helper()
	options, err := requestplane.ClientOptionsFromEnv(lookup(p.ours))
	if err != nil {
		t.Fatal(err)
	}
	options.Listen, options.AckTimeout, options.Logger = "127.0.0.1:0", waittest.Patience, logger(t)
	client, err := requestplane.NewClient(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// targets waits until a worker has registered its endpoints, and returns the
// addresses of its state and of its handler.
func (p *place) targets(t *testing.T, store *discovery.Client, worker uint64) (query, generated requestplane.Address) {
	t.Helper()
	waittest.Eventually(t, "the endpoints are registered", func() bool {
		query, generated = requestplane.Address{}, requestplane.Address{}
		for _, in := range list(t, store, discovery.Query{Kind: discovery.KindEndpoint}) {
			endpoint, ok := in.Spec.(discovery.Endpoint)
			if !ok || in.InstanceID != worker {
				continue
			}
			switch name := endpoint.Scope.Endpoint; {
			case name == generate.Endpoint:
				generated = parseAddress(t, endpoint)
			case strings.HasPrefix(name, "worker_kv_query_source_"), strings.HasPrefix(name, "worker_kv_indexer_query_dp0"):
				query = parseAddress(t, endpoint)
			}
		}
		return query.Path != "" && generated.Path != ""
	})
	return query, generated
}

// parseAddress parses the address of an endpoint, whose path must be the one that
// its registration makes.
func parseAddress(t *testing.T, e discovery.Endpoint) requestplane.Address {
	t.Helper()
	addr, err := requestplane.ParseAddress(e.Transport.Address)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := requestplane.ParsePath(addr.Path); err != nil || path.Name != e.Scope.Endpoint || path.Path() != addr.Path {
		t.Errorf("path %+v of %s, error %v", path, addr, err)
	}
	return addr
}
