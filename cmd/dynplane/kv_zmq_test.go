//go:build cgo && !nozmq

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

const kvTestWorker = 0x2a

func lookupOf(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

// startKVWorker registers two ranks of a worker: rank 0 answers queries, and rank 1
// does not. It returns the environment of both sides.
func startKVWorker(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{
		"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir(), "DYN_EVENT_PLANE": "zmq",
		"DYN_EVENT_PLANE_HOST": "127.0.0.1", "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
	}
	lookup := lookupOf(env)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := backend.Open(t.Context(), lookup, backend.Options{Name: backend.File})
	must(err)
	t.Cleanup(func() { _ = store.Shutdown(context.Background()) })
	cfg, err := eventplane.ConfigFromEnv(lookup)
	must(err)
	plane, err := eventplane.New(cfg, store)
	must(err)
	t.Cleanup(func() { _ = plane.Shutdown(context.Background()) })
	server, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0"})
	must(err)
	t.Cleanup(func() { _ = server.Close() })
	hashes := []uint64{1, 1<<64 - 1}
	events, err := kvevents.AppendRouterEvents(nil, []kvevents.Event{{
		Kind: kvevents.Stored, Worker: kvTestWorker, Medium: "device", Hashes: hashes, TokensHashes: hashes,
	}})
	must(err)
	_, err = server.Handle("2a/query", func(_ context.Context, _ *requestplane.Request, send func([]byte) error) error {
		item, err := kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, Events: events, LastID: 7}.MarshalMsgpack()
		if err != nil {
			return err
		}
		return send(item)
	})
	must(err)
	scope := discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}
	for rank, target := range []string{fmt.Sprintf(`{"transport":{"tcp":%q},"request_plane_codec":"msgpack"}`, server.Address("2a/query")), ""} {
		_, err := plane.PublisherWithOptions(t.Context(), scope, "kv-events", eventplane.PublisherOptions{
			Source: func(publisher uint64) any {
				return discovery.KVSource{Endpoint: scope, WorkerID: kvTestWorker, Rank: uint32(rank), PublisherID: publisher, RecoveryTarget: json.RawMessage(target)}
			},
		})
		must(err)
	}
	return env
}

func TestKV(t *testing.T) {
	t.Parallel()
	env := startKVWorker(t)
	const live = `{"worker_id":42,"dp_rank":0,"blocks":2,"trust":"live"}` + "\n"
	const liveOnly = `{"worker_id":42,"dp_rank":1,"blocks":0,"trust":"degraded","reason":"live only: the worker announces no endpoint for queries"}` + "\n"
	if got := runHere(t, env, "kv", "ls", "ns/c/e"); got != (outcome{0, live + liveOnly, ""}) {
		t.Errorf("ls: %+v", got)
	}
	got := runHere(t, env, "kv", "ls", "ns/c/e", "-o", "table")
	if lines := strings.Split(got.stdout, "\n"); got.code != 0 || len(lines) != 4 || strings.Join(strings.Fields(lines[1]), " ") != "2a 0 2 live" {
		t.Errorf("ls as a table: %+v", got)
	}
	if got := runHere(t, env, "kv", "ls", "ns/c/other"); got != (outcome{0, "", ""}) {
		t.Errorf("ls of another endpoint: %+v", got)
	}
	got = runHere(t, env, "kv", "dump", "ns/c/e/2a")
	var line struct {
		Worker uint64 `json:"worker_id"`
		Event  struct {
			Data struct {
				Stored struct {
					Blocks []struct {
						Hash uint64 `json:"block_hash"`
					} `json:"blocks"`
				} `json:"stored"`
			} `json:"data"`
		} `json:"event"`
	}
	if err := json.Unmarshal([]byte(got.stdout), &line); err != nil || line.Worker != kvTestWorker ||
		len(line.Event.Data.Stored.Blocks) != 2 || line.Event.Data.Stored.Blocks[1].Hash != 1<<64-1 {
		t.Errorf("dump: %+v, %v", got, err)
	}
	if got.code != exitFailure || !strings.Contains(got.stderr, "rank 1 is degraded: live only") {
		t.Errorf("dump: exit code %d, %q, want the rank that is not live", got.code, got.stderr)
	}
	if got := runHere(t, env, "kv", "dump", "ns/c/e/2b"); got.code != exitFailure || !strings.Contains(got.stderr, "no rank of worker 2b is registered in ns/c/e") {
		t.Errorf("dump of another worker: %+v", got)
	}
}

func TestKVWatch(t *testing.T) {
	t.Parallel()
	env := startKVWorker(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs logtest.Buffer
	a := &app{lookup: lookupOf(env), stdout: &out, stderr: &errs}
	done := make(chan int, 1)
	go func() { done <- a.run(ctx, []string{"kv", "watch", "ns/c/e"}) }()
	waittest.Eventually(t, "rank 0 is live", func() bool {
		return strings.Contains(out.String(), `{"update":"reset","worker_id":42,"dp_rank":0,"events":1,"blocks":2,"trust":"recovering",`) &&
			strings.Contains(out.String(), `{"update":"trust","worker_id":42,"dp_rank":0,"events":0,"blocks":2,"trust":"live"}`) &&
			strings.Contains(out.String(), `{"update":"synced"}`)
	})
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
