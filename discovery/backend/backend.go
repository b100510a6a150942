// Package backend opens the discovery backend that DYN_DISCOVERY_BACKEND
// names. It is for the main side of a program:
//
//	client, err := backend.Open(ctx, os.LookupEnv, backend.Options{})
//	if err != nil { ... }
//	defer client.Shutdown(ctx)
//
// It links the clients of all backends, those of etcd and Kubernetes among them.
// A program that uses one backend, or has settings of its own for it, opens that
// directly and links no other.
package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	filestore "github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/natsconn"
)

// Variable is the environment variable that picks the backend; unset or empty
// is NATS.
const Variable = "DYN_DISCOVERY_BACKEND"

// The values of Variable.
const (
	NATS   = "nats" // a JetStream KV bucket at NATS_SERVER
	Memory = "mem"  // the memory of this process
	File   = "file" // a directory of this machine, DYN_FILE_KV
	Etcd   = "etcd" // what the runtime's workers use by default, ETCD_*

	// Kubernetes is for programs in a cluster, or with KUBECONFIG.
	Kubernetes = "kubernetes"
)

// Names returns the values of Variable.
func Names() []string { return []string{NATS, Memory, File, Etcd, Kubernetes} }

// Options are what the environment does not say. The zero value is useful.
type Options struct {
	// Name takes the place of Variable unless it is empty.
	Name string

	// Server takes the place of NATS_SERVER unless it is empty. Other backends
	// ignore it.
	Server string

	// JetStream are the settings of the bucket. Its Logger is the one of the
	// client and the connection too.
	JetStream discovery.JetStreamOptions

	// Client are the settings of the client. Its Logger is JetStream.Logger if
	// nil.
	Client discovery.Options
}

// Name returns the backend that the environment picks, or an error that lists
// the valid ones.
func Name(lookup func(string) (string, bool)) (string, error) {
	name, _ := lookup(Variable)
	if name == "" {
		return NATS, nil
	}
	if !slices.Contains(Names(), name) {
		return "", fmt.Errorf("backend: %s %q: want one of %s", Variable, name, strings.Join(Names(), ", "))
	}
	return name, nil
}

// Open opens the backend that the environment picks, with the variables that
// natsconn.FromEnv, file.FromEnv, etcd.FromEnv or kube.FromEnv reads. On
// Kubernetes the client's instance id is made of the name of its object unless
// one is set. lookup is os.LookupEnv, or what a test wants.
// The client's Shutdown closes the connection that Open dialled.
func Open(ctx context.Context, lookup func(string) (string, bool), o Options) (*discovery.Client, error) {
	if o.Name != "" {
		lookup = override(lookup, Variable, o.Name)
	}
	name, err := Name(lookup)
	if err != nil {
		return nil, err
	}
	if o.Client.Logger == nil {
		o.Client.Logger = o.JetStream.Logger
	}
	store, err := open(ctx, name, lookup, &o)
	if err != nil {
		return nil, err
	}
	return discovery.NewClient(store, o.Client), nil
}

// open may change the settings of the client.
func open(ctx context.Context, name string, lookup func(string) (string, bool), o *Options) (discovery.Store, error) {
	switch name {
	case Memory:
		return discovery.NewMemory().Open(), nil
	case File:
		options, err := filestore.FromEnv(lookup)
		options.Logger = o.JetStream.Logger
		return opened(options, err, filestore.New)
	case Etcd:
		options, err := etcd.FromEnv(lookup)
		options.Logger = o.JetStream.Logger
		return opened(options, err, func(e etcd.Options) (*etcd.Store, error) { return etcd.Open(ctx, e) })
	case Kubernetes:
		options, err := kube.FromEnv(lookup)
		options.Logger = o.JetStream.Logger
		o.Client.InstanceID = cmp.Or(o.Client.InstanceID, options.InstanceID())
		return opened(options, err, kube.New)
	default:
		return openNATS(ctx, lookup, *o)
	}
}

// opened makes a store of options unless reading them failed.
func opened[O any, S discovery.Store](options O, err error, open func(O) (S, error)) (discovery.Store, error) {
	if err == nil {
		var store S
		if store, err = open(options); err == nil {
			return store, nil
		}
	}
	return nil, fmt.Errorf("backend: %w", err)
}

func openNATS(ctx context.Context, lookup func(string) (string, bool), o Options) (discovery.Store, error) {
	if o.Server != "" {
		lookup = override(lookup, "NATS_SERVER", o.Server)
	}
	config, err := natsconn.FromEnv(lookup)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	config.Name, config.Logger = "dynplane discovery", o.JetStream.Logger
	nc, err := natsconn.Connect(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	store, err := discovery.NewJetStream(nc, o.JetStream)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return dialled{store, nc}, nil
}

func override(lookup func(string) (string, bool), name, value string) func(string) (string, bool) {
	return func(asked string) (string, bool) {
		if asked == name {
			return value, true
		}
		return lookup(asked)
	}
}

// dialled is a store whose connection is its own.
type dialled struct {
	*discovery.JetStream
	nc *nats.Conn
}

func (d dialled) Shutdown(ctx context.Context) error {
	defer d.nc.Close()
	return d.JetStream.Shutdown(ctx)
}
