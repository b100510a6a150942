package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dynplane/dynplane/discovery"
)

// A write is tried again for this long while the API server does not answer, as
// often as this.
const (
	writePatience   = 10 * time.Second
	firstRetryDelay = 250 * time.Millisecond
	maxRetryDelay   = 2 * time.Second
)

// begin takes the turn to change the document.
func (s *Store) begin(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.closed:
		s.end()
		return discovery.ErrClosed
	default:
		return nil
	}
}

func (s *Store) end() { <-s.turn }

// write makes the object hold these registrations, and then takes them for the
// document. When it fails the document is what it was.
func (s *Store) write(ctx context.Context, leases map[discovery.ID]*lease) error {
	object := s.options.objectName()
	var err error
	switch {
	case len(leases) > 0:
		// Readers of this store look for it as soon as it is there.
		s.own.Store(true)
		err = s.retry(ctx, func() error { return s.apply(ctx, leases) })
	case s.uid != "":
		err = s.retry(ctx, func() error { return s.remove(ctx) })
	}
	if err == nil {
		s.leases = leases
	}
	s.own.Store(len(s.leases) > 0)
	if err != nil {
		s.wakeWatchers()
		return fmt.Errorf("write %s %s/%s: %w", workerKind, s.namespace, object, err)
	}
	return nil
}

func (s *Store) apply(ctx context.Context, leases map[discovery.ID]*lease) error {
	var doc discovery.Metadata
	for _, l := range leases {
		doc.Add(l.instance)
	}
	object, err := workerObject(s.options, doc)
	if err != nil {
		return err
	}
	written, err := s.client.Resource(workers()).Namespace(s.namespace).Patch(ctx, s.options.objectName(),
		types.ApplyPatchType, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)})
	if err != nil {
		return err
	}
	s.uid = written.GetUID()
	return nil
}

// remove deletes the object, unless it is another one by now.
func (s *Store) remove(ctx context.Context) error {
	err := s.client.Resource(workers()).Namespace(s.namespace).Delete(
		ctx, s.options.objectName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		s.uid = ""
		return nil
	}
	return err
}

// retry does a write again while the API server may yet take it.
func (s *Store) retry(ctx context.Context, write func() error) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	for delay := firstRetryDelay; ; delay = min(2*delay, maxRetryDelay) {
		err := write()
		if err == nil || apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) ||
			apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err) {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}
