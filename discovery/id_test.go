package discovery

import (
	"encoding/json"
	"strings"
	"testing"
)

// someIDs are ids with their paths.
var someIDs = []struct {
	id   ID
	path string
}{
	{ID{Kind: KindEndpoint, Scope: Scope{"dynamo", "backend", "generate"}, Instance: 0x2a}, "dynamo/backend/generate/2a"},
	{ID{Kind: KindEndpoint, Scope: Scope{"a/b", "c%d", "e f"}, Instance: 1<<64 - 1}, "a%2Fb/c%25d/e f/ffffffffffffffff"},
	{ID{Kind: KindModel, Scope: Scope{"dynamo", "backend", "generate"}, Instance: 1}, "dynamo/backend/generate/1"},
	{ID{Kind: KindModel, Scope: Scope{"dynamo", "backend", "generate"}, Suffix: "my/lora", Instance: 1}, "dynamo/backend/generate/1/my%2Flora"},
	{ID{Kind: KindEventChannel, Scope: Scope{"dynamo", "backend", ""}, Topic: "kv-events"}, "dynamo/backend/kv-events/0"},
	{ID{Kind: KindEventChannel, Scope: Scope{"dynamo", "", ""}, Topic: "kv-events", Instance: 10}, "dynamo//kv-events/a"},
	{
		ID{Kind: KindEventChannel, Scope: Scope{"ns.one", "b", "e"}, Topic: "kv.events/*", Instance: 10},
		"namespace/ns%2Eone/component/b/endpoint/e/topic/kv%2Eevents%2F%2A/a",
	},
	{ID{Kind: KindEventChannel, Scope: Scope{"=", ">", ""}, Topic: "ü"}, "=/>/ü/0"},
}

func TestPaths(t *testing.T) {
	t.Parallel()
	seen := map[ID]bool{}
	for _, c := range someIDs {
		if got := c.id.Path(); got != c.path || c.id.String() != got {
			t.Errorf("path of %+v is %q, want %q", c.id, got, c.path)
		}
		if id, err := ParseID(c.id.Kind, c.path); err != nil || id != c.id {
			t.Errorf("%q is read as %+v, %v", c.path, id, err)
		}
		data, err := json.Marshal(c.id)
		var id ID
		if err == nil {
			err = json.Unmarshal(data, &id)
		}
		if err != nil || id != c.id {
			t.Errorf("JSON %s is read as %+v, %v", data, id, err)
		}
		if seen[c.id] {
			t.Errorf("%v is there twice", c.id)
		}
		seen[c.id] = true
	}
}

func TestPathsOfTheNewerGeneration(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]ID{
		"namespace/dynamo/topic/kv-events/2a":             {Kind: KindEventChannel, Scope: Scope{Namespace: "dynamo"}, Topic: "kv-events", Instance: 42},
		"namespace/dynamo/component/b%2Fc/topic/kv%2E/2a": {Kind: KindEventChannel, Scope: Scope{"dynamo", "b/c", ""}, Topic: "kv.", Instance: 42},
	} {
		if id, err := ParseID(KindEventChannel, path); err != nil || id != want {
			t.Errorf("%q is read as %+v, %v", path, id, err)
		}
	}
}

func TestBadPaths(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       Kind
		path, want string
	}{
		{KindEndpoint, "", "1 parts: want 4"},
		{KindEndpoint, "a/b/c", "3 parts: want 4"},
		{KindEndpoint, "a/b/c/1/x", "5 parts: want 4"},
		{KindModel, "a/b/c", "3 parts: want 4 or 5"},
		{KindModel, "a/b/c/1/x/y", "6 parts: want 4 or 5"},
		{KindModel, "a/b/c/1/", "suffix is empty"},
		{KindEventChannel, "a/b/c", "3 parts: want 4"},
		{KindEventChannel, "namespace/a/component/b/topic/t/1/x", "8 parts: want 4"},
		{KindEventChannel, "namespaces/a/topic/t/1", `"namespaces": want "namespace"`},
		{KindEventChannel, "namespace/a/component/b/1", `"component": want "topic"`},
		{KindEndpoint, "a/b/c/xyz", `instance id "xyz"`},
		{KindEndpoint, "a/b/c/", `instance id ""`},
		{KindEndpoint, "a/b/c/0x1", `instance id "0x1"`},
		{KindEndpoint, "a/b/c/01", `instance id "01"`},
		{KindEndpoint, "a/b/c/FF", `instance id "FF": want lower-case hex`},
		{KindEndpoint, "a/b/c/-1", `instance id "-1"`},
		{KindEndpoint, "a/b/c/10000000000000000", "at most 64 bits"},
		{KindEndpoint, "/b/c/1", "want a namespace"},
		{KindEndpoint, "a//c/1", "want a component above"},
		{KindEndpoint, "a/b//1", "want namespace, component and endpoint"},
		{KindEventChannel, "a/b//1", "want a topic"},
		{KindEndpoint, "a%2/b/c/1", "truncated escape"},
		{KindEndpoint, "a%zz/b/c/1", `bad escape "%zz"`},
		{KindEndpoint, "a%ff/b/c/1", "not UTF-8"},
		{KindEndpoint, "a\xff/b/c/1", "not UTF-8"},
		{0, "a/b/c/1", "unknown kind Kind(0)"},
		{99, "a/b/c/1", "unknown kind Kind(99)"},
	} {
		_, err := ParseID(c.kind, c.path)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "discovery: ") != 1 {
			t.Errorf("%q: got %v, want one that contains %s", c.path, err, c.want)
		}
	}
}

