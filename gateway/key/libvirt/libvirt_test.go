// SPDX-License-Identifier: Apache-2.0

package libvirt_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/key/libvirt"
)

const (
	public  = "11111111-2222-3333-4444-555555555501"
	private = "11111111-2222-3333-4444-555555555502"
	empty   = "11111111-2222-3333-4444-555555555503"
	ceph    = "11111111-2222-3333-4444-555555555504"
)

// TestRealLibvirtd reads secrets that virsh has defined.
func TestRealLibvirtd(t *testing.T) {
	d := testenv.NewLibvirtd(t)
	const (
		passphrase   = "correct\x00horse \xff"
		cephKey      = "AQDZ" // what Ceph prints, and what virsh is given
		cephKeyBytes = "\x01\x00\xd9"
	)
	for _, s := range []struct{ uuid, private, usage, value string }{
		{public, "no", "<usage type='volume'><volume>/rbd/volumes/vm1</volume></usage>", passphrase},
		{private, "yes", "<usage type='volume'><volume>/rbd/volumes/vm2</volume></usage>", passphrase},
		{empty, "no", "<usage type='volume'><volume>/rbd/volumes/vm3</volume></usage>", ""},
		{ceph, "no", "<usage type='ceph'><name>client.libvirt secret</name></usage>", cephKeyBytes},
	} {
		xml := fmt.Sprintf("<secret ephemeral='yes' private='%s'><uuid>%s</uuid>%s</secret>", s.private, s.uuid, s.usage)
		file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "secret.xml"), []byte(xml))
		d.Virsh(t, "secret-define", file)
		if s.value != "" {
			d.Virsh(t, "secret-set-value", s.uuid, base64.StdEncoding.EncodeToString([]byte(s.value)))
		}
	}
	at := libvirt.Source{Sockets: []string{"/nonexistent/s", filepath.Join(d.Dir, "libvirt", "libvirt-sock")}, URI: "secret:///session"}
	for _, c := range []struct {
		name       string
		source     libvirt.Source
		want, fail string
	}{
		{"by UUID", libvirt.Source{UUID: public}, passphrase, ""},
		{"by usage", libvirt.Source{Usage: libvirt.Volume, UsageID: "/rbd/volumes/vm1"}, passphrase, ""},
		{"ceph", libvirt.Source{Usage: libvirt.Ceph, UsageID: "client.libvirt secret"}, cephKey, ""},
		{"ceph by UUID", libvirt.Source{Usage: libvirt.Ceph, UUID: ceph}, cephKey, ""},
		{"usage of another kind", libvirt.Source{Usage: libvirt.Ceph, UsageID: "/rbd/volumes/vm1"}, "", "no such secret"},
		{"private", libvirt.Source{UUID: private}, "", "private='no'"},
		{"without a value", libvirt.Source{UUID: empty}, "", "secret-set-value"},
		{"unknown", libvirt.Source{UUID: "99999999-2222-3333-4444-555555555501"}, "", "no such secret"},
		{"no UUID", libvirt.Source{UUID: "x"}, "", "no UUID"},
	} {
		c.source.Sockets, c.source.URI = at.Sockets, at.URI
		b, err := c.source.Passphrase(context.Background())
		if c.fail != "" {
			if err == nil || !strings.Contains(err.Error(), c.fail) || errors.Is(err, key.ErrUnavailable) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.fail)
			}
			continue
		}
		if err != nil || string(b.Bytes()) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestUnavailable has no daemon, and one that never answers.
func TestUnavailable(t *testing.T) {
	dir := testenv.SocketDir(t)
	silent := filepath.Join(dir, "s")
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, socket := range []string{filepath.Join(dir, "none"), silent} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := libvirt.Source{Sockets: []string{socket}, URI: "secret:///system", UUID: public}.Passphrase(ctx)
		cancel()
		if !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("%s: %v", socket, err)
		}
	}
}
