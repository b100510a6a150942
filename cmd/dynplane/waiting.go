package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

// silence is how long sub receives nothing before it explains what it waits for.
const silence = 2 * time.Second

// explainSilence prints, once and on stderr, why no event may ever arrive: no
// publisher of the topic is announced in the scope, or only one on another
// transport, with what is announced nearby, or that a broker is not connected. It
// prints nothing if a publisher that sub can receive is announced.
func (a *app) explainSilence(ctx context.Context, s *eventplane.Subscriber, scope discovery.Scope, topic string) {
	cfg, err := eventplane.ConfigFromEnv(a.env)
	if err != nil {
		return
	}
	waiting := fmt.Sprintf("waiting for a publisher of %s in %s over %s", topic, scope, wayOf(cfg))
	brokers := cfg.Broker.Discover || len(cfg.Broker.XPub) > 0
	unconnected := cfg.Transport == discovery.TransportZMQ && brokers && !isReady(ctx, s)
	if unconnected {
		waiting += "; a broker is not connected"
	}
	client, err := a.discover(ctx)
	if err != nil {
		_, _ = fmt.Fprintf(a.stderr, "dynplane: %s; what is announced nearby is unknown: %v\n", waiting, err)
		return
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	found, err := client.List(ctx, discovery.Query{Kind: discovery.KindEventChannel})
	if err != nil {
		return
	}
	near, reachable := nearby(found, scope, topic, cfg)
	if reachable && !unconnected {
		return
	}
	if cfg.Broker.Discover && !slices.ContainsFunc(found, isBroker(scope.Namespace)) {
		waiting += "; no broker is registered in the namespace"
	}
	if len(near) > 0 {
		waiting += "; announced nearby: " + strings.Join(near, ", ")
	}
	_, _ = fmt.Fprintf(a.stderr, "dynplane: %s\n", waiting)
}

// isReady reports whether all peers of a subscriber are connected.
func isReady(ctx context.Context, s *eventplane.Subscriber) bool {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	return s.Ready(ctx) == nil
}

// wayOf returns the transport of the configuration, for messages.
func wayOf(cfg eventplane.Config) string {
	switch {
	case cfg.Transport != discovery.TransportZMQ:
		return "NATS"
	case cfg.Broker.Discover:
		return "ZMQ brokers found by discovery"
	case len(cfg.Broker.XPub) == 1:
		return "the ZMQ broker " + cfg.Broker.XPub[0]
	case len(cfg.Broker.XPub) > 1:
		return "the ZMQ brokers " + strings.Join(cfg.Broker.XPub, " and ")
	}
	return "ZMQ"
}

func isBroker(namespace string) func(discovery.Instance) bool {
	return func(in discovery.Instance) bool {
		ch, ok := in.Spec.(discovery.EventChannel)
		_, broker := ch.Transport.(discovery.ZMQBroker)
		return ok && broker && ch.Scope.Namespace == namespace
	}
}

// nearby returns the channels that a user may have meant, without duplicates: the
// same topic on another transport or in a scope above or below, and topics of the
// same scope that differ by one edit. It reports whether a channel of exactly the
// scope and topic is on the transport of the configuration.
func nearby(found []discovery.Instance, scope discovery.Scope, topic string, cfg eventplane.Config) (near []string, reachable bool) {
	for _, in := range found {
		ch, ok := in.Spec.(discovery.EventChannel)
		if !ok {
			continue
		}
		exact := ch.Scope == scope && ch.Topic == topic
		if exact && sameWay(ch.Transport, cfg) {
			return nil, true
		}
		related := ch.Topic == topic && (scope.Contains(ch.Scope) || ch.Scope.Contains(scope))
		if exact || related || ch.Scope == scope && oneEdit(ch.Topic, topic) {
			near = append(near, fmt.Sprintf("%s in %s (%s)", ch.Topic, ch.Scope, transportName(ch.Transport)))
		}
	}
	slices.Sort(near)
	return slices.Compact(near), false
}

// sameWay reports whether events of a channel arrive over the configured way.
func sameWay(t discovery.Transport, cfg eventplane.Config) bool {
	_, broker := t.(discovery.ZMQBroker)
	brokers := cfg.Broker.Discover || len(cfg.Broker.XPub) > 0
	return t.Kind() == cfg.Transport && (cfg.Transport == discovery.TransportNATS || broker == brokers)
}

// oneEdit reports whether a and b differ by one inserted, removed or replaced
// byte, or by - and _ alone.
func oneEdit(a, b string) bool {
	if strings.ReplaceAll(a, "_", "-") == strings.ReplaceAll(b, "_", "-") {
		return a != b
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return a[i+1:] == b[i+1:]
	}
	return a[i:] == b[i+1:]
}
