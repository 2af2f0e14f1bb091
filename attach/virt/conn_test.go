// SPDX-License-Identifier: Apache-2.0

package virt

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestResolve(t *testing.T) {
	env := map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}
	for uri, want := range map[string]endpoint{
		"":                              {"qemu:///system", []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}},
		"qemu:///session":               {"qemu:///session", []string{"/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"}},
		"qemu+unix:///system?socket=/s": {"qemu:///system", []string{"/s"}},
		"test:///default":               {"test:///default", []string{"/run/libvirt/virttestd-sock", "/run/libvirt/libvirt-sock"}},
	} {
		got, err := resolve(uri, func(name string) string { return env[name] })
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", uri, got, err, want)
		}
	}
	for _, uri := range []string{"qemu+ssh://host/system", "qemu://host/system", "system", ":", "qemu+tls:///system"} {
		if got, err := resolve(uri, func(string) string { return "" }); err == nil {
			t.Errorf("%q: %+v, want an error", uri, got)
		}
	}
	if got, _ := resolve("", func(string) string { return "xen:///system" }); got.driver != "xen:///system" {
		t.Errorf("the default of the environment is not taken: %+v", got)
	}
}

func TestOpenWithoutLibvirt(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := Open(t.Context(), "qemu+unix:///system?socket="+missing); !errors.Is(err, ErrNoLibvirt) || !strings.Contains(err.Error(), missing) {
		t.Errorf("%v, want ErrNoLibvirt with the path", err)
	}
}

// A daemon that accepts and says nothing must not hang the caller.
func TestOpenGivesUp(t *testing.T) {
	path := filepath.Join(testenv.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, "qemu+unix:///system?socket="+path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the end of the context", err)
	}
}

// A real libvirtd says the same to us and to virsh.
func TestVersions(t *testing.T) {
	d := testenv.NewLibvirtd(t)
	conn, err := Open(t.Context(), d.URI)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lib, qemu, err := conn.Versions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := d.Virsh(t, "version", "--daemon")
	for what, v := range map[string]attach.Version{"Running against daemon: ": lib, "Running hypervisor: QEMU ": qemu} {
		if !strings.Contains(said, what+v.String()) {
			t.Errorf("virsh does not say %q, but\n%s", what+v.String(), said)
		}
	}
}
