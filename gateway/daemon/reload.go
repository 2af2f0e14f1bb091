// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// Reload reads the configuration file again and applies what changed. Exports that did not change notice nothing. One
// that changed has its new configuration when its image is opened next; one that is gone keeps the clients that it has
// until they leave. A file with a mistake changes nothing.
func (d *Daemon) Reload() (api.Change, error) {
	d.change.Lock()
	defer d.change.Unlock()
	d.notify.reloading()
	change, err := d.reload()
	d.notify.send("READY=1")
	d.metrics.Reloaded(err)
	if err != nil {
		d.log.Error("configuration refused, the earlier one stays in force", "error", err)
		return change, err
	}
	d.log.Info("configuration applied", "added", change.Added, "removed", change.Removed, "changed", change.Changed,
		"unchanged", change.Unchanged, "problems", change.Problems)
	return change, nil
}

func (d *Daemon) reload() (api.Change, error) {
	change := api.Change{Added: []string{}, Removed: []string{}, Changed: []string{}, Restart: []string{}, Problems: []string{}}
	cfg, err := d.load(d.path)
	if err != nil {
		return change, err
	}
	keys, err := newKeyring(cfg)
	if err != nil {
		return change, err
	}
	d.mu.Lock()
	change.Restart = restartNeeded(d.config, cfg)
	d.config, d.keys = cfg, keys
	d.mu.Unlock()
	if d.level != nil {
		_ = d.level.UnmarshalText([]byte(cfg.Log.Level)) // it was checked
	}
	d.applyExports(cfg, &change)
	for _, err := range d.syncListeners(nil) {
		change.Problems = append(change.Problems, err.Error())
	}
	slices.Sort(change.Removed)
	return change, nil
}

func (d *Daemon) applyExports(cfg *config.File, change *api.Change) {
	inFile := map[string]bool{}
	for _, c := range cfg.Exports {
		inFile[c.Name] = true
		switch _, added, changed := d.put(c, originFile); {
		case added:
			change.Added = append(change.Added, c.Name)
		case changed:
			change.Changed = append(change.Changed, c.Name)
		default:
			change.Unchanged++
		}
	}
	for _, e := range d.all() {
		e.mu.Lock()
		gone := !inFile[e.name] && e.origin == originFile && !e.removed
		e.mu.Unlock()
		if gone {
			e.remove()
			change.Removed = append(change.Removed, e.name)
		}
	}
}

// restartNeeded names the sections that differ and are read at the start only.
func restartNeeded(a, b *config.File) []string {
	out := []string{}
	for name, differ := range map[string]bool{
		"admin":   a.Admin != b.Admin,
		"metrics": a.Metrics != b.Metrics,
		"limits":  a.Limits != b.Limits,
		"log":     a.Log.Format != b.Log.Format,
	} {
		if differ {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// put makes an export known, or gives the one of that name another configuration, and opens it if it is to be open. Nobody
// can forget it in between, as drop does.
func (d *Daemon) put(c config.Export, origin string) (e *export, added, changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e = d.exports[c.Name]
	if added = e == nil; added {
		e = newExport(d, c, origin)
		d.exports[c.Name] = e
	} else {
		changed = e.update(c, origin)
	}
	if d.ready && (added || changed) {
		e.keepUp()
	}
	return e, added, changed
}

// drop forgets an export that was removed, once its image is closed.
func (d *Daemon) drop(e *export) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e.mu.Lock()
	gone := e.removed && e.image == nil && e.opening == nil && e.users == 0
	e.mu.Unlock()
	if gone && d.exports[e.name] == e {
		delete(d.exports, e.name)
		d.metrics.Forget(e.name)
	}
}

// update gives an export a configuration; it tells whether that differs from the one before.
func (e *export) update(c config.Export, origin string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := !reflect.DeepEqual(e.cfg, c) || e.removed
	if e.removed {
		e.removed, e.drained = false, false
	}
	e.setLocked(c)
	e.origin = origin
	if changed {
		e.failure = nil
		e.idleLocked() // an idle image closes, to be opened as it is wanted now
	}
	return changed
}

// remove lets no new client in; when the last one has left the export is forgotten.
func (e *export) remove() {
	e.mu.Lock()
	e.removed, e.drained = true, true
	e.idleLocked()
	e.mu.Unlock()
	e.daemon.drop(e)
}

// drain lets no new clients in.
func (e *export) drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drained = true
	e.idleLocked()
}

// resume ends a drain. An export that is being removed stays so.
func (e *export) resume() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.removed {
		return fmt.Errorf("daemon: export %s is being removed", e.name)
	}
	e.drained = false
	e.keepUpLocked()
	return nil
}

func (d *Daemon) isReady() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready
}

// knownConfig is the configuration in force with all exports, those that were added later too.
func (d *Daemon) knownConfig() *config.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := *d.config
	c.Exports = nil
	for _, name := range slices.Sorted(maps.Keys(d.exports)) {
		e := d.exports[name]
		e.mu.Lock()
		if !e.removed {
			c.Exports = append(c.Exports, e.cfg)
		}
		e.mu.Unlock()
	}
	return &c
}
