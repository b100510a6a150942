package eventplane

import (
	"fmt"
	"strings"

	"github.com/dynplane/dynplane/discovery"
)

// route is a scope and topic, with the wire format of its subjects.
type route struct {
	scope discovery.Scope
	topic string
	wire  WireFormat
}

// maxSubject limits the bytes of a subject. The commands of NATS and the
// subscriptions of ZMQ have about 4 KiB, and a peer that exceeds them is
// disconnected.
const maxSubject = 4000

// newRoute returns an error if the scope or topic is invalid, too long, or cannot
// be written in the wire format.
func newRoute(scope discovery.Scope, topic string, wire WireFormat) (route, error) {
	r := route{scope, topic, wire}
	if err := scope.Validate(); err != nil {
		return r, err
	}
	if topic == "" {
		return r, fmt.Errorf("topic of %s is empty: want a name such as kv-events", scope)
	}
	if n := len(scope.Subject(topic)); n > maxSubject {
		return r, fmt.Errorf("scope and topic are a subject of %d bytes: want at most %d", n, maxSubject)
	}
	if wire == WireGen1 && scope.Endpoint != "" {
		return r, fmt.Errorf("scope %s is an endpoint, which wire format gen1 cannot address: want NS or NS/COMP, or gen2", scope)
	}
	return r, nil
}

// channels matches the channels of the route.
func (r route) channels() discovery.Query {
	return discovery.Query{Kind: discovery.KindEventChannel, Scope: r.scope, Topic: r.topic, Exact: true}
}

// natsSubject returns the subject prefix and the subject.
func (r route) natsSubject() (prefix, subject string, err error) {
	if r.wire == WireGen2 {
		return r.scope.SubjectPrefix(), r.scope.Subject(r.topic), nil
	}
	prefix = "namespace." + r.scope.Namespace
	if r.scope.Component != "" {
		prefix += ".component." + r.scope.Component
	}
	for _, name := range []string{r.scope.Namespace, r.scope.Component, r.topic} {
		if err := rawSegment(name); err != nil {
			return "", "", err
		}
	}
	return prefix, prefix + "." + r.topic, nil
}

// rawSegment rejects names that would become several segments of a subject, a
// wildcard, or an invalid subject. WireGen2 encodes such names.
func rawSegment(name string) error {
	bad := strings.IndexFunc(name, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(".*>", c) })
	if bad < 0 {
		return nil
	}
	return fmt.Errorf("name %q has %q, which wire format gen1 cannot encode in a subject: want gen2, or a name without it", name, name[bad])
}

// brokerSubject returns frame 0 of messages through a broker.
func (r route) brokerSubject() string {
	if r.wire == WireGen1 {
		return r.topic
	}
	return r.scope.Subject(r.topic)
}

// directSubject returns frame 0 of messages without a broker.
func (r route) directSubject() string { return r.topic }
