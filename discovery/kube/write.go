package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// A write is retried for writeTimeout while the API server does not answer.
const (
	writeTimeout    = 10 * time.Second
	firstRetryDelay = 250 * time.Millisecond
	maxRetryDelay   = 2 * time.Second
)

// lockDocument waits for the right to change the document. It returns ErrClosed
// after a Shutdown.
func (s *Store) lockDocument(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.isClosed() {
		s.unlockDocument()
		return discovery.ErrClosed
	}
	return nil
}

func (s *Store) unlockDocument() { <-s.writing }

// write makes the object contain the given registrations, and then records them
// as the document. After a failure the document is unchanged. The caller holds
// the document's lock.
func (s *Store) write(ctx context.Context, leases map[discovery.ID]*lease) error {
	object := s.opt.objectName()
	var err error
	switch {
	case len(leases) > 0:
		// Before the write, so that readers of this store see the object as
		// soon as it exists.
		s.registered.Store(true)
		err = s.retry(ctx, func() error { return s.apply(ctx, leases) })
	case s.uid != "":
		err = s.retry(ctx, func() error { return s.delete(ctx) })
	}
	if err == nil {
		s.leases = leases
	}
	s.registered.Store(len(s.leases) > 0)
	if err != nil {
		s.wakeWatchers()
		return fmt.Errorf("write %s %s/%s: %w", workerKind, s.namespace, object, err)
	}
	return nil
}

// apply writes the whole document with server-side apply.
func (s *Store) apply(ctx context.Context, leases map[discovery.ID]*lease) error {
	var doc discovery.Metadata
	for _, l := range leases {
		doc.Add(l.instance)
	}
	object, err := workerObject(s.opt, doc)
	if err != nil {
		return err
	}
	written, err := s.client.Resource(workerResource()).Namespace(s.namespace).Patch(ctx, s.opt.objectName(),
		types.ApplyPatchType, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)})
	if err != nil {
		return err
	}
	s.uid = written.GetUID()
	return nil
}

// delete deletes the object unless it has been replaced by another one.
func (s *Store) delete(ctx context.Context) error {
	err := s.client.Resource(workerResource()).Namespace(s.namespace).Delete(
		ctx, s.opt.objectName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		s.uid = ""
		return nil
	}
	return err
}

// retry repeats a write until it succeeds, is refused, or the time is over.
func (s *Store) retry(ctx context.Context, write func() error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for delay := firstRetryDelay; ; delay = min(2*delay, maxRetryDelay) {
		err := write()
		if err == nil || isRefusal(err) || wait.Sleep(ctx, delay) != nil {
			return err
		}
	}
}

// isRefusal reports whether the API server would refuse the same write again.
func isRefusal(err error) bool {
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) ||
		apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err)
}
