// Command zmq-broker relays events between ZMQ publishers and subscribers: an
// XSUB/XPUB proxy that turns N×M connections into N+M. See zmq-broker -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/natsconn"
)

const usage = `zmq-broker relays events between ZMQ publishers (XSUB side) and subscribers (XPUB side).

Once both sides are bound and the broker is registered, it prints one line in the syntax of
DYN_ZMQ_BROKER_URL, with the ports that it really bound. It stops on SIGINT and SIGTERM.
It registers for discovery when a NATS server is configured (-server or NATS_SERVER), or where
DYN_DISCOVERY_BACKEND says.

  zmq-broker -xsub-bind tcp://0.0.0.0:5555 -xpub-bind tcp://0.0.0.0:5556 -server nats://localhost:4222

The host that it advertises is DYN_EVENT_PLANE_HOST (an IP address or the name of an interface),
else the address that is bound, else that of this machine. Exit codes: 0 stopped, 1 failed, 2 usage.

Flags (each wins over its variable):
`

// stopTimeout bounds what is done between a signal and the end.
const stopTimeout = 500 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

type settings struct {
	broker    broker.Options
	namespace string
	server    string
	bucket    string
	ttl       time.Duration
	lookup    func(string) (string, bool)
	log       *slog.Logger
}

func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	s, err := parse(args, lookup, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "zmq-broker: %v\n", err)
		return 2
	}
	if err := s.serve(ctx, stdout); err != nil {
		_, _ = fmt.Fprintf(stderr, "zmq-broker: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, lookup func(string) (string, bool), stderr io.Writer) (*settings, error) {
	env := func(name, fallback string) string {
		if value, _ := lookup(name); value != "" {
			return value
		}
		return fallback
	}
	s := &settings{lookup: lookup, log: slog.New(slog.NewTextHandler(stderr, nil))}
	flags := flag.NewFlagSet("zmq-broker", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error
	flags.StringVar(&s.broker.XSubBind, "xsub-bind", env("ZMQ_BROKER_XSUB_BIND", "tcp://0.0.0.0:5555"), "where publishers connect; port 0 takes a free one (ZMQ_BROKER_XSUB_BIND)")
	flags.StringVar(&s.broker.XPubBind, "xpub-bind", env("ZMQ_BROKER_XPUB_BIND", "tcp://0.0.0.0:5556"), "where subscribers connect (ZMQ_BROKER_XPUB_BIND)")
	flags.StringVar(&s.namespace, "namespace", env("ZMQ_BROKER_NAMESPACE", "dynamo"), "namespace to register in (ZMQ_BROKER_NAMESPACE)")
	flags.StringVar(&s.server, "server", env("NATS_SERVER", ""), "NATS server to register at; none: not registered (NATS_SERVER)")
	flags.StringVar(&s.bucket, "bucket", "", "JetStream KV bucket of the registrations (default dynplane)")
	flags.DurationVar(&s.ttl, "ttl", 0, "how long the registration outlives a crash; whole seconds (default 10s)")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stderr, usage)
		flags.SetOutput(stderr)
		flags.PrintDefaults()
		return nil, err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: want flags alone", flags.Arg(0))
	}
	s.broker.Logger = s.log
	if err == nil {
		err = s.validate()
	}
	return s, err
}

// validate finds what is wrong with the flags and variables themselves.
func (s *settings) validate() error {
	if s.namespace == "" {
		return errors.New("the namespace is empty: leave out -namespace, or name one")
	}
	if s.ttl < 0 || s.ttl%time.Second != 0 {
		return fmt.Errorf("-ttl %v: want whole seconds, at least 1s", s.ttl)
	}
	for _, bind := range []struct{ flag, variable, endpoint string }{
		{"-xsub-bind", "ZMQ_BROKER_XSUB_BIND", s.broker.XSubBind}, {"-xpub-bind", "ZMQ_BROKER_XPUB_BIND", s.broker.XPubBind},
	} {
		address, isTCP := strings.CutPrefix(bind.endpoint, "tcp://")
		_, port, err := net.SplitHostPort(address)
		if !strings.HasPrefix(bind.endpoint, "ipc://") && (!isTCP || err != nil || port == "") {
			return fmt.Errorf("%s (%s) %q: want tcp://HOST:PORT, where port 0 takes a free one, or ipc://PATH", bind.flag, bind.variable, bind.endpoint)
		}
	}
	onlyServer := func(name string) (string, bool) {
		if name != "NATS_SERVER" {
			return "", false
		}
		return s.server, true
	}
	if _, err := natsconn.FromEnv(onlyServer); err != nil {
		return fmt.Errorf("-server (NATS_SERVER): %w", err)
	}
	return nil
}

