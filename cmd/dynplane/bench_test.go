package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/integration/natstest"
)

// runBench runs a small bench and returns its result.
func runBench(t *testing.T, env map[string]string, args ...string) benchResult {
	t.Helper()
	out := runHere(t, env, append([]string{"bench", "discovery", "--owners", "20", "--entries", "2", "--watchers", "3", "-o", "json"}, args...)...)
	if out.code != 0 || strings.Count(out.stdout, "\n") != 1 {
		t.Fatalf("exit code %d, %q, %q", out.code, out.stdout, out.stderr)
	}
	var r benchResult
	dec := json.NewDecoder(strings.NewReader(out.stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func phases(r benchResult) string {
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func TestBenchDiscovery(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	r := runBench(t, map[string]string{"NATS_SERVER": s.URL()},
		"--clients", "4", "--kill", "0.25", "--ttl", "2s", "--rest", "100ms", "--rtt", "20ms")
	// The watchers of one connection read it once for the first, and once for the others.
	if shared := runBench(t, map[string]string{"NATS_SERVER": s.URL()}, "--watcher-clients", "1", "--kill", "0", "--rest", "100ms"); shared.Messages == nil || shared.Messages.Max >= 3*40 {
		t.Errorf("3 watchers on one connection received %+v messages", shared.Messages)
	}
	if phases(r) != "register sync rest removal unregister" || r.Killed != 1 || r.Clients != 4 || r.Server != s.URL() {
		t.Errorf("%+v", r)
	}
	if r.Phases[0].Server != nil {
		t.Errorf("counters of a server without monitoring: %+v", r.Phases[0].Server)
	}
	// A round trip or more: the proxy is in between.
	if r.Sync == nil || r.Sync.Min < 0.02 || r.Sync.Max < r.Sync.Min || r.Messages.Min < 40 || r.Bytes.Min < 40*200 {
		t.Errorf("sync %+v, %+v messages, %+v bytes", r.Sync, r.Messages, r.Bytes)
	}
	if r.Resting == nil || r.Removal == nil || r.Removal.Min <= 0 || r.Missing != 0 || r.FalseRemovals != 0 {
		t.Errorf("at rest %+v, removal %+v, missing %d, false removals %d", r.Resting, r.Removal, r.Missing, r.FalseRemovals)
	}
	if out := runHere(t, map[string]string{"NATS_SERVER": s.URL(), "DYN_DISCOVERY_BACKEND": "nats"},
		"ls", "endpoints", "--bucket", "dynplane-bench"); out.code != 0 || out.stdout != "" {
		t.Errorf("left behind: %+v", out)
	}
}

func TestBenchMonitor(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	pages := http.NewServeMux()
	pages.HandleFunc("/varz", s.Server().HandleVarz)
	pages.HandleFunc("/jsz", s.Server().HandleJsz)
	monitor := httptest.NewServer(pages)
	defer monitor.Close()
	r := runBench(t, nil, "--server", s.URL(), "--monitor", monitor.URL+"/", "--kill", "0", "--rest", "0")
	if phases(r) != "register sync rest unregister" {
		t.Errorf("phases %s", phases(r))
	}
	if p := r.Phases[0].Server; p == nil || p.InMessages < 40 || p.APIRequests == 0 || p.InBytes == 0 || p.OutBytes == 0 || p.OutMessages == 0 {
		t.Errorf("counters of the server %+v", p)
	}
}

func TestBenchDiscoveryUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--owners 0":                           "--owners 0: want 1 or more",
		"--owners 3 --clients 4":               "want at most one for each of the 3 owners",
		"--watchers 2 --watcher-clients 3":     "want at most one for each of the 2 watchers",
		"--watchers -1":                        "--watchers -1: want 0 or more",
		"--kill 1.5":                           "--kill 1.5: want 0 to 1",
		"--kill NaN":                           "--kill NaN: want 0 to 1",
		"--monitor http://127.0.0.1:8222":      "want --server too",
		"--rtt -1s":                            "want no negative time",
		"--rtt 1ms --server nats://a,nats://b": "want one URL",
	} {
		out := runHere(t, nil, append([]string{"bench", "discovery"}, strings.Fields(args)...)...)
		if out.code != exitUsage || !strings.Contains(out.stderr, want) {
			t.Errorf("%s: exit code %d, %q, want %q", args, out.code, out.stderr, want)
		}
	}
}

func TestBenchVerdict(t *testing.T) {
	t.Parallel()
	if err := new(benchResult).verdict(); err != nil {
		t.Error(err)
	}
	r := benchResult{Missing: 2, FalseRemovals: 3, LostLeases: 4, Unfinished: []string{"1 of 2 watchers have not synced"}}
	const want = "bench: 1 of 2 watchers have not synced; watchers missed 2 entries; 3 removals of entries whose owner was alive; 4 leases of living owners were lost"
	if err := r.verdict(); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A watcher counts a removal by whether the client of the owner was killed.
func TestBenchCountsRemovals(t *testing.T) {
	t.Parallel()
	b := &bench{
		benchOptions: benchOptions{owners: 4, entries: 1, clients: 2, kill: 0.5},
		workers:      []*benchClient{{}, {}}, warnings: newWarningCounter(), app: &app{},
	}
	w := newBenchWatcher(nil)
	b.followers = []*benchWatcher{w}
	w.removed(b, 0, b.killedEntries()) // not killed yet
	now := time.Now()
	b.workers[0].killedAt.Store(&now)
	for owner := range 4 {
		w.removed(b, owner, b.killedEntries())
	}
	select {
	case <-w.gone:
	default:
		t.Error("the entries of the killed client are not gone")
	}
	if b.summarize(); b.result.FalseRemovals != 3 || b.result.Removal == nil || len(w.removals) != 2 {
		t.Errorf("%+v, want 3 false removals and 2 others", b.result)
	}
}

func TestBenchCountsLostLeases(t *testing.T) {
	t.Parallel()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{})
	b := &bench{
		benchOptions: benchOptions{owners: 2, entries: 2, clients: 2, parallel: 1}, namespace: "bench", warnings: newWarningCounter(), app: &app{},
		workers: []*benchClient{{client: client}, {client: client}},
	}
	if err := b.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	b.workers[1].killedAt.Store(&now)
	for _, entry := range []int{0, 2} { // of the first owner, and of the second, who was killed
		if err := b.leases[entry].Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.checkLeases()
	if b.summarize(); b.result.LostLeases != 1 {
		t.Errorf("%d leases are lost, want the one of the living owner", b.result.LostLeases)
	}
}
