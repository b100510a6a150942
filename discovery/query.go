package discovery

// Query selects registrations of one kind, or of all with KindAny. An empty name
// matches any, and a query is hierarchical: one for a namespace also matches the
// channels of its components and endpoints. Topic applies only to event channels
// and sources; with a topic, KindAny matches only these. The zero Kind matches
// nothing. Some queries:
//
//	Query{Kind: KindEndpoint}                                            all endpoints
//	Query{Kind: KindModel, Scope: Scope{Namespace: "dynamo"}}            the models of a namespace
//	Query{Kind: KindEventChannel, Topic: "kv-events"}                    a topic in any scope
//	Query{Kind: KindEventChannel, Scope: scope, Topic: "kv-events"}      a topic in a scope and below
//	Query{Kind: KindAny, Scope: scope, Exact: true}                      everything at a scope
type Query struct {
	Kind  Kind
	Scope Scope
	Topic string

	// Exact excludes the registrations below Scope, and those elsewhere: an empty
	// name matches only an empty name.
	Exact bool
}

// Match reports whether id matches the query.
func (q Query) Match(id ID) bool {
	return (q.Kind == id.Kind || q.Kind == KindAny && id.Kind != 0) &&
		(q.Topic == "" || q.Topic == id.Topic) &&
		(q.Scope == id.Scope || !q.Exact && q.Scope.Contains(id.Scope))
}

// Kinds returns the kinds of the registrations that can match the query, in the
// order of their constants: one, or all of them for KindAny. A store that keeps
// each kind in a place of its own reads those of Kinds.
func (q Query) Kinds() []Kind {
	var kinds []Kind
	for k := KindEndpoint; int(k) < len(kindNames); k++ {
		if (q.Kind == k || q.Kind == KindAny) && (q.Topic == "" || k.HasTopic()) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// Level returns how many names the query gives, from 0 (all of a kind) to 3. On
// event channels and sources the topic counts in place of the endpoint.
func (q Query) Level() int {
	last := q.Scope.Endpoint
	if q.Kind.HasTopic() {
		last = q.Topic
	}
	n := 0
	for _, name := range []string{q.Scope.Namespace, q.Scope.Component, last} {
		if name != "" {
			n++
		}
	}
	return n
}

// contains reports whether every id that matches o matches q.
func (q Query) contains(o Query) bool {
	for _, kind := range o.Kinds() {
		if q.Kind != kind && q.Kind != KindAny {
			return false
		}
	}
	if q.Topic != "" && q.Topic != o.Topic {
		return false
	}
	if q.Exact {
		return o.Exact && q.Scope == o.Scope
	}
	return q.Scope.Contains(o.Scope)
}

// union returns the narrowest query that contains both.
func (q Query) union(o Query) Query {
	switch {
	case q.contains(o):
		return q
	case o.contains(q):
		return o
	}
	u := Query{Kind: KindAny, Exact: q.Exact && o.Exact && q.Scope == o.Scope}
	if q.Kind == o.Kind {
		u.Kind = q.Kind
	}
	if q.Topic == o.Topic {
		u.Topic = q.Topic
	}
	if q.Scope.Namespace == o.Scope.Namespace {
		u.Scope.Namespace = q.Scope.Namespace
		if q.Scope.Component == o.Scope.Component {
			u.Scope.Component = q.Scope.Component
			if q.Scope.Endpoint == o.Scope.Endpoint {
				u.Scope.Endpoint = q.Scope.Endpoint
			}
		}
	}
	return u
}
