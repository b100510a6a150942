package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// ErrModelConflict is wrapped by the error of a Register whose model conflicts
// with one that its endpoint already serves.
var ErrModelConflict = errors.New("another model is registered there")

// ErrSourceConflict is wrapped by the error of a Register whose EventSource is
// already registered with other metadata: a source never changes.
var ErrSourceConflict = errors.New("the source is registered with other metadata")

// checkSource refuses a source that is registered with other metadata. An entry
// that is not valid is replaced.
func (c *Client) checkSource(ctx context.Context, source EventSource, own ID) error {
	value, err := c.store.Get(ctx, own)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return getError(ctx, own, err)
	}
	present, err := decodeEntry(own, value)
	if err != nil {
		c.warnBad(own.Path(), err)
		return nil
	}
	if !equalJSON(present.Spec.(EventSource).Metadata, source.Metadata) {
		return fmt.Errorf("discovery: register %s: %w", own, ErrSourceConflict)
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

func (m Model) identity() (modelIdentity, error) {
	var card struct {
		DisplayName *string         `json:"display_name"`
		SourcePath  json.RawMessage `json:"source_path"`
		LoRA        json.RawMessage `json:"lora"`
	}
	if err := json.Unmarshal(m.Card, &card); err != nil {
		return modelIdentity{}, fmt.Errorf("card of model at %s: %.100q: want a JSON object whose display_name is a string", m.Scope, m.Card)
	}
	if card.DisplayName == nil {
		return modelIdentity{}, fmt.Errorf("card of model at %s: no display_name: want a string", m.Scope)
	}
	id := modelIdentity{
		displayName: *card.DisplayName,
		lora:        m.Suffix != "" || card.LoRA != nil && string(card.LoRA) != "null",
	}
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

// checkConflict compares model with the others of its endpoint. It is called
// before and after the registration, since two workers may register at once.
func (c *Client) checkConflict(ctx context.Context, model Model, own ID) (found bool, err error) {
	want, err := model.identity()
	if err != nil {
		return false, err
	}
	present, err := c.List(ctx, Query{Kind: KindModel, Scope: model.Scope})
	if err != nil {
		return false, err
	}
	for _, instance := range present {
		if instance.ID() == own {
			found = true // an entry under the client's own id is replaced
			continue
		}
		other, err := instance.Spec.(Model).identity()
		if err != nil {
			c.warnBad(instance.ID().Path(), err)
			continue
		}
		if !want.compatible(other) {
			return found, fmt.Errorf("discovery: model %q at %s: %.100q is served there: %w",
				want.displayName, model.Scope, other.displayName, ErrModelConflict)
		}
	}
	return found, nil
}

// writeModel writes a model between two checks for conflicts, and takes it back if
// the second one finds one.
func (c *Client) writeModel(ctx context.Context, model Model, id ID, put func(context.Context) (undo, error)) error {
	if _, err := c.checkConflict(ctx, model, id); err != nil {
		return err
	}
	undo, err := put(ctx)
	if err != nil {
		return err
	}
	return c.confirmModel(ctx, model, id, undo)
}

// confirmModel repeats the conflict check once the model is registered, and
// unregisters it if there is a conflict. The list must contain the client's own
// entry: a replica may lag behind the write.
func (c *Client) confirmModel(ctx context.Context, model Model, id ID, undo undo) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		found, err := c.checkConflict(ctx, model, id)
		if err == nil && found {
			return nil
		}
		if err == nil {
			err = wait.Sleep(ctx, 50*time.Millisecond)
		}
		if err != nil {
			// The caller's context may be the cause.
			undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(err, undo(undoing))
		}
	}
}