func TestJSONOfIDs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		json string
		want ID
		err  string
	}{
		{json: `{"Endpoint":{"namespace":"a","component":"b","endpoint":"c","instance_id":18446744073709551615}}`, want: ID{Kind: KindEndpoint, Scope: Scope{"a", "b", "c"}, Instance: 1<<64 - 1}},
		{json: `{"Model":{"namespace":"a","component":"b","endpoint":"c","instance_id":1,"model_suffix":"s"}}`, want: ID{Kind: KindModel, Scope: Scope{"a", "b", "c"}, Suffix: "s", Instance: 1}},
		{json: `{"Model":{"namespace":"a","component":"b","endpoint":"c","instance_id":1,"model_suffix":null}}`, want: ID{Kind: KindModel, Scope: Scope{"a", "b", "c"}, Instance: 1}},
		{json: `{"EventChannel":{"namespace":"a","component":"b","topic":"t","instance_id":1}}`, want: ID{Kind: KindEventChannel, Scope: Scope{"a", "b", ""}, Topic: "t", Instance: 1}},
		{json: `{"EventChannel":{"scope":{"kind":"namespace","name":"a"},"topic":"t","instance_id":1}}`, want: ID{Kind: KindEventChannel, Scope: Scope{"a", "", ""}, Topic: "t", Instance: 1}},
		{json: `{}`, err: "0 kinds: want one"},
		{json: `{"Endpoint":{},"Model":{}}`, err: "2 kinds: want one"},
		{json: `{"Thing":{}}`, err: `type "Thing": want one of Endpoint, Model`},
		{json: `{"Endpoint":{}}`, err: "want a namespace"},
		{json: `{"Endpoint":{"namespace":"a","component":"b","endpoint":"c","instance_id":18446744073709551616}}`, err: "instance_id"},
		{json: `[]`, err: "cannot unmarshal array"},
	} {
		var id ID
		err := json.Unmarshal([]byte(c.json), &id)
		switch {
		case c.err == "" && (err != nil || id != c.want):
			t.Errorf("%s is read as %+v, %v", c.json, id, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: got %v, want one that contains %s", c.json, err, c.err)
		}
	}
	if data, err := json.Marshal(ID{Kind: KindEndpoint}); err == nil {
		t.Errorf("an id without a scope is written as %s", data)
	}
}

func TestIDsHaveAnOrder(t *testing.T) {
	t.Parallel()
	ordered := []ID{
		{Kind: KindEndpoint, Scope: Scope{"a", "a", "a"}},
		{Kind: KindEndpoint, Scope: Scope{"a", "a", "b"}},
		{Kind: KindEndpoint, Scope: Scope{"a", "b", "a"}},
		{Kind: KindEndpoint, Scope: Scope{"b", "a", "a"}},
		{Kind: KindModel, Scope: Scope{"a", "a", "a"}, Instance: 1},
		{Kind: KindModel, Scope: Scope{"a", "a", "a"}, Instance: 1, Suffix: "s"},
		{Kind: KindModel, Scope: Scope{"a", "a", "a"}, Instance: 2},
		{Kind: KindEventChannel, Scope: Scope{"a", "", ""}, Topic: "t", Instance: 2},
		{Kind: KindEventChannel, Scope: Scope{"a", "", ""}, Topic: "u", Instance: 1},
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.Compare(b); got != sign(i-j) {
				t.Errorf("%v against %v is %d", a, b, got)
			}
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func TestExpect(t *testing.T) {
	t.Parallel()
	id := someIDs[0].id
	if err := id.Expect(KindEndpoint); err != nil {
		t.Error(err)
	}
	if err := id.Expect(KindModel); err == nil || !strings.Contains(err.Error(), "dynamo/backend/generate/2a is of kind Endpoint, want Model") {
		t.Errorf("got %v", err)
	}
}

func TestInstanceIDsAreSafeInJSON(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if id := NewInstanceID(); id == 0 || id >= 1<<53 {
			t.Fatalf("id %d", id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, c := range someIDs {
		f.Add(byte(c.id.Kind), c.path)
	}
	f.Fuzz(func(t *testing.T, kind byte, path string) {
		id, err := ParseID(Kind(kind), path)
		if err != nil {
			return
		}
		if again, err := ParseID(id.Kind, id.Path()); err != nil || again != id {
			t.Errorf("%q: %+v has the path %q, which is read as %+v, %v", path, id, id.Path(), again, err)
		}
	})
}
