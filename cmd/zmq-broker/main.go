// Command zmq-broker relays events between ZMQ publishers and subscribers. It
// is an XSUB/XPUB proxy that turns N×M connections into N+M. See zmq-broker -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/pprofserver"
)

// stopTimeout limits how long unregistering takes after a signal.
const stopTimeout = 500 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
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
	if s.version {
		printVersion(stdout)
		return 0
	}
	if err := s.serve(ctx, stdout); err != nil {
		_, _ = fmt.Fprintf(stderr, "zmq-broker: %v\n", err)
		return 1
	}
	return 0
}

// serve relays and is registered until ctx is done.
func (s *settings) serve(ctx context.Context, stdout io.Writer) error {
	if s.pprof != "" {
		profiles, err := pprofserver.Start(s.pprof)
		if err != nil {
			return err
		}
		defer profiles.Close()
		s.log.Info("zmq-broker: serving profiles", "url", "http://"+profiles.Addr()+"/debug/pprof/")
	}
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

// announce registers the broker and prints its endpoints. It unregisters when
// ctx is done or the relay has ended.
func (s *settings) announce(ctx context.Context, b *broker.Broker, stdout io.Writer, relayed <-chan struct{}) error {
	xsub, err := eventplane.ReachableEndpoint(b.XSubEndpoint(), s.lookup)
	if err != nil {
		return err
	}
	xpub, err := eventplane.ReachableEndpoint(b.XPubEndpoint(), s.lookup)
	if err != nil {
		return err
	}
	endpoints := eventplane.BrokerConfig{XSub: []string{xsub}, XPub: []string{xpub}}
	unregister, err := s.register(ctx, endpoints)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, endpoints); err != nil {
		s.log.Warn("zmq-broker: printing the endpoints failed", "error", err)
	}
	select {
	case <-ctx.Done():
	case <-relayed:
	}
	return unregister()
}

// register registers the broker, unless no backend is configured.
func (s *settings) register(ctx context.Context, endpoints eventplane.BrokerConfig) (unregister func() error, err error) {
	name, err := backend.Name(s.lookup)
	if err != nil {
		return nil, err
	}
	if reason := s.unregistrable(name); reason != "" {
		s.log.Info("zmq-broker: not registered; set DYN_ZMQ_BROKER_URL for clients", "reason", reason, "url", endpoints.String())
		return func() error { return nil }, nil
	}
	client, err := backend.Open(ctx, s.lookup, backend.Options{
		Server: s.server,
		Bucket: natskv.Options{Bucket: s.bucket, TTL: s.ttl},
		Logger: s.log,
	})
	if err != nil && name == backend.NATS {
		err = fmt.Errorf("%w (NATS_SERVER or -server names another server, dynplane hub starts one)", err)
	}
	if err != nil {
		return nil, err
	}
	shutdown := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		return client.Shutdown(ctx)
	}
	reg, err := client.Register(ctx, eventplane.BrokerChannel(s.namespace, endpoints))
	if err != nil {
		return nil, errors.Join(err, shutdown())
	}
	s.log.Info("zmq-broker: registered", "path", reg.Instance().ID().Path())
	return shutdown, nil
}
