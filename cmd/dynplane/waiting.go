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
// transport, with what is announced nearby, or a broker or publisher is not
// connected. It prints nothing if a publisher that sub can receive is connected.
func (a *app) explainSilence(ctx context.Context, s *eventplane.Subscriber, scope discovery.Scope, topic string) {
	cfg, err := eventplane.ConfigFromEnv(a.env)
	if err != nil {
		return
	}
	clauses := []string{fmt.Sprintf("dynplane: waiting for a publisher of %s in %s over %s", topic, scope, wayOf(cfg))}
	unconnected := cfg.Transport == discovery.TransportZMQ && !isReady(ctx, s)
	if unconnected && usesBrokers(cfg) {
		clauses = append(clauses, "a broker is not connected")
	}
	found, err := a.channels(ctx)
	if err != nil {
		if ctx.Err() == nil {
			_, _ = fmt.Fprintf(a.stderr, "%s; what is announced nearby is unknown: %v\n", strings.Join(clauses, "; "), err)
		}
		return
	}
	near, reachable := nearby(found, scope, topic, cfg)
	switch {
	case reachable && !unconnected:
		return
	case reachable && !usesBrokers(cfg):
		clauses = append(clauses, "one is announced and not connected")
	case cfg.Broker.Discover && !slices.ContainsFunc(found, isBroker(scope.Namespace)):
		clauses = append(clauses, "no broker is registered in the namespace")
	case usesBrokers(cfg) && !unconnected:
		clauses = append(clauses, "Dynamo's publishers are not announced where a broker is used")
	}
	if len(near) > 0 {
		clauses = append(clauses, "announced nearby: "+strings.Join(near, ", "))
	}
	_, _ = fmt.Fprintln(a.stderr, strings.Join(clauses, "; "))
}

// channels lists all event channels.
func (a *app) channels(ctx context.Context) ([]discovery.Instance, error) {
	client, err := a.discover(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return client.List(ctx, discovery.Query{Kind: discovery.KindEventChannel})
}

func usesBrokers(cfg eventplane.Config) bool { return cfg.Broker.Discover || len(cfg.Broker.XPub) > 0 }

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
// same topic on another transport, or in a scope that is related, and topics of the
// same scope that differ by one edit. It reports whether a channel of exactly the
// scope and topic is on the transport of the configuration.
func nearby(found []discovery.Instance, scope discovery.Scope, topic string, cfg eventplane.Config) (near []string, reachable bool) {
	for _, in := range found {
		ch, ok := in.Spec.(discovery.EventChannel)
		if !ok {
			continue
		}
		how := transportName(ch.Transport)
		switch {
		case ch.Scope == scope && ch.Topic == topic:
			remedy := remedyFor(ch.Transport, cfg)
			if remedy == "" {
				return nil, true
			}
			how += ": " + remedy
		case ch.Scope == scope && oneEdit(ch.Topic, topic):
		case ch.Topic == topic && related(ch.Scope, scope):
		default:
			continue
		}
		near = append(near, fmt.Sprintf("%s in %s (%s)", ch.Topic, ch.Scope, how))
	}
	slices.Sort(near)
	return slices.Compact(near), false
}

// related reports whether one scope contains the other, or differs from it by one
// edit. Dots in the wanted scope may be those of Dynamo's spelling.
func related(found, wanted discovery.Scope) bool {
	dotted, err := discovery.ParseScope(strings.ReplaceAll(wanted.String(), ".", "/"))
	return wanted.Contains(found) || found.Contains(wanted) || err == nil && dotted.Contains(found) ||
		oneEdit(found.String(), wanted.String())
}

// remedyFor returns the setting with which events of a channel are received, or
// "" if they are received already.
func remedyFor(t discovery.Transport, cfg eventplane.Config) string {
	_, broker := t.(discovery.ZMQBroker)
	_, unknown := t.(discovery.UnknownTransport)
	switch {
	case unknown:
		return "not supported"
	case t.Kind() != cfg.Transport:
		return "set DYN_EVENT_PLANE=" + t.Kind()
	case cfg.Transport == discovery.TransportNATS || broker == usesBrokers(cfg):
		return ""
	case broker:
		return "set DYN_ZMQ_BROKER_URL or DYN_ZMQ_BROKER_ENABLED as there"
	}
	return "unset DYN_ZMQ_BROKER_URL and DYN_ZMQ_BROKER_ENABLED"
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
