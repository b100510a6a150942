// Package backend opens the discovery backend that DYN_DISCOVERY_BACKEND names. It
// is meant for the main package of a program:
//
//	client, err := backend.Open(ctx, os.LookupEnv, backend.Options{})
//	defer client.Shutdown(ctx)
//
// It links the client libraries of all backends, those of etcd and Kubernetes
// included. A program that uses one backend only, or has settings of its own for
// it, imports the package of that backend instead and links no other.
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

// Variable is the environment variable that selects the backend; unset or empty
// means NATS.
const Variable = "DYN_DISCOVERY_BACKEND"

// The values of Variable.
const (
	NATS   = "nats" // a JetStream KV bucket at NATS_SERVER
	Memory = "mem"  // the memory of this process
	File   = "file" // a directory of this machine, DYN_FILE_KV
	Etcd   = "etcd" // the default of Dynamo's workers, ETCD_*

	// Kubernetes requires a cluster around the program, or KUBECONFIG.
	Kubernetes = "kubernetes"
)

// Names returns the values of Variable.
func Names() []string { return []string{NATS, Memory, File, Etcd, Kubernetes} }

// Options are the settings of Open beside the environment. The zero value is
// useful.
type Options struct {
	// Name replaces the value of Variable unless it is empty.
	Name string

	// Server replaces the value of NATS_SERVER unless it is empty. Other
	// backends ignore it.
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

// Name returns the backend that the environment selects, or an error that lists
// the valid names.
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

// Open opens the backend that the environment selects, with the variables that
// natsconn.FromEnv, file.FromEnv, etcd.FromEnv or kube.FromEnv reads. lookup is
// usually os.LookupEnv. On Kubernetes the client's instance id is that of
// kube.Options.InstanceID, unless Client has one. The client's Shutdown closes the
// connection that Open made.
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

// open returns the store. It may change the settings of the client.
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

// opened opens a store with options that FromEnv returned, or returns its error.
// All errors name the package that they come from.
func opened[O any, S discovery.Store](options O, err error, open func(O) (S, error)) (discovery.Store, error) {
	if err != nil {
		return nil, err
	}
	store, err := open(options)
	if err != nil {
		return nil, err // and not a nil *Store in the interface
	}
	return store, nil
}

// openNATS returns a store that owns its connection.
func openNATS(ctx context.Context, lookup func(string) (string, bool), o Options) (discovery.Store, error) {
	if o.Server != "" {
		lookup = override(lookup, "NATS_SERVER", o.Server)
	}
	config, err := natsconn.FromEnv(lookup)
	config.Name, config.Logger = "dynplane discovery", o.Bucket.Logger
	return opened(config, err, func(c natsconn.Config) (*natskv.Store, error) { return natskv.Dial(ctx, c, o.Bucket) })
}

// override returns a lookup in which the variable name has a value.
func override(lookup func(string) (string, bool), name, value string) func(string) (string, bool) {
	return func(variable string) (string, bool) {
		if variable == name {
			return value, true
		}
		return lookup(variable)
	}
}
