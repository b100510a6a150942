package discovery

// Query selects registrations of one kind. An empty name matches any, and a query
// is hierarchical: one for a namespace also matches the channels of its components
// and endpoints. Topic applies only to event channels and sources. The zero Kind
// matches nothing. Some queries:
//
//	Query{Kind: KindEndpoint}                                            all endpoints
//	Query{Kind: KindModel, Scope: Scope{Namespace: "dynamo"}}            the models of a namespace
//	Query{Kind: KindEventChannel, Topic: "kv-events"}                    a topic in any scope
//	Query{Kind: KindEventChannel, Scope: scope, Topic: "kv-events"}      a topic in a scope and below
type Query struct {
	Kind  Kind
	Scope Scope
	Topic string
}

// Match reports whether id matches the query.
func (q Query) Match(id ID) bool {
	return q.Kind == id.Kind && q.Scope.Contains(id.Scope) && (q.Topic == "" || q.Topic == id.Topic)
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
