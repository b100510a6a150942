package eventplane_test

import (
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/natsconn"
)

// A client whose codec is a default warns once of events in another one. All
// events are received in any case.
func TestCodecWarning(t *testing.T) {
	t.Parallel()
	url := natstest.Run(t).URL()
	fromEnv := func(vars env) eventplane.Config {
		vars["DYN_EVENT_PLANE"], vars["NATS_SERVER"] = "nats", url
		cfg, err := eventplane.ConfigFromEnv(vars.lookup)
		must(t, err)
		return cfg
	}
	zero := eventplane.Config{NATS: natsconn.Config{URL: url}}
	set, replaced := zero, fromEnv(env{"DYN_DISCOVERY_BACKEND": "etcd"})
	set.Codec, replaced.Codec = codec.JSON, codec.JSON
	for name, c := range map[string]struct {
		config eventplane.Config
		peers  codec.Codec
		want   string // the remedy, or none
	}{
		"default":                   {zero, codec.Msgpack, "DYN_EVENT_PLANE_CODEC=msgpack"},
		"default of a store":        {fromEnv(env{"DYN_DISCOVERY_BACKEND": "etcd"}), codec.JSON, "DYN_EVENT_PLANE_CODEC=json"},
		"default of no store":       {fromEnv(env{}), codec.Msgpack, "DYN_EVENT_PLANE_CODEC=msgpack"},
		"the same":                  {zero, codec.JSON, ""},
		"set":                       {set, codec.Msgpack, ""},
		"set by its variable":       {fromEnv(env{"DYN_EVENT_PLANE_CODEC": "json"}), codec.Msgpack, ""},
		"set in place of a default": {replaced, codec.Msgpack, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, m := patient(t), memory.New()
			var log logtest.Buffer
			c.config.Logger = log.Logger()
			peers := zero
			peers.Codec = c.peers
			theirs := newPlane(t, peers, newDiscovery(t, m))
			ours := newPlane(t, c.config, newDiscovery(t, m))
			scope := backend
			scope.Namespace = "codec-" + t.Name()
			for _, topic := range []string{"a", "b"} {
				sub, err := ours.Subscriber(ctx, scope, topic)
				must(t, err)
				must(t, sub.Ready(ctx))
				pub, err := theirs.Publisher(ctx, scope, topic)
				must(t, err)
				for range 2 {
					must(t, pub.Publish(ctx, topic))
					_, err := sub.Next(ctx)
					must(t, err)
				}
			}
			warnings, want := log.Count("another codec"), 0
			if c.want != "" {
				want = 1
			}
			if warnings != want || log.Count(c.want) < want || want > 0 && log.Count(" codec="+c.peers.Name()) != 1 {
				t.Errorf("%d warnings, want %d with %q in:\n%s", warnings, want, c.want, log.String())
			}
		})
	}
}
