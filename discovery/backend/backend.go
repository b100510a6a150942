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
	"log/slog"
	"slices"
	"strings"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	filestore "github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/discovery/natskv"
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

	// Bucket are the settings of the JetStream KV bucket. Other backends ignore
	// them.
	Bucket natskv.Options

	// Client are the settings of the client.
	Client discovery.Options

	// Logger is for the store, its connection and the client, unless Bucket or
	// Client has one of its own; nil disables logging.
	Logger *slog.Logger
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
	o.Client.Logger = cmp.Or(o.Client.Logger, o.Logger)
	o.Bucket.Logger = cmp.Or(o.Bucket.Logger, o.Logger)
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
		return memory.New().Open(), nil
	case File:
		options, err := filestore.FromEnv(lookup)
		options.Logger = o.Logger
		return opened(options, err, filestore.New)
	case Etcd:
		options, err := etcd.FromEnv(lookup)
		options.Logger = o.Logger
		return opened(options, err, func(e etcd.Options) (*etcd.Store, error) { return etcd.Dial(ctx, e) })
	case Kubernetes:
		options, err := kube.FromEnv(lookup)
		options.Logger = o.Logger
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
	config.Name, config.Logger = "dynplane discovery", o.Bucket.Logger
	store, err := natskv.Dial(ctx, config, o.Bucket)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	return store, nil
}

func override(lookup func(string) (string, bool), name, value string) func(string) (string, bool) {
	return func(asked string) (string, bool) {
		if asked == name {
			return value, true
		}
		return lookup(asked)
	}
}
