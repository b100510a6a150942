package discovery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// Registration is an instance that the client keeps registered. It is safe for
// concurrent use.
type Registration struct {
	client   *Client
	id       ID
	lease    Lease
	instance atomic.Pointer[Instance]
	updating chan struct{} // of capacity one: full during an Update
}

// Instance returns the instance as it was last registered or updated.
func (r *Registration) Instance() Instance { return *r.instance.Load() }

// Unregister removes the registration; readers see the removal at once. It is
// idempotent.
func (r *Registration) Unregister(ctx context.Context) error {
	if err := r.lease.Unregister(ctx); err != nil {
		return fmt.Errorf("discovery: unregister %s: %w", r.id, err)
	}
	return nil
}

// Wait blocks until the registration has ended and returns the cause: an error
// that wraps ErrTakenOver, ErrClosed after Unregister or Shutdown, or ctx.Err().
// A lease that is lost and written again does not end the registration.
func (r *Registration) Wait(ctx context.Context) error {
	err := r.lease.Wait(ctx)
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("discovery: registration %s: %w", r.id, err)
}

// Health returns the state of the registration, and a channel that is closed when
// Healthy changes, or the registration ends. It is not healthy while its store has
// lost it, or cannot be reached for longer than its TTL; the client then restores
// it as soon as possible.
func (r *Registration) Health() (Health, <-chan struct{}) { return r.lease.Health() }

// Update replaces the value of the registration in place; readers see no removal.
// The id of spec must be that of the registration. The fields of a Raw that the
// package does not define are kept. As in Register, a Model that conflicts with
// others is refused with ErrModelConflict, and an EventSource must not change.
// After an error the registration has its former value or, if the store may have
// been unreachable, the new one; a later Update decides.
func (r *Registration) Update(ctx context.Context, spec Spec) error {
	return r.update(ctx, Instance{InstanceID: r.id.Instance, Spec: spec}, true)
}

// UpdateInstance is Update with an instance that was read elsewhere. Like
// RegisterInstance, it stores the instance's Raw if there is one.
func (r *Registration) UpdateInstance(ctx context.Context, in Instance) error {
	return r.update(ctx, in, false)
}

func (r *Registration) update(ctx context.Context, in Instance, keepRaw bool) error {
	if err := r.checkUpdate(in); err != nil {
		return fmt.Errorf("discovery: update %s: %w", r.id, err)
	}
	select {
	case r.updating <- struct{}{}:
		defer func() { <-r.updating }()
	case <-ctx.Done():
		return ctx.Err()
	}
	former := r.Instance()
	if keepRaw {
		in.Raw = former.Raw
	}
	value, err := in.stored()
	if err != nil {
		return fmt.Errorf("discovery: update %s: %w", r.id, err)
	}
	if in.Raw != nil {
		in.Raw = value
	}
	write := func(ctx context.Context, _ RegisterOptions) (undo, error) {
		if err := r.lease.Update(ctx, value); err != nil {
			return nil, fmt.Errorf("discovery: update %s: %w", r.id, err)
		}
		return func(ctx context.Context) error { return r.restore(ctx, former) }, nil
	}
	if err := r.client.write(ctx, "update", in, write); err != nil {
		return err
	}
	r.instance.Store(&in)
	return nil
}

func (r *Registration) checkUpdate(in Instance) error {
	if in.Spec == nil {
		return errNoSpec
	}
	if id := in.ID(); id != r.id {
		return fmt.Errorf("the new spec has the id %v %s: want that of the registration", id.Kind, id)
	}
	return in.Spec.validate()
}

// restore writes the former value again.
func (r *Registration) restore(ctx context.Context, former Instance) error {
	value, err := former.stored()
	if err == nil {
		err = r.lease.Update(ctx, value)
	}
	if err != nil {
		return fmt.Errorf("discovery: restore %s: %w", r.id, err)
	}
	return nil
}

// Register registers spec under the client's instance id.
func (c *Client) Register(ctx context.Context, spec Spec) (*Registration, error) {
	return c.RegisterAs(ctx, c.instance, spec)
}

// RegisterAs registers spec under the given id, such as that of a publisher of
// events, and takes over an existing registration of the same id. A Model that
// conflicts with those of its endpoint is refused with ErrModelConflict.
func (c *Client) RegisterAs(ctx context.Context, instance uint64, spec Spec) (*Registration, error) {
	return c.RegisterInstance(ctx, Instance{InstanceID: instance, Spec: spec})
}

// RegisterInstance registers an instance that was read elsewhere. It stores the
// instance's Raw if there is one, including the fields that this version of the
// package does not define.
func (c *Client) RegisterInstance(ctx context.Context, in Instance) (*Registration, error) {
	return c.RegisterWithOptions(ctx, in, RegisterOptions{})
}

var errNoSpec = errors.New("the instance has no spec: want an Endpoint, Model, EventChannel or EventSource")

// RegisterWithOptions is RegisterInstance with options.
func (c *Client) RegisterWithOptions(ctx context.Context, in Instance, o RegisterOptions) (*Registration, error) {
	if in.Spec == nil {
		return nil, fmt.Errorf("discovery: register: %w", errNoSpec)
	}
	id := in.ID()
	if err := errors.Join(id.validate(), in.Spec.validate()); err != nil {
		return nil, fmt.Errorf("discovery: register: %w", err)
	}
	value, err := in.stored()
	if err != nil {
		return nil, fmt.Errorf("discovery: register %s: %w", id, err)
	}
	if in.Raw != nil {
		in.Raw = value
	}
	reg := &Registration{client: c, id: id, updating: make(chan struct{}, 1)}
	reg.instance.Store(&in)
	err = c.write(ctx, "register", in, func(ctx context.Context, also RegisterOptions) (undo, error) {
		lease, err := c.store.Register(ctx, id, value, RegisterOptions{IfAbsent: o.IfAbsent || also.IfAbsent})
		if err != nil {
			return nil, fmt.Errorf("discovery: register %s: %w", id, err)
		}
		reg.lease = lease
		return reg.Unregister, nil
	})
	if err != nil {
		return nil, err
	}
	return reg, nil
}

// undo takes a write back.
type undo func(context.Context) error

// writeFunc writes an entry, with the options of the caller and these.
type writeFunc func(context.Context, RegisterOptions) (undo, error)

// write calls put, which writes the entry of in, between the checks that its kind
// needs. If the last of them fails, the write has been taken back. Errors of checks
// name the operation.
func (c *Client) write(ctx context.Context, operation string, in Instance, put writeFunc) error {
	switch spec := in.Spec.(type) {
	case Model:
		return c.writeModel(ctx, operation, spec, in.ID(), put)
	case EventSource:
		return c.writeSource(ctx, operation, spec, in.ID(), put)
	}
	_, err := put(ctx, RegisterOptions{})
	return err
}
