package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

const (
	// presentBatch bounds the entries of one request of Present, and presentBytes
	// the bytes of their names.
	presentBatch = 500
	presentBytes = 256 << 10
	// presentTimeout bounds a call of Present, during which the watch does not
	// continue.
	presentTimeout = 5 * time.Second
)

// Present implements discovery.Confirmer by the write stream, which the bucket
// follows. After a fault it may do so much later.
func (w *watcher) Present(ctx context.Context, ids []discovery.ID) (present []discovery.ID, err error) {
	ctx, end, err := w.store.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, presentTimeout)
	defer cancel()
	for len(ids) > 0 {
		n, size := 0, 0
		var subjects []string
		for n < len(ids) && n < presentBatch && size < presentBytes {
			subjects = append(subjects, w.store.opt.entrySubject(encodeKey(ids[n])))
			size += len(subjects[n])
			n++
		}
		var found []discovery.ID
		err := w.store.retry(ctx, func(ctx context.Context) error {
			found, err = w.store.livingOf(ctx, subjects)
			if errors.Is(err, nats.ErrNoResponders) { // an election, or the stream was deleted
				// Readers may request this, but not the info of the stream.
				_, rerr := w.store.readEntry(ctx, encodeKey(ids[0]))
				if hasCode(rerr, jetstream.JSErrCodeStreamNotFound) {
					return jetstream.ErrStreamNotFound
				}
			}
			return err
		})
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrPermissionViolation) {
			return nil, nil // the other copy does not exist for this reader
		}
		if err != nil {
			return nil, err
		}
		present, ids = append(present, found...), ids[n:]
	}
	return present, nil
}

// livingOf returns the ids of those subjects of the write stream whose last message
// is a living entry. Any replica may answer.
func (s *Store) livingOf(ctx context.Context, subjects []string) (living []discovery.ID, err error) {
	request, err := json.Marshal(map[string]any{"multi_last": subjects, "batch": len(subjects)})
	if err != nil {
		return nil, err
	}
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	subject := s.opt.apiSubject("DIRECT.GET", s.opt.writeStream())
	requesting(ctx, subject)
	if err := s.nc.PublishRequest(subject, inbox, request); err != nil {
		return nil, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		switch m.Header.Get("Status") {
		case "204", "404": // the end; or nothing at all
			return living, nil
		case "":
		case "503":
			return nil, nats.ErrNoResponders
		default:
			return nil, fmt.Errorf("direct get: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
		}
		if isMarker(m.Header) {
			continue
		}
		key := strings.TrimPrefix(m.Header.Get(jetstream.SubjectHeader), s.opt.entrySubject(""))
		if id, err := decodeKey(key); err == nil {
			living = append(living, id)
		}
	}
}
