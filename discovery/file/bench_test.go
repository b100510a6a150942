//go:build linux || darwin

package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
)

func BenchmarkRegister(b *testing.B) {
	b.Run("store", func(b *testing.B) {
		store, err := file.New(file.Options{Root: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = store.Shutdown(b.Context()) }()
		value := []byte(endpointJSON(1, "cpu"))
		for b.Loop() {
			lease, err := store.Register(b.Context(), endpoint().ID(1), value, discovery.RegisterOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if err := lease.Unregister(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("os", func(b *testing.B) { // the least that a store has to do
		path := filepath.Join(b.TempDir(), "entry")
		value := []byte(endpointJSON(1, "cpu"))
		for b.Loop() {
			if err := os.WriteFile(path+".tmp", value, 0o666); err != nil {
				b.Fatal(err)
			}
			if err := os.Rename(path+".tmp", path); err != nil {
				b.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkList1000(b *testing.B) {
	root := b.TempDir()
	dir := filepath.Join(root, endpointsDir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	for id := range uint64(1000) {
		if err := os.WriteFile(endpointPath(root, id), []byte(endpointJSON(id, "cpu")), 0o666); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("client", func(b *testing.B) {
		store, err := file.New(file.Options{Root: root, TTL: 1 << 60})
		if err != nil {
			b.Fatal(err)
		}
		client := discovery.NewClient(store, discovery.Options{})
		defer func() { _ = client.Shutdown(b.Context()) }()
		for b.Loop() {
			list, err := client.List(b.Context(), discovery.Query{Kind: discovery.KindEndpoint})
			if err != nil || len(list) != 1000 {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("os", func(b *testing.B) {
		for b.Loop() {
			entries, err := os.ReadDir(dir)
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range entries {
				if _, err := os.ReadFile(fmt.Sprint(dir, "/", e.Name())); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
