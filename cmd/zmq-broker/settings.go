package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/natsconn"
)

const usage = `zmq-broker relays events between ZMQ publishers (XSUB side) and subscribers (XPUB side).

After both sides are bound and the broker is registered, it prints one line in the syntax of
DYN_ZMQ_BROKER_URL, with the ports that were bound. SIGINT and SIGTERM stop it. It registers for
discovery if a NATS server is configured (-server or NATS_SERVER), or in the backend that
DYN_DISCOVERY_BACKEND selects.

  zmq-broker -xsub-bind tcp://0.0.0.0:5555 -xpub-bind tcp://0.0.0.0:5556 -server nats://localhost:4222

It advertises the host DYN_EVENT_PLANE_HOST (an IP address or the name of an interface), else the
bound address, else the address of this machine. Exit codes: 0 stopped, 1 failed, 2 usage error.

Flags (each takes precedence over its variable):
`

// settings are the flags and variables of the program.
type settings struct {
	broker    broker.Options
	namespace string
	server    string
	bucket    string
	ttl       time.Duration
	pprof     string
	version   bool
	lookup    func(string) (string, bool)
	log       *slog.Logger
}

func parse(args []string, lookup func(string) (string, bool), stderr io.Writer) (*settings, error) {
	env := func(name, fallback string) string {
		if value, _ := lookup(name); value != "" {
			return value
		}
		return fallback
	}
	s := &settings{lookup: lookup, log: slog.New(slog.NewTextHandler(stderr, nil))}
	s.broker.Logger = s.log
	flags := flag.NewFlagSet("zmq-broker", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error
	flags.StringVar(&s.broker.XSubBind, "xsub-bind", env("ZMQ_BROKER_XSUB_BIND", "tcp://0.0.0.0:5555"), "endpoint that publishers connect to; port 0 selects a free one (ZMQ_BROKER_XSUB_BIND)")
	flags.StringVar(&s.broker.XPubBind, "xpub-bind", env("ZMQ_BROKER_XPUB_BIND", "tcp://0.0.0.0:5556"), "endpoint that subscribers connect to (ZMQ_BROKER_XPUB_BIND)")
	flags.StringVar(&s.namespace, "namespace", env("ZMQ_BROKER_NAMESPACE", "dynamo"), "namespace to register in (ZMQ_BROKER_NAMESPACE)")
	flags.StringVar(&s.server, "server", env("NATS_SERVER", ""), "NATS server to register at; without one the broker is not registered (NATS_SERVER)")
	flags.StringVar(&s.bucket, "bucket", "", "JetStream KV bucket of the registrations (default dynplane)")
	flags.DurationVar(&s.ttl, "ttl", 0, "how long the registration outlives a crash, in whole seconds (default 10s)")
	flags.StringVar(&s.pprof, "pprof", "", "serve net/http/pprof on `HOST:PORT`, such as 127.0.0.1:6060 (default off)")
	flags.BoolVar(&s.version, "version", false, "print the version and exit")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stderr, usage)
		flags.SetOutput(stderr)
		flags.PrintDefaults()
		return nil, err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: want only flags", flags.Arg(0))
	}
	if err == nil && !s.version {
		err = s.validate()
	}
	return s, err
}

// validate returns the usage errors that flag does not detect.
func (s *settings) validate() error {
	if s.namespace == "" {
		return errors.New("-namespace (ZMQ_BROKER_NAMESPACE) is empty: want a name")
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
			return fmt.Errorf("%s (%s) %q: want tcp://HOST:PORT, where port 0 selects a free one, or ipc://PATH", bind.flag, bind.variable, bind.endpoint)
		}
	}
	if _, _, err := net.SplitHostPort(s.pprof); s.pprof != "" && err != nil {
		return fmt.Errorf("-pprof %q: want HOST:PORT, such as 127.0.0.1:6060", s.pprof)
	}
	onlyServer := func(name string) (string, bool) {
		if name == "NATS_SERVER" {
			return s.server, true
		}
		return "", false
	}
	if _, err := natsconn.FromEnv(onlyServer); err != nil {
		return fmt.Errorf("-server (NATS_SERVER) %s", strings.TrimPrefix(err.Error(), "natsconn: NATS_SERVER "))
	}
	if _, err := backend.Name(s.lookup); err != nil {
		return err
	}
	_, err := eventplane.HostFromEnv(s.lookup)
	return err
}

// unregistrable returns why the broker is not registered in a backend, or "".
func (s *settings) unregistrable(name string) string {
	switch {
	case name == backend.Memory:
		return "other processes do not find registrations in memory"
	case name == backend.NATS && s.server == "":
		return "no NATS server is configured"
	}
	return ""
}
