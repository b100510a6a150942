package dynamo

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// active is a topic on which frontends publish their requests to each other.
const active = "active_sequences_events"

// deployment is a whole Dynamo in a place with a broker of ours: two workers with
// a mocked engine, and frontends with KV routers.
type deployment struct {
	*place
	model     string // directory
	frontends []*frontend
	in        map[string]*inbox
	prompts   int // so far
}

// TestDeployment has a broker of ours between all programs of a Dynamo: a frontend
// routes by what its router learned from the broker, our subscribers receive all
// topics, and the deployment outlives the broker.
func TestDeployment(t *testing.T) {
	t.Parallel()
	for store, transport := range map[string]string{"file": "broker by URL", "etcd": "broker by discovery"} {
		// One after the other: three programs of each start at the same time, which
		// takes tens of seconds on a busy machine.
		t.Run(store+"/"+transport, func(t *testing.T) {
			d := startDeployment(t, store, transport)
			first, second := d.frontends[0], d.frontends[1]
			d.awaitHit(t, first, second)
			d.awaitHit(t, second, first)
			t.Run("topics", func(t *testing.T) { d.checkTopics(t) })
			t.Run("restart", func(t *testing.T) {
				d.brokers[0].Kill()
				if _, hit := d.request(t, first, second); hit {
					t.Error("a hit of a new prompt without a broker")
				}
				d.brokers[0].Start()
				d.awaitHit(t, first, second)
			})
			t.Run("our worker", func(t *testing.T) { d.checkOurModel(t) })
		})
	}
}

func startDeployment(t *testing.T, store, transport string) *deployment {
	t.Helper()
	d := &deployment{place: newPlace(t, dynamotest.Gen2, store, transport), model: tinyModel(t), in: make(map[string]*inbox)}
	d.theirs["HOME"], d.theirs["DYN_NAMESPACE"] = t.TempDir(), "dynamo"
	ours, plane := d.openOurs(t)
	for _, topic := range []string{kvEvents, load, fpm, active} {
		d.in[topic] = subscribe(t, plane, generate, topic)
	}
	d.run(t, "dynamo.mocker", "--model-path", d.model, "--model-name", "tiny", "--endpoint", "dyn://dynamo.backend.generate",
		"--num-workers", "2", "--block-size", "16", "--num-gpu-blocks-override", "512", "--max-num-seqs", "16", "--speedup-ratio", "10")
	waittest.Eventually(t, "both workers are registered", func() bool {
		return len(list(t, ours, discovery.Query{Kind: discovery.KindModel, Scope: generate})) == 2 &&
			len(list(t, ours, discovery.Query{Kind: discovery.KindEventSource})) == 2
	})
	d.frontends = []*frontend{d.startFrontend(t), d.startFrontend(t)}
	for _, f := range d.frontends {
		f.awaitModel(t, "tiny", true)
	}
	return d
}

// run runs a program of Dynamo.
func (d *deployment) run(t *testing.T, module string, args ...string) {
	t.Helper()
	args = append([]string{module, "--discovery-backend", d.theirs["DYN_DISCOVERY_BACKEND"], "--request-plane", "tcp", "--event-plane", "zmq"}, args...)
	dynamotest.Launch(t, dynamotest.Deployment, "module.py", d.theirs, args...)
}

// request sends a prompt that is new to all programs to one frontend, and then to the
// other one. It returns the worker of the first, and whether the second one's
// router found the prompt in a cache.
func (d *deployment) request(t *testing.T, from, to *frontend) (worker uint64, hit bool) {
	t.Helper()
	var before int
	first := retry(t, "a new prompt", func() (completion, error) { // a frontend may list a model before its router has workers
		d.prompts++
		before = len(d.in[kvEvents].all())
		return from.complete(prompt(d.prompts))
	})
	if first.Nvext.Timing.HitRate != 0 || first.Usage.Details.CachedTokens != 0 {
		t.Errorf("a new prompt is found in a cache: %+v", first)
	}
	// Once the blocks have arrived here they are about to arrive there. They may be
	// lost while a broker restarts.
	for deadline := time.Now().Add(time.Second); len(d.in[kvEvents].all()) == before && time.Now().Before(deadline); {
		rest(t, 5*time.Millisecond)
	}
	second, err := to.complete(prompt(d.prompts))
	if err != nil {
		t.Fatal(err)
	}
	if hit = second.Nvext.Timing.HitRate > 0; hit {
		if second.Nvext.Worker.ID != first.Nvext.Worker.ID || second.Usage.Details.CachedTokens == 0 {
			t.Errorf("the first frontend received %+v, the second one %+v", first, second)
		}
	}
	return first.Nvext.Worker.ID, hit
}

// awaitHit waits until a frontend routes by the events of a prompt that only
// another one has seen. Each attempt has another prompt, since a router also
// learns from its own requests.
func (d *deployment) awaitHit(t *testing.T, from, to *frontend) {
	t.Helper()
	waittest.Eventually(t, "a prompt of one frontend is a hit at the other", func() bool {
		_, hit := d.request(t, from, to)
		return hit
	})
}

// checkTopics has both workers serve, and compares what our subscribers received
// with the registrations.
func (d *deployment) checkTopics(t *testing.T) {
	store, _ := d.openOurs(t)
	used := make(map[uint64]bool)
	waittest.Eventually(t, "both workers serve", func() bool {
		worker, _ := d.request(t, d.frontends[0], d.frontends[1])
		used[worker] = true
		return len(used) == 2
	})
	for _, in := range list(t, store, discovery.Query{Kind: discovery.KindEndpoint, Scope: generate}) {
		if !used[in.InstanceID] {
			t.Errorf("worker %d is registered and does not serve; %v do", in.InstanceID, used)
		}
	}
	for topic, in := range d.in {
		waittest.Eventually(t, "two workers, or two frontends, publish "+topic, func() bool {
			return len(in.publishers(t, topic)) >= 2
		})
	}
	var sources []uint64
	for _, in := range list(t, store, discovery.Query{Kind: discovery.KindEventSource}) {
		sources = append(sources, in.InstanceID)
	}
	if slices.Sort(sources); !slices.Equal(sources, d.in[kvEvents].publishers(t, kvEvents)) {
		t.Errorf("sources %v, events of %v", sources, d.in[kvEvents].publishers(t, kvEvents))
	}
}

// checkOurModel has the frontends list the model of a worker of ours while it is
// registered.
func (d *deployment) checkOurModel(t *testing.T) {
	store := openStore(t, d.ours)
	scope := discovery.Scope{Namespace: "dynamo", Component: "tensors", Endpoint: "generate"}
	const worker = 1<<63 + 1<<53 + 5
	model, err := discovery.NewModel(scope, discovery.NewTensorCard("our/Model"), "")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := discovery.Endpoint{Scope: scope, Transport: discovery.TCP(fmt.Sprintf("127.0.0.1:9/%x/generate", uint64(worker)))}
	register(t, store, worker, endpoint, model)
	for _, f := range d.frontends {
		f.awaitModel(t, "our/Model", true)
	}
	shutdown(t, store)
	for _, f := range d.frontends {
		f.awaitModel(t, "our/Model", false)
	}
}
