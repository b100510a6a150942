package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	// writeTimeout bounds the attempts at a write while the API server does not
	// answer.
	writeTimeout = 10 * time.Second
	// answerTimeout is how long a write that has been sent is awaited after its
	// context is done.
	answerTimeout = 5 * time.Second
)

// lockDocument waits for the right to change the document. It returns ErrClosed
// after a Shutdown has begun.
func (s *Store) lockDocument(ctx context.Context) error {
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	if s.isClosed() {
		return discovery.ErrClosed
	}
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return s.closedOr(ctx.Err())
	}
	if s.isClosed() {
		s.unlockDocument()
		return discovery.ErrClosed
	}
	return nil
}

func (s *Store) unlockDocument() { <-s.writing }

// write makes the object contain a document, which then takes the place of the
// former one. A request that has been sent is awaited although ctx is done. After
// a failure the object contains the former document; if a request got no answer, and
// neither does the next one, it is repaired in the background. The caller holds the
// document's lock.
func (s *Store) write(ctx context.Context, doc map[discovery.ID]discovery.Instance) error {
	former, wasDirty := s.doc, s.dirty
	s.doc, s.dirty = doc, true
	uncertain, err := s.retry(ctx, detached, s.flush)
	if err == nil {
		return nil
	}
	if !errors.Is(err, discovery.ErrTakenOver) {
		s.doc, s.dirty = former, wasDirty
		if uncertain {
			_ = s.undo(ctx, former) // or in the background
		}
	}
	s.observeDocument()
	return s.located(err)
}

// undo makes the object contain a document, although ctx may be done, now or soon.
func (s *Store) undo(ctx context.Context, doc map[discovery.ID]discovery.Instance) error {
	ctx, cancel := wait.Until(context.WithoutCancel(ctx), s.life)
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, answerTimeout)
	defer cancelTimeout()
	s.doc, s.dirty = doc, true
	err := s.flush(ctx)
	if err != nil {
		s.mend()
	}
	return err
}

// detach returns a context that ends some time after ctx, and when a Shutdown
// begins.
func (s *Store) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	requests, cancel := wait.Until(context.WithoutCancel(ctx), s.life)
	stop := context.AfterFunc(ctx, func() {
		_ = wait.Sleep(requests, answerTimeout)
		cancel()
	})
	return requests, func() { stop(); cancel() }
}

// located adds the name of the object to an error.
func (s *Store) located(err error) error {
	return fmt.Errorf("write %s %s/%s: %w", workerKind, s.namespace, s.opt.objectName(), err)
}

// flush makes the object contain the document, if it may contain another one. It
// sends one or two requests, and requires the document's lock.
func (s *Store) flush(ctx context.Context) error {
	if !s.dirty {
		return nil
	}
	if len(s.doc) > 0 {
		// Before the write, so that readers of this store see the object as soon
		// as it exists.
		s.registered.Store(true)
	}
	var err error
	if len(s.doc) > 0 || s.uid == "" { // the answer contains the UID by which an object is deleted
		err = s.apply(ctx)
	}
	if err == nil && len(s.doc) == 0 {
		err = s.delete(ctx)
	}
	if err != nil {
		return err
	}
	s.dirty = false
	for l := range s.leaving {
		l.removed.Store(true)
		delete(s.leaving, l)
	}
	for _, l := range s.leases {
		l.Beat(time.Now())
	}
	s.observeDocument()
	return nil
}

// observeDocument shows the watches of this store whether it has registered anything.
func (s *Store) observeDocument() {
	s.registered.Store(len(s.doc) > 0)
	s.wakeWatchers()
}

func (s *Store) objects() dynamic.ResourceInterface {
	return s.client.Resource(workerResource()).Namespace(s.namespace)
}

