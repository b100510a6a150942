package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// ErrModelConflict is wrapped by the error of a Register whose model conflicts
// with one that its endpoint already serves.
var ErrModelConflict = errors.New("another model is registered there")

// ErrSourceConflict is wrapped by the error of a Register whose EventSource is
// already registered with other metadata: a source never changes.
var ErrSourceConflict = errors.New("the source is registered with other metadata")

// writeSource writes a source that no other client registers meanwhile, or one whose
// other registrations have equal metadata.
func (c *Client) writeSource(ctx context.Context, operation string, source EventSource, id ID, put writeFunc) error {
	if err := c.checkSource(ctx, operation, source, id); err != nil {
		return err
	}
	_, err := put(ctx, RegisterOptions{IfAbsent: true})
	if !errors.Is(err, ErrExists) {
		return err
	}
	if err := c.checkSource(ctx, operation, source, id); err != nil {
		return err
	}
	_, err = put(ctx, RegisterOptions{})
	return err
}

// checkSource refuses a source that is registered with other metadata. An entry
// that is not valid is replaced.
func (c *Client) checkSource(ctx context.Context, operation string, source EventSource, own ID) error {
	present, found, err := c.lookup(ctx, own)
	if err != nil || !found {
		return err
	}
	if !equalJSON(present.Spec.(EventSource).Metadata, source.Metadata) {
		return fmt.Errorf("discovery: %s %s: %w", operation, own, ErrSourceConflict)
	}
	return nil
}

// equalJSON compares values, not their spelling, and numbers exactly.
func equalJSON(a, b json.RawMessage) bool {
	decode := func(data json.RawMessage) (v any) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if d.Decode(&v) != nil {
			return nil
		}
		return v
	}
	return reflect.DeepEqual(decode(a), decode(b))
}

// modelIdentity is the part of a card that all models of one endpoint share.
type modelIdentity struct {
	displayName string
	sourcePath  string
	lora        bool
}

// identity reads the identity from the card. It is called for each card of an
// endpoint by each client that registers there; a card in the usual form is
// therefore read in one pass.
func (m Model) identity() (modelIdentity, error) {
	id, ok := plainIdentity(m.Card)
	if !ok {
		var err error
		if id, err = anyIdentity(m.Card); err != nil {
			return modelIdentity{}, fmt.Errorf("card of model at %s: %w", m.Scope, err)
		}
	}
	id.lora = id.lora || m.Suffix != ""
	return id, nil
}

// plainIdentity reports false for a card that anyIdentity has to read.
func plainIdentity(card []byte) (modelIdentity, bool) {
	var r plainReader
	f, _ := r.fields(card, "display_name", "source_path", "lora")
	id := modelIdentity{
		displayName: string(r.unquote(f[0])),
		lora:        f[2] != nil && string(f[2]) != "null",
	}
	if path := f[1]; path != nil && path[0] == '"' {
		id.sourcePath = string(r.unquote(path))
	}
	return id, !r.other
}

func anyIdentity(data []byte) (modelIdentity, error) {
	var card struct {
		DisplayName *string         `json:"display_name"`
		SourcePath  json.RawMessage `json:"source_path"`
		LoRA        json.RawMessage `json:"lora"`
	}
	if err := json.Unmarshal(data, &card); err != nil {
		return modelIdentity{}, fmt.Errorf("%.100q: want a JSON object whose display_name is a string", data)
	}
	if card.DisplayName == nil {
		return modelIdentity{}, errors.New("no display_name: want a string")
	}
	id := modelIdentity{displayName: *card.DisplayName, lora: card.LoRA != nil && string(card.LoRA) != "null"}
	// A source path that is not a string counts as none, as in Dynamo.
	_ = json.Unmarshal(card.SourcePath, &id.sourcePath)
	return id, nil
}

func (a modelIdentity) base() string {
	if a.sourcePath != "" {
		return a.sourcePath
	}
	return a.displayName
}

// compatible follows Dynamo's rule: an adapter is compatible with its base
// model, and any other two models must have equal names.
func (a modelIdentity) compatible(b modelIdentity) bool {
	if a.lora || b.lora {
		return a.base() == b.base()
	}
	return a.displayName == b.displayName
}