// serve binds, relays, registers, says so, and goes on until ctx is done.
func (s *settings) serve(ctx context.Context, stdout io.Writer) error {
	b, err := broker.New(s.broker)
	if err != nil {
		return err
	}
	relay, stop := context.WithCancel(context.WithoutCancel(ctx))
	var relayErr error
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		relayErr = b.Run(relay)
	}()
	err = s.announce(ctx, b, stdout, relayed)
	stop()
	<-relayed
	s.log.Info("zmq-broker: stopped", "stats", b.Stats())
	return errors.Join(err, relayErr, b.Close())
}

// announce tells the world where the broker is, until ctx is done or the broker
// has ended by itself.
func (s *settings) announce(ctx context.Context, b *broker.Broker, stdout io.Writer, relayed <-chan struct{}) error {
	url, err := s.advertised(b)
	if err != nil {
		return err
	}
	unregister, err := s.register(ctx, url)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, url); err != nil {
		s.log.Warn("zmq-broker: nobody reads the ready line", "error", err)
	}
	select {
	case <-ctx.Done():
	case <-relayed:
	}
	return unregister()
}

// register announces the broker, if there is where to, and returns what takes
// that back.
func (s *settings) register(ctx context.Context, url eventplane.BrokerConfig) (unregister func() error, err error) {
	none := func() error { return nil }
	name, err := backend.Name(s.lookup)
	if err != nil {
		return none, err
	}
	if name == backend.Memory || name == backend.NATS && s.server == "" {
		s.log.Info("zmq-broker: not registered, as no NATS server is configured; clients need DYN_ZMQ_BROKER_URL", "url", url.String())
		return none, nil
	}
	client, err := backend.Open(ctx, s.lookup, backend.Options{
		Server: s.server,
		Bucket: natskv.Options{Bucket: s.bucket, TTL: s.ttl},
		Logger: s.log,
	})
	if err != nil && name == backend.NATS {
		err = fmt.Errorf("%w (dynplane hub starts a server)", err)
	}
	if err != nil {
		return none, err
	}
	shutdown := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		return client.Shutdown(ctx)
	}
	reg, err := client.Register(ctx, eventplane.BrokerChannel(s.namespace, url))
	if err != nil {
		return none, errors.Join(err, shutdown())
	}
	s.log.Info("zmq-broker: registered", "path", reg.Instance.ID().Path())
	return shutdown, nil
}

// advertised is where clients connect: the bound endpoints with a host that
// they can reach.
func (s *settings) advertised(b *broker.Broker) (eventplane.BrokerConfig, error) {
	xsub, err := s.reachable(b.XSubEndpoint())
	if err != nil {
		return eventplane.BrokerConfig{}, err
	}
	xpub, err := s.reachable(b.XPubEndpoint())
	return eventplane.BrokerConfig{XSub: []string{xsub}, XPub: []string{xpub}}, err
}

func (s *settings) reachable(bound string) (string, error) {
	address, isTCP := strings.CutPrefix(bound, "tcp://")
	if !isTCP {
		return bound, nil // ipc: this machine alone
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("bound endpoint %q: %w", bound, err)
	}
	set, _ := s.lookup("DYN_EVENT_PLANE_HOST")
	ip, err := netip.ParseAddr(host)
	if strings.TrimSpace(set) != "" || err != nil || ip.IsUnspecified() {
		if host, err = eventplane.HostFromEnv(s.lookup); err != nil {
			return "", err
		}
	}
	return "tcp://" + net.JoinHostPort(host, port), nil
}