// apply writes the whole document with server-side apply. If the object is no
// longer the one that this store wrote, apply finds out whose it is.
func (s *Store) apply(ctx context.Context) error {
	var doc discovery.Metadata
	for _, in := range s.doc {
		doc.Add(in)
	}
	for {
		object, err := workerObject(s.opt, s.uid, doc)
		if err != nil {
			return err
		}
		written, err := s.objects().Patch(ctx, s.opt.objectName(),
			types.ApplyPatchType, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)})
		if err == nil {
			s.uid = written.GetUID()
			return nil
		}
		if s.uid == "" || !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
			return err
		}
		if same, rerr := s.readOwner(ctx); rerr != nil {
			return rerr
		} else if same {
			return err
		}
	}
}

// readOwner reads the UID of the object. It reports whether it is still the same.
// If another pod of the same name has replaced the object, all leases end.
func (s *Store) readOwner(ctx context.Context) (same bool, err error) {
	object, err := s.objects().Get(ctx, s.opt.objectName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // a writer need not be allowed to read
		s.uid = ""
		return false, nil
	case err != nil:
		return false, err
	case object.GetUID() == s.uid:
		return true, nil
	case isOwnedBy(object, s.opt.PodUID):
		s.uid = object.GetUID()
		return false, nil
	}
	s.log.Warn("kube: another pod of the same name took over the object; its registrations are no longer written here", "object", s.opt.objectName())
	s.endLeases(discovery.ErrTakenOver)
	for l := range s.leaving {
		l.removed.Store(true)
		delete(s.leaving, l)
	}
	s.doc, s.uid, s.dirty = map[discovery.ID]discovery.Instance{}, "", false
	return false, errTakenOver
}

var errTakenOver = fmt.Errorf("the object is that of another pod: %w", discovery.ErrTakenOver)

func isOwnedBy(object *unstructured.Unstructured, podUID string) bool {
	for _, ref := range object.GetOwnerReferences() {
		if ref.Kind == "Pod" && string(ref.UID) == podUID {
			return true
		}
	}
	return false
}

// delete deletes the object unless it has been replaced by another one.
func (s *Store) delete(ctx context.Context) error {
	err := s.objects().Delete(ctx, s.opt.objectName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		s.uid = ""
		return nil
	}
	return err
}

// awaiting is how long the attempts at a request last.
type awaiting bool

const (
	attached awaiting = false // until the context of the call is done
	detached awaiting = true  // some time longer, and not past the beginning of a Shutdown
)

// retry repeats a request until it succeeds, is refused, or the time is over. It
// reports whether an attempt that failed may have been executed, or may be later.
func (s *Store) retry(ctx context.Context, mode awaiting, try func(context.Context) error) (uncertain bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	requests := ctx
	if mode == detached {
		var end context.CancelFunc
		requests, end = s.detach(ctx)
		defer end()
	}
	backoff := wait.Backoff{Min: 250 * time.Millisecond, Max: 2 * time.Second}
	for {
		if cause := ctx.Err(); cause != nil {
			return uncertain, cause
		}
		err := try(requests)
		if err == nil {
			return false, nil
		}
		if isRefusal(err) || errors.Is(err, discovery.ErrTakenOver) {
			return uncertain, err
		}
		uncertain = uncertain || !apierrors.IsConflict(err) && !apierrors.IsTooManyRequests(err)
		if cause := wait.Sleep(ctx, backoff.Next()); cause != nil {
			if !errors.Is(err, cause) {
				err = fmt.Errorf("%w (last failure: %w)", cause, err)
			}
			return uncertain, err
		}
	}
}

// isRefusal reports whether the API server would refuse the same write again.
func isRefusal(err error) bool {
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) ||
		apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// mend repairs the object in the background. It requires the document's lock.
func (s *Store) mend() {
	if s.mending || s.isClosed() {
		return
	}
	s.mending = true
	s.running.Go(func() {
		backoff := wait.Backoff{Min: 250 * time.Millisecond, Max: 10 * time.Second}
		for wait.Sleep(s.life, backoff.Next()) == nil {
			if s.lockDocument(s.life) != nil {
				return
			}
			err := s.flush(s.life)
			if err == nil {
				s.mending = false
			} else {
				s.log.Debug("kube: repairing the object failed, retrying", "error", s.located(err))
			}
			s.unlockDocument()
			if err == nil {
				return
			}
		}
	})
}
