// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"

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

// List implements nbdserver.Catalog.
func (v *view) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	var out []nbdserver.ExportInfo
	for _, e := range v.visible() {
		out = append(out, e.info())
	}
	return out, nil
}

// Open implements nbdserver.Catalog. The name "" is the export of a listener that has only one.
func (v *view) Open(ctx context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	e := v.daemon.export(name)
	if name == "" {
		if all := v.visible(); len(all) == 1 {
			e = all[0]
		}
	}
	if e == nil || !v.has(e.name) {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	device, err := e.acquire(ctx)
	return e.info(), device, err
}
