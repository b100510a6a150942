package kvstate

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvevents"
)

func TestAnswersThatAreNotThoseOfTheRank(t *testing.T) {
	at := func(worker, id uint64) kvevents.Event {
		return kvevents.Event{Kind: kvevents.Stored, Worker: worker, ID: id, Medium: "device", Hashes: []uint64{id}, TokensHashes: []uint64{id}}
	}
	for name, c := range map[string]struct {
		answer kvevents.StateAnswer
		reason string
	}{
		"another worker": {kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, Events: encodeEvents([]kvevents.Event{at(8, 1)}), LastID: 1}, "worker 8"},
		"a hole":         {kvevents.StateAnswer{Kind: kvevents.AnswerEvents, Events: encodeEvents([]kvevents.Event{at(7, 1), at(7, 3)}), LastID: 3}, "lacks event 2"},
		"a late begin":   {kvevents.StateAnswer{Kind: kvevents.AnswerEvents, Events: encodeEvents([]kvevents.Event{at(7, 2)}), LastID: 2}, "lacks event 1"},
		"an early end":   {kvevents.StateAnswer{Kind: kvevents.AnswerEvents, Events: encodeEvents([]kvevents.Event{at(7, 1)}), LastID: 2}, "lacks event 2"},
		"no events":      {kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, Events: []byte{0xc1}}, "kvevents"},
		"too new":        {kvevents.StateAnswer{Kind: kvevents.AnswerTooNew}, "TooNew"},
		"invalid range":  {kvevents.StateAnswer{Kind: kvevents.AnswerInvalidRange}, "InvalidRange"},
	} {
		t.Run(name, func(t *testing.T) {
			runScript(t, FollowOptions{}, func(s *script) {
				s.register(s.source(t, true))
				s.query().reply <- c.answer
				s.wantTrust(Degraded, c.reason)
				s.wantKinds("recovering", "degraded")
				s.lose(store(1))
				s.reply(s.query())
				s.wantTrust(Live, "")
				s.wantBlocks(1)
			})
		})
	}
}

func TestInvalidEventOfAWorkerDegradesOnlyUntilADump(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		s.publish(store(1))
		s.lose(store(2))
		s.publish(store(3))
		q := s.query()
		ans := s.answer(q.StateQuery)
		ans.Events = []byte(strings.Replace(string(ans.Events), "block_hashes", "block_hashez", 1))
		ans.Events = []byte(strings.Replace(string(ans.Events), "block_hash", "block_hasj", 1))
		q.reply <- ans
		s.wantTrust(Degraded, "invalid")
		s.wantBlocks(1, 3)
		q = s.query()
		if q.Start.Present {
			t.Errorf("query from %v, want one for the whole state", q.Start)
		}
		s.reply(q)
		s.wantTrust(Live, "")
		s.wantBlocks(1, 2, 3)
	})
}

// TestQueriesAtOnce also checks that workers that never answer delay no newcomer.
func TestQueriesAtOnce(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		const silent = 100
		for i := range uint64(silent) {
			s.register(newFakeWorker(100+i, 1000+i).source(t, true))
		}
		for range silent {
			_ = wait.Sleep(s.t.Context(), time.Second)
			synctest.Wait()
			if n := s.running[fresh] + s.running[repeated]; n > maxQueries {
				t.Errorf("%d queries at once, want at most %d", n, maxQueries)
			}
			s.query().reply <- errors.New("timeout")
		}
		_ = wait.Sleep(s.t.Context(), time.Minute) // all have failed, and their retries never end
		s.register(s.source(t, true))
		_ = wait.Sleep(s.t.Context(), time.Second+readyTimeout)
		synctest.Wait()
		if n := s.running; n[repeated] != maxRepeated || n[fresh] != 1 {
			t.Errorf("queries %v, want %d retries and that of the newcomer", n, maxRepeated)
		}
	})
}

func TestWorkersOfDynamo13(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		in := discovery.Instance{InstanceID: 7, Spec: discovery.Endpoint{
			Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "worker_kv_indexer_query_dp0"},
			Transport: discovery.TCP("127.0.0.1:9/7/worker_kv_indexer_query_dp0"),
		}}
		generate := in
		generate.Spec = discovery.Endpoint{Scope: testScope, Transport: discovery.TCP("127.0.0.1:9/7/generate")}
		s.lose(store(1))
		s.register(generate)
		s.register(in)
		s.reply(s.query())
		s.wantTrust(Live, "")
		s.publish(store(2))
		s.wantBlocks(1, 2)
		s.unregister(in)
		s.wantKinds("recovering", "reset", "live", "change", "gone")
	})
	component := discovery.Scope{Namespace: "dynamo", Component: "backend"}
	if q := sourcesOf(component); q.Kind != discovery.KindEndpoint || q.Scope != component {
		t.Errorf("query %+v for a component", q)
	}
	if q := sourcesOf(testScope); q.Kind != discovery.KindEventSource || !q.Exact || q.Topic != "kv-events" {
		t.Errorf("query %+v for an endpoint", q)
	}
}

func TestTargets(t *testing.T) {
	for raw, missing := range map[string]string{
		``:                                      "announces no endpoint",
		`null`:                                  "announces no endpoint",
		`7`:                                     "invalid",
		`{"transport":{"nats_tcp":"x"}}`:        "want tcp",
		`{"transport":{"tcp":"localhost:1/x"}}`: "localhost",
		`{"transport":{"tcp":"127.0.0.1:1/x"},"request_plane_codec":"cbor"}`:        "cbor",
		`{"transport":{"tcp":"127.0.0.1:1/x"},"request_plane_codec":"msgpack"}`:     "",
		`{"transport":{"tcp":"[::1]:1/x/y"},"device_type":"cuda","instance_id":12}`: "",
	} {
		got := parseTarget(json.RawMessage(raw))
		if (missing == "") != (got.missing == "") || !strings.Contains(got.missing, missing) {
			t.Errorf("%s: %q, want %q", raw, got.missing, missing)
		}
		if missing == "" && got.address.String() == "" {
			t.Errorf("%s: no address", raw)
		}
	}
}
