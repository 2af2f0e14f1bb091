// SPDX-License-Identifier: Apache-2.0

// Package plug adds an export of the gateway to a domain as a disk, and takes it away again.
//
// Attach goes through these steps, and if one fails it undoes those before it, last one first:
//
//  1. look at the domain: is the disk there already, or in the way
//  2. have the gateway serve the export
//  3. add the disk to the configuration, for the next start
//  4. add it to the running domain
//  5. wait until the guest has read from it
//
// Detach goes the other way round, and takes the export away last. Both leave alone what is done already, so that a call
// that was interrupted can be repeated.
package plug

import (
	"context"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

// Host is the part of libvirt that is needed; *virt.Conn is one.
type Host interface {
	XML(ctx context.Context, d virt.Domain, s virt.Scope) (string, error)
	Attach(ctx context.Context, d virt.Domain, s virt.Scope, device string) error
	Detach(ctx context.Context, d virt.Domain, s virt.Scope, device string) error
	Reads(ctx context.Context, d virt.Domain, target string) (int64, error)
}

// Gateway serves exports.
type Gateway interface {
	// Ensure has an export served, and says whether it was not there before.
	Ensure(ctx context.Context) (created bool, err error)
	// Release takes the export at an address away, if it is one that was added while the gateway ran and nobody uses it.
	Release(ctx context.Context, uri attach.URI) error
}

// Options say which disk of which domain is meant.
type Options struct {
	Domain virt.Domain
	// Scopes are the definitions to change, in the order Config, Live.
	Scopes []virt.Scope
	// Target is the name of the disk, such as vdb.
	Target string
	// URI is the export of a disk that is not there any more: Detach has it released as well, in case the call that removed
	// the disk did not get so far. The zero value: there is none.
	URI attach.URI
	// Wait bounds how long the guest may take, to read from a new disk or to let an old one go. 0: it is not waited for.
	Wait time.Duration
	// Poll is how often the guest is looked at; default 100 ms.
	Poll time.Duration
}

// Scopes are the definitions that live and config mean. Neither of them means those that the domain has.
func Scopes(d virt.Domain, live, config bool) ([]virt.Scope, error) {
	if !live && !config {
		live, config = d.Running, d.Persistent
	}
	var scopes []virt.Scope
	if config {
		if !d.Persistent {
			return nil, errorf("domain %s is transient: it has no configuration for a next start", d.Name)
		}
		scopes = append(scopes, virt.Config)
	}
	if live {
		if !d.Running {
			return nil, errorf("domain %s does not run", d.Name)
		}
		scopes = append(scopes, virt.Live)
	}
	return scopes, nil
}
