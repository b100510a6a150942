package file

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// Options are the settings of a [Store]. Root is required.
type Options struct {
	// Root is the directory that contains the buckets. It is created by the
	// first registration.
	Root string

	// TTL is the age at which an untouched file expires: at least 1 s; zero
	// means 10 s, which is Dynamo's. It must be the same for all processes that
	// share the root, since each of them removes the expired files of all.
	TTL time.Duration

	// Wire is the format of the keys that are written. Both formats are read.
	Wire discovery.WireFormat

	// Logger receives warnings when registrations are lost or recovered; nil
	// disables logging.
	Logger *slog.Logger
}

const (
	defaultTTL = 10 * time.Second
	minTTL     = time.Second

	// dynamoTTL is the age at which Dynamo's processes remove a file, whatever
	// the TTL of this store is.
	dynamoTTL = 10 * time.Second
)

// FromEnv returns options with the root that DYN_FILE_KV names; unset or empty
// means dynamo_store_kv in TMPDIR, or in /tmp. DYN_EVENT_PLANE_WIRE is the format
// of the keys: gen2 (default) or gen1. lookup is usually os.LookupEnv.
func FromEnv(lookup func(string) (string, bool)) (Options, error) {
	root, _ := lookup("DYN_FILE_KV")
	if root == "" {
		tmp, _ := lookup("TMPDIR")
		if tmp == "" {
			tmp = "/tmp"
		}
		root = filepath.Join(tmp, "dynamo_store_kv")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return Options{}, fmt.Errorf("file: DYN_FILE_KV %q: %w", root, err)
	}
	wire, err := discovery.WireFormatFromEnv(lookup)
	if err != nil {
		return Options{}, fmt.Errorf("file: %w", err)
	}
	return Options{Root: root, Wire: wire}, nil
}

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.Root == "" {
		return o, errors.New("the root is empty: want a directory")
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.TTL < minTTL {
		return o, fmt.Errorf("TTL %v: want at least %v", o.TTL, minTTL)
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return o, fmt.Errorf("root %q: %w", o.Root, err)
	}
	o.Root = root
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return o, fmt.Errorf("root %q (DYN_FILE_KV): want a directory", root)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
