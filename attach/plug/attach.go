// SPDX-License-Identifier: Apache-2.0

package plug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

// undoTimeout bounds what is done after a failure or the end of a context, beside the time that the guest is given.
const undoTimeout = 30 * time.Second

// A plugger carries one Attach from step to step.
type plugger struct {
	host Host
	gate Gateway
	opts Options
	undo []func(context.Context) error // of what was done to the domain
	// created: the gateway has a new export.
	created bool
}

// Attach adds a disk, whose XML has uri as its source. changed is false if it was there already.
func Attach(ctx context.Context, host Host, gate Gateway, opts Options, uri attach.URI, xml string) (changed bool, err error) {
	p := &plugger{host: host, gate: gate, opts: opts}
	changed, err = p.attach(ctx, same(uri), xml)
	if err == nil {
		return changed, nil
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout+opts.Wait)
	defer cancel()
	var left []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		left = append(left, p.undo[i](cleanup))
	}
	if p.created && errors.Join(left...) == nil { // what stays plugged in must stay served
		left = append(left, gate.Release(cleanup, same(uri)))
	}
	if undoErr := errors.Join(left...); undoErr != nil {
		return false, fmt.Errorf("%w; and it could not be undone: %w", err, undoErr)
	}
	return false, err
}

func (p *plugger) attach(ctx context.Context, uri attach.URI, xml string) (bool, error) {
	var missing []virt.Scope
	for _, scope := range p.opts.Scopes {
		there, err := p.isThere(ctx, scope, uri)
		if err != nil {
			return false, err
		}
		if !there {
			missing = append(missing, scope)
		}
	}
	var err error
	if p.created, err = p.gate.Ensure(ctx); err != nil {
		return false, err
	}
	for _, scope := range missing {
		if err := p.host.Attach(ctx, p.opts.Domain, scope, xml); err != nil {
			return false, err
		}
		p.undo = append(p.undo, func(ctx context.Context) error { return remove(ctx, p.host, p.opts, scope, xml) })
		if scope == virt.Live {
			if err := p.waitRead(ctx); err != nil {
				return false, err
			}
		}
	}
	return p.created || len(missing) > 0, nil
}

// isThere looks for the disk, and for what is in its way.
func (p *plugger) isThere(ctx context.Context, scope virt.Scope, uri attach.URI) (bool, error) {
	all, err := disks(ctx, p.host, p.opts.Domain, scope)
	if err != nil {
		return false, err
	}
	for _, d := range all {
		switch {
		case d.target == p.opts.Target && d.isNBD && d.uri == uri:
			return true, nil
		case d.target == p.opts.Target:
			return false, errorf("the %v of %s has another disk %s already", scope, p.opts.Domain.Name, d.target)
		case d.isNBD && d.uri == uri:
			return false, errorf("the %v of %s has %v already, as %s", scope, p.opts.Domain.Name, uri, d.target)
		}
	}
	return false, nil
}

// waitRead waits until the guest has read from the disk: its driver does so when it takes the disk.
func (p *plugger) waitRead(ctx context.Context) error {
	if p.opts.Wait == 0 {
		return nil
	}
	deadline := time.Now().Add(p.opts.Wait)
	for {
		reads, err := p.host.Reads(ctx, p.opts.Domain, p.opts.Target)
		if err != nil || reads > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return errorf("the guest of %s has not read from %s within %v: does its system know hot-plugged disks? (--wait 0 does not ask)",
				p.opts.Domain.Name, p.opts.Target, p.opts.Wait)
		}
		if err := p.opts.sleep(ctx); err != nil {
			return err
		}
	}
}

func (o *Options) sleep(ctx context.Context) error {
	poll := o.Poll
	if poll == 0 {
		poll = 100 * time.Millisecond
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(poll):
		return nil
	}
}
