package file

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// Options are the settings of New. Root is required.
type Options struct {
	// Root is the directory above the buckets. Writers make it.
	Root string

	// TTL is how old a file may grow untouched: at least 1 s, zero is 10 s. It
	// must be the same for all who share the root, since everybody removes
	// what is older; that of the runtime is 10 s.
	TTL time.Duration

	// Logger hears what is lost and found again; nil is silent.
	Logger *slog.Logger
}

const (
	defaultTTL = 10 * time.Second
	minTTL     = time.Second

	// runtimeTTL is after what the runtime's processes remove a file, whatever
	// our own TTL.
	runtimeTTL = 10 * time.Second
)

// FromEnv reads DYN_FILE_KV, which names the root; unset or empty is
// dynamo_store_kv in TMPDIR, or in /tmp. lookup is os.LookupEnv, or what a test
// wants.
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
	return Options{Root: root}, nil
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
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
