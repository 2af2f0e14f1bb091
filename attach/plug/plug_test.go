// SPDX-License-Identifier: Apache-2.0

package plug

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

var (
	here    = attach.URI{Socket: "/run/luksgate/vm-vdb.sock", Export: "vm-vdb"}
	there   = attach.URI{Host: "gate", Port: 10809, Export: "vm-vdb"}
	machine = virt.Domain{Name: "vm", Running: true, Persistent: true}
	errFake = errors.New("broken")
)

func diskXML(t *testing.T, uri attach.URI, target string) string {
	t.Helper()
	text, err := attach.Disk(attach.DiskOptions{URI: uri, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A world is a libvirt with one domain, and a gateway with at most one export. Every call is counted, and the one that is
// broken fails after it did nothing.
type world struct {
	disks    map[virt.Scope][]string // XML
	export   bool
	stubborn bool // the guest never lets a disk go
	blind    bool // the guest never reads
	calls    int
	broken   int
	log      []string
}

func newWorld() *world { return &world{disks: map[virt.Scope][]string{}, broken: -1} }

func (w *world) call(what string) error {
	w.calls++
	w.log = append(w.log, what)
	if w.calls == w.broken {
		return errFake
	}
	return nil
}

func (w *world) XML(_ context.Context, _ virt.Domain, s virt.Scope) (string, error) {
	if err := w.call(fmt.Sprint("xml ", s)); err != nil {
		return "", err
	}
	return "<domain type='kvm'><devices>" + strings.Join(w.disks[s], "") + "</devices></domain>", nil
}

func (w *world) Attach(_ context.Context, _ virt.Domain, s virt.Scope, device string) error {
	if err := w.call(fmt.Sprint("attach ", s)); err != nil {
		return err
	}
	if !w.export {
		return errors.New("nobody serves it")
	}
	w.disks[s] = append(w.disks[s], device)
	return nil
}

func (w *world) Detach(_ context.Context, _ virt.Domain, s virt.Scope, _ string) error {
	if err := w.call(fmt.Sprint("detach ", s)); err != nil {
		return err
	}
	if s == virt.Config || !w.stubborn {
		w.disks[s] = nil
	}
	return nil
}

func (w *world) Reads(context.Context, virt.Domain, string) (int64, error) {
	if err := w.call("reads"); err != nil || w.blind {
		return 0, err
	}
	return 1, nil
}

func (w *world) Ensure(context.Context) (bool, error) {
	if err := w.call("ensure"); err != nil {
		return false, err
	}
	created := !w.export
	w.export = true
	return created, nil
}

func (w *world) Release(_ context.Context, uri attach.URI) error {
	if err := w.call("release " + uri.Export); err != nil {
		return err
	}
	w.export = false
	return nil
}

// has says where the disk is.
func (w *world) has() [3]bool {
	return [3]bool{len(w.disks[virt.Config]) > 0, len(w.disks[virt.Live]) > 0, w.export}
}

func options(t *testing.T) Options {
	t.Helper()
	scopes, err := Scopes(machine, false, false)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Domain: machine, Scopes: scopes, Target: "vdb", Wait: time.Millisecond, Poll: time.Microsecond}
}

func TestScopes(t *testing.T) {
	stopped := virt.Domain{Name: "vm", Persistent: true}
	transient := virt.Domain{Name: "vm", Running: true}
	for _, c := range []struct {
		d            virt.Domain
		live, config bool
		want         []virt.Scope
	}{
		{machine, false, false, []virt.Scope{virt.Config, virt.Live}}, {machine, true, false, []virt.Scope{virt.Live}},
		{machine, false, true, []virt.Scope{virt.Config}}, {stopped, false, false, []virt.Scope{virt.Config}}, {stopped, true, false, nil},
		{transient, false, false, []virt.Scope{virt.Live}}, {transient, false, true, nil}, {transient, true, true, nil},
	} {
		got, err := Scopes(c.d, c.live, c.config)
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%+v live=%v config=%v: %v, %v", c.d, c.live, c.config, got, err)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	w, opts := newWorld(), options(t)
	xml := diskXML(t, here, "vdb")
	for _, want := range []bool{true, false} {
		changed, err := Attach(t.Context(), w, w, opts, here, xml)
		if err != nil || changed != want || w.has() != [3]bool{true, true, true} {
			t.Fatalf("%v, %v, %v; %v", changed, err, w.has(), w.log)
		}
	}
	for _, want := range []bool{true, false} {
		changed, err := Detach(t.Context(), w, w, opts)
		if err != nil || changed != want || w.has() != [3]bool{} {
			t.Fatalf("%v, %v, %v; %v", changed, err, w.has(), w.log)
		}
	}
}

// Whichever call fails, nothing is left that was not there before.
func TestAttachUndoes(t *testing.T) {
	for broken := 1; ; broken++ {
		w := newWorld()
		w.broken = broken
		_, err := Attach(t.Context(), w, w, options(t), here, diskXML(t, here, "vdb"))
		if w.calls < broken {
			if broken < 6 {
				t.Fatalf("only %d calls", w.calls)
			}
			return
		}
		if !errors.Is(err, errFake) || w.has() != [3]bool{} {
			t.Errorf("call %d fails: %v, left is %v; %v", broken, err, w.has(), w.log)
		}
	}
}

func TestAttachKeepsWhatWasThere(t *testing.T) {
	w := newWorld()
	w.export, w.blind = true, true
	_, err := Attach(t.Context(), w, w, options(t), here, diskXML(t, here, "vdb"))
	if err == nil || !strings.Contains(err.Error(), "has not read") || w.has() != [3]bool{false, false, true} {
		t.Errorf("%v, left is %v", err, w.has())
	}
}

// A guest that neither takes the disk nor lets it go keeps it, and the export.
func TestStubbornGuest(t *testing.T) {
	w, opts := newWorld(), options(t)
	w.blind, w.stubborn = true, true
	_, err := Attach(t.Context(), w, w, opts, here, diskXML(t, here, "vdb"))
	if err == nil || !strings.Contains(err.Error(), "has not let disk vdb go") || w.has() != [3]bool{false, true, true} {
		t.Errorf("%v, left is %v", err, w.has())
	}
	if _, err := Detach(t.Context(), w, w, opts); err == nil || w.has() != [3]bool{false, true, true} {
		t.Errorf("%v, left is %v", err, w.has())
	}
	w.stubborn = false
	if _, err := Detach(t.Context(), w, w, opts); err != nil || w.has() != [3]bool{} {
		t.Errorf("%v, left is %v", err, w.has())
	}
	opts.Wait, w.blind = 0, true
	if _, err := Attach(t.Context(), w, w, opts, here, diskXML(t, here, "vdb")); err != nil {
		t.Errorf("nobody was to be waited for: %v", err)
	}
}

func TestInTheWay(t *testing.T) {
	file := "<disk type='file'><source file='/x'/><target dev='vdb'/></disk>"
	for name, c := range map[string]struct{ disk, text string }{
		"another disk":   {file, "another disk vdb"},
		"another export": {diskXML(t, there, "vdb"), "another disk vdb"},
		"another target": {diskXML(t, here, "vdc"), "as vdc"},
	} {
		w := newWorld()
		w.disks[virt.Live] = []string{c.disk}
		_, err := Attach(t.Context(), w, w, options(t), here, diskXML(t, here, "vdb"))
		if err == nil || !strings.Contains(err.Error(), c.text) || w.export {
			t.Errorf("%s: %v, export %v", name, err, w.export)
		}
	}
	w := newWorld()
	w.disks[virt.Live] = []string{file}
	if _, err := Detach(t.Context(), w, w, options(t)); err == nil || !strings.Contains(err.Error(), "none of the gateway's") {
		t.Errorf("%v", err)
	}
}

// An export that the other definition still has is kept; one that a disk left behind is not.
func TestDetachReleases(t *testing.T) {
	w, opts := newWorld(), options(t)
	if _, err := Attach(t.Context(), w, w, opts, there, diskXML(t, there, "vdb")); err != nil {
		t.Fatal(err)
	}
	live := opts
	live.Scopes = []virt.Scope{virt.Live}
	if _, err := Detach(t.Context(), w, w, live); err != nil || w.has() != [3]bool{true, false, true} {
		t.Errorf("%v, left is %v", err, w.has())
	}
	w.disks[virt.Config] = nil
	opts.URI = there
	if changed, err := Detach(t.Context(), w, w, opts); err != nil || changed || w.export {
		t.Errorf("%v, %v, left is %v", changed, err, w.has())
	}
}

func TestEndOfContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w, opts := newWorld(), options(t)
	w.blind, opts.Wait, opts.Poll = true, time.Hour, time.Hour
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := Attach(ctx, w, w, opts, here, diskXML(t, here, "vdb")); !errors.Is(err, context.Canceled) || w.has() != [3]bool{} {
		t.Errorf("%v, left is %v", err, w.has())
	}
}
