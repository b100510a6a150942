package discovery

// Query selects registrations of one kind. Each name that is empty matches
// any, and a query finds everything below it: one for a namespace finds the
// channels of its components and endpoints too. Topic concerns event channels
// and sources alone. The zero Kind finds nothing. Some queries:
//
//	Query{Kind: KindEndpoint}                                            all endpoints
//	Query{Kind: KindModel, Scope: Scope{Namespace: "dynamo"}}            the models of a namespace
//	Query{Kind: KindEventChannel, Topic: "kv-events"}                    a topic, wherever it is
//	Query{Kind: KindEventChannel, Scope: scope, Topic: "kv-events"}      a topic in a scope and below
type Query struct {
	Kind  Kind
	Scope Scope
	Topic string
}

// Match reports whether the query finds id.
func (q Query) Match(id ID) bool {
	return q.Kind == id.Kind && q.Scope.Contains(id.Scope) && (q.Topic == "" || q.Topic == id.Topic)
}

// Level counts the names that the query gives, from 0 (all of a kind) to 3;
// a topic is one, and the endpoint above it is not.
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
