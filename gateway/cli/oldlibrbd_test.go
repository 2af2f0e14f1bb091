// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// oldLibrbd makes a folder with the librbd of Debian 11, which is of Ceph 14, for the dynamic linker to look into first. All
// else that it needs, and the C library above all, is this machine's.
func oldLibrbd(t *testing.T) string {
	t.Helper()
	s := testenv.Chroot(t, "bullseye")
	dir := t.TempDir()
	for _, name := range []string{"librbd.so.1", "librados.so.2", "ceph/libceph-common.so.0", "libcrypto.so.1.1"} {
		found, err := filepath.Glob(s.Path("usr/lib/*/" + name))
		if err != nil || len(found) != 1 {
			t.Skipf("NOT RUN: no %s in the chroot of %s: deploy/chroot/chroot make %s librbd1", name, s.Name, s.Name)
		}
		if err := os.Symlink(found[0], filepath.Join(dir, filepath.Base(name))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOldLibrbd runs the gateway with a librbd that has no encryption of its own: its engine is refused with the reason and
// what to do instead, and the native one reads and writes.
func TestOldLibrbd(t *testing.T) {
	testenv.CephConf(t)
	dir := oldLibrbd(t)
	old := func(args ...string) *exec.Cmd {
		cmd := command(args...)
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+dir)
		return cmd
	}
	if r := testenv.RunCmd(t, old("version")); !strings.Contains(r.Stdout, "librbd   1.12.") || !strings.Contains(r.Stdout, "without the librbd engine\n") {
		t.Fatalf("%s", r)
	}
	m := newRBDImage(t, 24, "luks2", "aes-256").cheapKDF(t)
	socket := filepath.Join(testenv.SocketDir(t), "s")
	args := []string{"export", "rbd:" + m.spec, "--key-file", m.key, "--socket", socket}

	r := testenv.RunCmd(t, old(append(args, "--engine", "librbd")...))
	const want = "has no encryption, which came with Ceph 16: use --engine native\n"
	if r.ExitCode != exitNotLUKS || !strings.Contains(r.Stderr, m.spec) || !strings.HasSuffix(r.Stderr, want) {
		t.Errorf("want exit code %d and an error that ends with %q:\n%s", exitNotLUKS, want, r)
	}

	p := testenv.StartCmd(t, old(args...))
	g := &gate{p, p.WaitLine("+unix:"), socket}
	out := testenv.Run(t, "qemu-io", "-f", "raw", "-d", "unmap", g.uri, "-c", "write -P 5 1M 2M", "-c", "write -P 6 3000001 999",
		"-c", "discard 4M 4M", "-c", "write -z 2M 4k", "-c", "flush", "-c", "read -P 6 3000001 999")
	if strings.Contains(out, "failed") {
		t.Errorf("with the native engine: %s", out)
	}
	g.stop(t)
	out = testenv.Run(t, "qemu-io", append(m.librbd(m.spec), "-c", "read -P 5 1M 1M", "-c", "read -P 0 2M 4k", "-c", "read -P 6 3000001 999")...)
	if strings.Contains(out, "failed") {
		t.Errorf("the engine of a newer librbd reads something else: %s", out)
	}
}
