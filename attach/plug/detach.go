// SPDX-License-Identifier: Apache-2.0

package plug

import (
	"context"
	"errors"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

// Detach removes the disk Target, and then has the gateway release its export unless the domain still has it. changed is
// false if there was no such disk.
func Detach(ctx context.Context, host Host, gate Gateway, opts Options) (changed bool, err error) {
	type found struct {
		scope virt.Scope
		disk  disk
	}
	var there []found
	for _, scope := range opts.Scopes {
		all, err := disks(ctx, host, opts.Domain, scope)
		if err != nil {
			return false, err
		}
		d, ok := byTarget(all, opts.Target)
		if ok && !d.isNBD {
			return false, errorf("disk %s in the %v of %s is none of the gateway's", opts.Target, scope, opts.Domain.Name)
		}
		if ok {
			there = append(there, found{scope, d})
		}
	}
	for _, f := range there {
		if err := remove(ctx, host, opts, f.scope, f.disk.xml); err != nil {
			return true, err
		}
	}
	uris := []attach.URI{same(opts.URI)}
	for _, f := range there {
		uris = append(uris, f.disk.uri)
	}
	for _, uri := range uris {
		if err := release(ctx, host, gate, opts.Domain, uri); err != nil {
			return len(there) > 0, err
		}
	}
	return len(there) > 0, nil
}

func release(ctx context.Context, host Host, gate Gateway, d virt.Domain, uri attach.URI) error {
	if uri == (attach.URI{}) {
		return nil
	}
	if used, err := uses(ctx, host, d, uri); err != nil || used {
		return err
	}
	return gate.Release(ctx, uri)
}

// remove removes a disk and waits until the guest has let it go.
func remove(ctx context.Context, host Host, opts Options, scope virt.Scope, xml string) error {
	refused := host.Detach(ctx, opts.Domain, scope, xml)
	if scope == virt.Config {
		return refused
	}
	deadline := time.Now().Add(max(opts.Wait, time.Second))
	for {
		all, err := disks(ctx, host, opts.Domain, scope)
		if err != nil {
			return errors.Join(refused, err)
		}
		// libvirt refuses to ask a guest twice; the disk may still go because of the first time.
		if _, there := byTarget(all, opts.Target); !there {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(refused, errorf("the guest of %s has not let disk %s go; its export stays", opts.Domain.Name, opts.Target))
		}
		if err := opts.sleep(ctx); err != nil {
			return errors.Join(refused, err)
		}
	}
}

// uses says whether any definition of a domain has an export as a disk.
func uses(ctx context.Context, host Host, d virt.Domain, uri attach.URI) (bool, error) {
	scopes, err := Scopes(d, false, false)
	if err != nil {
		return false, err
	}
	for _, scope := range scopes {
		all, err := disks(ctx, host, d, scope)
		if err != nil {
			return false, err
		}
		for _, other := range all {
			if other.isNBD && other.uri == uri {
				return true, nil
			}
		}
	}
	return false, nil
}
