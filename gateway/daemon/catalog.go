// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"sync"

	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/nbdserver"
)

// A view is what the clients of one listener see: the export whose own socket it is, or all that a shared listener's
// configuration names. It implements nbdserver.Catalog.
type view struct {
	daemon *Daemon

	mu   sync.Mutex
	only string         // name of the export, for its own socket
	list *config.Listen // of a shared listener
}

func (v *view) set(only string, list *config.Listen) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.only, v.list = only, list
}

func (v *view) has(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.only != "" && v.only == name || v.list != nil && v.list.Has(name)
}

func (v *view) visible() []*export {
	var out []*export
	for _, e := range v.daemon.all() {
		if v.has(e.name) {
			out = append(out, e)
		}
	}
	return out
}

// List implements nbdserver.Catalog. Exports that peer may not open are left out.
func (v *view) List(_ context.Context, peer *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	var out []nbdserver.ExportInfo
	for _, e := range v.visible() {
		if e.admit(peer) == nil {
			out = append(out, e.info())
		}
	}
	return out, nil
}

// Open implements nbdserver.Catalog. The name "" is the export of a listener that has only one, whoever asks. Whether
// peer may have the export is decided first: nothing is opened and no key is fetched for anybody else.
func (v *view) Open(ctx context.Context, name string, peer *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	e := v.daemon.export(name)
	if name == "" {
		if all := v.visible(); len(all) == 1 {
			e = all[0]
		}
	}
	if e == nil || !v.has(e.name) {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	if err := e.admit(peer); err != nil {
		return nbdserver.ExportInfo{}, nil, err
	}
	device, err := e.acquire(ctx)
	return e.info(), device, err
}

// setLocked gives the export a configuration; e.mu is held, or nobody else knows e yet.
func (e *export) setLocked(c config.Export) {
	e.cfg = c
	e.policy, e.policyErr = access.NewPolicy(c.Allow.Rules())
}

// admit says whether peer may open the export. Clients that are there, or come from an earlier process, are not asked.
func (e *export) admit(peer *nbdserver.Peer) error {
	e.mu.Lock()
	policy, err := e.policy, e.policyErr
	e.mu.Unlock()
	if err != nil { // a name that was there when the file was checked
		return fmt.Errorf("daemon: %w: %w", nbdserver.ErrDenied, err)
	}
	return policy.Check(peer)
}
