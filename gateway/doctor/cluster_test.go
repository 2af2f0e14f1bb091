// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package doctor

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

func cluster(t *testing.T, cfg rbd.Config, images ...string) []Finding {
	t.Helper()
	opts := Options{Root: newTree(t).root, Ceph: cfg}
	for _, text := range images {
		ref, err := image.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		opts.Images = append(opts.Images, ref)
	}
	return Run(t.Context(), opts)
}

func TestCluster(t *testing.T) {
	conf := testenv.CephConf(t)
	good := testenv.NewImage(t, 8)
	bare := testenv.NewImage(t, 8, "--image-feature", "layering")
	all := cluster(t, rbd.Config{ConfFile: conf}, "rbd:"+good, "rbd:"+bare, "rbd:rbd/no-such-image")
	fsid := strings.TrimSpace(testenv.Ceph(t, "fsid"))
	expect(t, all, "cluster", OK, fsid)
	expect(t, all, "caps", Warning, "client.admin", "more than a gateway needs", "client.luksgate")
	expect(t, all, "librbd", OK, "librbd "+rbd.Version())
	expect(t, all, "image", OK, good, "exclusive-lock")
	expect(t, all, "image", Warning, bare, "rbd feature enable "+bare)
	expect(t, all, "image", Error, "no-such-image")
}

// TestCaps makes users with more and fewer caps, and looks as each of them.
func TestCaps(t *testing.T) {
	conf := testenv.CephConf(t)
	for name, c := range map[string]struct {
		mon, osd string
		status   Status
		text     string
	}{
		"right":      {"profile rbd", "profile rbd pool=rbd", Skipped, "may not see its own caps"},
		"asks":       {"profile rbd, allow command \"auth get\"", "profile rbd pool=rbd", OK, "profile rbd pool=rbd"},
		"reads-only": {"profile rbd, allow command \"auth get\"", "allow r", Error, "cannot write"},
		"no-break":   {"allow r, allow command \"auth get\"", "profile rbd", Warning, "lock of a host that died"},
	} {
		user := strings.ReplaceAll(testenv.UniqueName(t), "-", "") + name
		keyring := filepath.Join(t.TempDir(), "keyring")
		key := testenv.Ceph(t, "auth", "get-or-create", "client."+user, "mon", c.mon, "osd", c.osd)
		t.Cleanup(func() { testenv.Ceph(t, "auth", "rm", "client."+user) })
		testenv.WriteFile(t, keyring, []byte(key))
		all := cluster(t, rbd.Config{ConfFile: conf, User: user, Options: map[string]string{"keyring": keyring}})
		expect(t, all, "cluster", OK, "client."+user)
		expect(t, all, "caps", c.status, c.text)
		for _, f := range all {
			if secret := strings.Fields(key); strings.Contains(f.Found+f.Advice+strings.Join(f.Commands, ""), secret[len(secret)-1]) {
				t.Errorf("the key is printed: %+v", f)
			}
		}
	}
}

func TestNoCluster(t *testing.T) {
	conf := testenv.WriteFile(t, filepath.Join(t.TempDir(), "ceph.conf"), []byte("[global]\nmon_host = 127.0.0.1:1\nkeyring = /dev/null\n"))
	soon := rbd.Config{ConfFile: conf, Options: map[string]string{"client_mount_timeout": "1"}}
	expect(t, cluster(t, soon), "cluster", Error, "client.admin", "mon_host")
	expect(t, cluster(t, rbd.Config{ConfFile: "/nonexistent/ceph.conf"}), "cluster", Error, "/nonexistent/ceph.conf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all := checkCluster(ctx, Options{Ceph: soon})
	expect(t, all, "cluster", Error, "canceled")
}
