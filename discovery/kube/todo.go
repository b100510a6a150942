package kube

import (
	"context"
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
)

// Get implements discovery.Store.
func (s *Store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	w, err := s.Watch(ctx, discovery.Query{Kind: id.Kind, Scope: id.Scope, Topic: id.Topic})
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	var value []byte
	for {
		ch, err := w.Next(ctx)
		switch {
		case err != nil:
			return nil, err
		case ch.Op == discovery.OpPut && ch.ID == id:
			value = ch.Value
		case ch.Op == discovery.OpDelete && ch.ID == id:
			value = nil
		case ch.Op == discovery.OpSynced && value == nil:
			return nil, fmt.Errorf("get %s: %w", id, discovery.ErrNotFound)
		case ch.Op == discovery.OpSynced:
			return value, nil
		}
	}
}

// Update implements discovery.Lease.
func (l *lease) Update(context.Context, []byte) error {
	return fmt.Errorf("update: %w", errors.ErrUnsupported)
}
