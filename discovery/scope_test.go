package discovery

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestSegments(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "", "plain-Name_09": "plain-Name_09", "ns.one": "ns%2Eone", "worker/*": "worker%2F%2A",
		"kv.events/*": "kv%2Eevents%2F%2A", "a%b": "a%25b", "ü": "%C3%BC", "a b>": "a%20b%3E",
	} {
		if got := EncodeSegment(name); got != want {
			t.Errorf("%q is written %q, want %q", name, got, want)
		}
		if got, err := DecodeSegment(want); err != nil || got != name {
			t.Errorf("%q is read as %q, %v", want, got, err)
		}
	}
	if got, err := DecodeSegment("%c3%bc"); err != nil || got != "ü" {
		t.Errorf("lower-case escapes are read as %q, %v", got, err)
	}
	for _, bad := range []string{"%", "a%2", "%zz", "%2g", "%ff", "%C3"} {
		if got, err := DecodeSegment(bad); err == nil {
			t.Errorf("%q is read as %q", bad, got)
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scope             Scope
		text, prefix, raw string
	}{
		{Scope{"dynamo", "", ""}, "dynamo", "namespace.dynamo", `{"kind":"namespace","name":"dynamo"}`},
		{Scope{"dynamo", "backend", ""}, "dynamo/backend", "namespace.dynamo.component.backend", `{"kind":"component","namespace":"dynamo","component":"backend"}`},
		{
			Scope{"dynamo", "backend", "generate"}, "dynamo/backend/generate", "namespace.dynamo.component.backend.endpoint.generate",
			`{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}}`,
		},
		{Scope{"ns.one", "a/b", ""}, "ns.one/a%2Fb", "namespace.ns%2Eone.component.a%2Fb", `{"kind":"component","namespace":"ns.one","component":"a/b"}`},
	} {
		if got := c.scope.String(); got != c.text {
			t.Errorf("%q, want %q", got, c.text)
		}
		if got, err := ParseScope(c.text); err != nil || got != c.scope {
			t.Errorf("%q is read as %+v, %v", c.text, got, err)
		}
		if got := c.scope.SubjectPrefix(); got != c.prefix {
			t.Errorf("prefix %q, want %q", got, c.prefix)
		}
		if got := c.scope.Subject("kv.events"); got != c.prefix+".kv%2Eevents" {
			t.Errorf("subject %q", got)
		}
		if got, err := json.Marshal(c.scope); err != nil || string(got) != c.raw {
			t.Errorf("JSON %s, %v, want %s", got, err, c.raw)
		}
		var got Scope
		if err := json.Unmarshal([]byte(c.raw), &got); err != nil || got != c.scope {
			t.Errorf("%s is read as %+v, %v", c.raw, got, err)
		}
		if err := c.scope.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "/", "a/", "a//b", "a/b/c/d", "a%2", "%ff"} {
		if got, err := ParseScope(bad); err == nil || !strings.Contains(err.Error(), "want NS, NS/COMP or NS/COMP/EP") {
			t.Errorf("%q is read as %+v, %v", bad, got, err)
		}
	}
	for _, bad := range []string{`{}`, `{"kind":"Namespace","name":"a"}`, `{"kind":"endpoint"}`, `[]`} {
		var got Scope
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is read as %+v", bad, got)
		}
	}
	for _, bad := range []Scope{{}, {Component: "c"}, {"n", "", "e"}} {
		if bad.Validate() == nil {
			t.Errorf("%#v is valid", bad)
		}
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	endpoint := someIDs[0].id
	channel := ID{Kind: KindEventChannel, Scope: Scope{"dynamo", "backend", "generate"}, Topic: "kv-events", Instance: 1}
	ofNamespace := ID{Kind: KindEventChannel, Scope: Scope{Namespace: "dynamo"}, Topic: "kv-events", Instance: 1}
	for _, c := range []struct {
		q     Query
		level int
		finds []ID
		not   []ID
	}{
		{Query{}, 0, nil, []ID{endpoint, channel}},
		{Query{Kind: KindEndpoint}, 0, []ID{endpoint}, []ID{channel}},
		{Query{Kind: KindEndpoint, Scope: Scope{Namespace: "dynamo"}}, 1, []ID{endpoint}, []ID{channel}},
		{Query{Kind: KindEndpoint, Scope: Scope{"dynamo", "backend", ""}}, 2, []ID{endpoint}, nil},
		{Query{Kind: KindEndpoint, Scope: Scope{"dynamo", "backend", "generate"}}, 3, []ID{endpoint}, nil},
		{Query{Kind: KindEndpoint, Scope: Scope{"dynamo", "backend", "gen"}}, 3, nil, []ID{endpoint}},
		{Query{Kind: KindModel, Scope: Scope{Namespace: "a.b"}}, 1, nil, []ID{endpoint}},
		{Query{Kind: KindEventChannel}, 0, []ID{channel, ofNamespace}, []ID{endpoint}},
		{Query{Kind: KindEventChannel, Topic: "kv-events"}, 1, []ID{channel, ofNamespace}, nil},
		{Query{Kind: KindEventChannel, Scope: Scope{Namespace: "dynamo"}, Topic: "kv-events"}, 2, []ID{channel, ofNamespace}, nil},
		{Query{Kind: KindEventChannel, Scope: Scope{"dynamo", "backend", ""}, Topic: "kv-events"}, 3, []ID{channel}, []ID{ofNamespace}},
		{Query{Kind: KindEventChannel, Scope: Scope{"dynamo", "backend", "generate"}}, 2, []ID{channel}, []ID{ofNamespace}},
		{Query{Kind: KindEventChannel, Topic: "kv"}, 1, nil, []ID{channel}},
		{Query{Kind: KindAny}, 0, []ID{endpoint, channel, ofNamespace}, []ID{{}}},
		{Query{Kind: KindAny, Scope: channel.Scope}, 3, []ID{endpoint, channel}, []ID{ofNamespace}},
		{Query{Kind: KindAny, Topic: "kv-events"}, 0, []ID{channel, ofNamespace}, []ID{endpoint}},
		{Query{Kind: KindEventChannel, Exact: true}, 0, nil, []ID{channel, ofNamespace}},
		{Query{Kind: KindEventChannel, Scope: ofNamespace.Scope, Exact: true}, 1, []ID{ofNamespace}, []ID{channel}},
		{Query{Kind: KindAny, Scope: channel.Scope, Topic: "kv-events", Exact: true}, 3, []ID{channel}, []ID{endpoint, ofNamespace}},
	} {
		if got := c.q.Level(); got != c.level {
			t.Errorf("%+v has level %d, want %d", c.q, got, c.level)
		}
		for _, id := range c.finds {
			if !c.q.Match(id) {
				t.Errorf("%+v does not find %v", c.q, id)
			}
		}
		for _, id := range c.not {
			if c.q.Match(id) {
				t.Errorf("%+v finds %v", c.q, id)
			}
		}
	}
}

func TestKindsOfAQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q    Query
		want []Kind
	}{
		{Query{}, nil},
		{Query{Kind: 77}, nil},
		{Query{Kind: KindModel}, []Kind{KindModel}},
		{Query{Kind: KindModel, Topic: "t"}, nil},
		{Query{Kind: KindAny}, []Kind{KindEndpoint, KindModel, KindEventChannel, KindEventSource}},
		{Query{Kind: KindAny, Topic: "t"}, []Kind{KindEventChannel, KindEventSource}},
	} {
		if got := c.q.Kinds(); !slices.Equal(got, c.want) {
			t.Errorf("%+v has the kinds %v, want %v", c.q, got, c.want)
		}
	}
}
