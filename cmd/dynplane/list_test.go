package main

import (
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

func TestSelectionsMatchScopesAndTopics(t *testing.T) {
	t.Parallel()
	channel := func(ns, comp, ep, topic string) discovery.ID {
		return discovery.ID{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: ns, Component: comp, Endpoint: ep}, Topic: topic}
	}
	all := map[string]discovery.ID{
		"endpoint":  channel("dynamo", "backend", "generate", "kv-events"),
		"metrics":   channel("dynamo", "backend", "generate", "kv_metrics"),
		"component": channel("dynamo", "backend", "", "kv-events"),
		"namespace": channel("dynamo", "", "", "kv_metrics"),
		"other":     channel("other", "backend", "generate", "kv-events"),
	}
	for place, want := range map[string][]string{
		"dynamo":                            {"endpoint", "metrics", "component", "namespace"},
		"dynamo/backend":                    {"endpoint", "metrics", "component"},
		"dynamo/backend/generate":           {"endpoint", "metrics"},
		"dynamo.backend.generate":           {"endpoint", "metrics"},
		"dynamo/backend/generate/kv-events": {"endpoint"},
		"dynamo/backend/kv-events":          {"endpoint", "component"},
		"dynamo/kv_metrics":                 {"metrics", "namespace"},
		"dynamo/backend/none":               nil,
	} {
		s, err := parseSelection([]string{"channels", place})
		if err != nil {
			t.Errorf("%s: %v", place, err)
			continue
		}
		expected := map[string]bool{}
		for _, name := range want {
			expected[name] = true
		}
		for name, id := range all {
			if got := s.match(id); got != expected[name] {
				t.Errorf("%s matches the channel of the %s: %v, want %v", place, name, got, expected[name])
			}
			queried := false
			for _, q := range s.queries() {
				queried = queried || q.Match(id)
			}
			if queried != expected[name] {
				t.Errorf("the queries of %s match the channel of the %s: %v, want %v", place, name, queried, expected[name])
			}
		}
	}
	for _, bad := range []string{"", "/", "a//b", "a/b/c/", "a/b/c/d/e", "a/b/c/%zz"} {
		if s, err := parseSelection([]string{"channels", bad}); err == nil {
			t.Errorf("%q is accepted as %+v", bad, s)
		}
	}
}

func TestOneEdit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"kv-events", "kv-event", true}, {"kv_events", "kv-events", true}, {"kv-evants", "kv-events", true},
		{"vkv-events", "kv-events", true}, {"kv-events", "kv-events", false}, {"kv-events", "kv_metrics", false},
		{"", "a", true}, {"", "ab", false}, {"ab", "ba", false}, {"a-b_c", "a_b-c", true},
	} {
		if got := oneEdit(c.a, c.b); got != c.want || oneEdit(c.b, c.a) != c.want {
			t.Errorf("%q and %q: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