const (
	// confirmPatience is how long a registered model may take to appear among the
	// models of its endpoint while nothing else does.
	confirmPatience = 10 * time.Second
	// An unchanged value under the same id may be no change to a store. The view
	// is then read again.
	unchangedPatience = 500 * time.Millisecond
	undoPatience      = 5 * time.Second
)

// writeModel writes a model between two checks for conflicts, since two workers
// may register at once: each of them writes, then reads up to its own entry. All
// entries that were written before have then been read too, and the writer of a
// later one will read this one. If the second check fails, the write is taken back.
func (c *Client) writeModel(ctx context.Context, operation string, model Model, id ID, put writeFunc) error {
	want, err := model.identity()
	if err != nil {
		return fmt.Errorf("discovery: %s %s: %w", operation, id, err)
	}
	view := c.views.acquire(c, model.Scope)
	defer c.views.release(view)
	if err := c.checkModels(ctx, view, want, id); err != nil {
		return err
	}
	before := view.position()
	undo, err := put(ctx, RegisterOptions{})
	if err != nil {
		return err
	}
	if err = c.confirmModel(ctx, operation, view, want, id, before); err != nil {
		// The caller's context may be the cause.
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		return errors.Join(err, undo(undoing))
	}
	return nil
}

// confirmModel checks again once the view shows the model that was just written.
// It goes on if ctx ends, so that a canceled registration either succeeds or is
// taken back; then it is bounded by confirmPatience. Otherwise it goes on for as long as
// the view changes.
func (c *Client) confirmModel(ctx context.Context, operation string, view *modelView, want modelIdentity, own ID, before viewPosition) error {
	written := time.Now()
	detached := context.WithoutCancel(ctx)
	patience := confirmPatience
	if view.shows(own, want) {
		patience = unchangedPatience
	}
	for {
		at := view.position()
		step, cancel := context.WithTimeout(detached, patience)
		err := view.await(step, func() bool { return view.hasSeen(own, want, before, written) })
		if err == nil {
			err = c.checkModels(step, view, want, own)
		}
		cancel()
		switch {
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		case patience == unchangedPatience:
			patience = confirmPatience
			view.restart()
		case ctx.Err() != nil || view.position() == at:
			return fmt.Errorf("discovery: %s %s: the model does not appear at its endpoint: %w", operation, own, err)
		}
	}
}

// checkModels returns an error if a model of the view conflicts. The view may be
// late, so the store decides whether that model is still registered.
func (c *Client) checkModels(ctx context.Context, view *modelView, want modelIdentity, own ID) error {
	for {
		if err := view.await(ctx, view.isComplete); err != nil {
			return err
		}
		id, seen, found := view.conflict(want, own)
		if !found {
			return nil
		}
		now, err := c.registeredModel(ctx, id)
		if err != nil {
			return err
		}
		if now != nil && !want.compatible(*now) {
			return fmt.Errorf("discovery: model %q at %s: %.100q is served there: %w",
				want.displayName, own.Scope, now.displayName, ErrModelConflict)
		}
		view.correct(id, seen, now)
	}
}

// registeredModel returns the identity of the model that is registered under id
// now, or nil if there is none, or no valid one.
func (c *Client) registeredModel(ctx context.Context, id ID) (*modelIdentity, error) {
	in, found, err := c.lookup(ctx, id)
	if err != nil || !found {
		return nil, err
	}
	identity, err := in.Spec.(Model).identity()
	if err != nil {
		c.warnBad(id.Path(), err)
		return nil, nil
	}
	return &identity, nil
}

// lookup is Get for an entry that may be absent or invalid.
func (c *Client) lookup(ctx context.Context, id ID) (in Instance, found bool, err error) {
	value, err := c.store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Instance{}, false, nil
	}
	if err != nil {
		return Instance{}, false, getError(ctx, id, err)
	}
	in, err = decodeEntry(id, value)
	if err != nil {
		c.warnBad(id.Path(), err)
		return Instance{}, false, nil
	}
	return in, true, nil
}
