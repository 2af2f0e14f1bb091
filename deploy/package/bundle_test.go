// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestBundle installs the package with a librbd of its own on a booted Debian 11 and has librbd's engine of Ceph 18 serve
// what Debian 11's own librbd knows nothing of, a clone with a key of its own, to its qemu 5.2. Qemu of Debian 13 judges.
func TestBundle(t *testing.T) {
	d := disttest.Find(t)
	h := disttest.NewHost(t, disttest.HostSuite, d)
	h.Install(d.Deb("luksgate-bundle"))
	serveClone(t, h)
}

// TestArchive does the same with the archive, unpacked and started as docs/install.md says, word for word.
func TestArchive(t *testing.T) {
	d := disttest.Find(t)
	script := commands(t, "install.md")
	if len(script) != 1 {
		t.Fatalf("%d blocks of commands in docs/install.md, want the archive's", len(script))
	}
	h := disttest.NewHost(t, disttest.HostSuite, d)
	cmd := h.Command("bash", "-eux", "-s")
	cmd.Stdin = strings.NewReader("cd " + d.Dir + "\n" + script[0])
	if r := testenv.RunCmd(t, cmd); r.ExitCode != 0 {
		t.Fatalf("%s\n%s", r, h.Journal())
	}
	serveClone(t, h)
}

// serveClone has the host's daemon serve a clone with a key of its own, with librbd's engine.
func serveClone(t *testing.T, h *disttest.Host) {
	t.Helper()
	for _, unit := range []string{"luksgate.service", "luksgate.socket"} {
		h.Run(t, "systemctl", "is-active", unit)
		h.Run(t, "systemctl", "is-enabled", unit)
	}
	if v := h.Run(t, "luksgate", "version"); !strings.Contains(v, "librbd   1.18") {
		t.Fatalf("not a librbd of its own: %s", v)
	}
	golden := disttest.NewImage(t, 64)
	golden.IO(t, "write -P 165 1M 1M", "write -P 90 8M 64k", "flush")
	testenv.RBD(t, "snap", "create", "--no-progress", golden.Spec+"@base")
	testenv.RBD(t, "snap", "protect", golden.Spec+"@base")
	clone := golden.NewClone(t, "base")
	clone.Engine = "librbd"
	h.Write(t, "/etc/ceph/ceph.client."+disttest.CephUser+".keyring", "root:luksgate", "640", disttest.Keyring(t))
	h.Write(t, "/srv/clone.key", "root:root", "600", clone.Key)
	h.Run(t, "luksgate", "format", "rbd:"+clone.Spec, "--type", "luks2", "--kdf", "pbkdf2", "--kdf-iterations", "1000",
		"--key-file", "/srv/clone.key", "--ceph-user", disttest.CephUser, "--yes")

	h.Configure(map[string]*disttest.Image{"disk": clone})
	h.IO(sharedURI, "read -P 165 1M 1M", "read -P 90 8M 64k", "write -P 77 8M 4k", "write -P 78 20M 1M", "flush", "read -P 90 8196k 60k")
	h.Run(t, "systemctl", "stop", "luksgate.socket", "luksgate.service")
	judge(t, clone, "read -P 165 1M 1M", "read -P 77 8M 4k", "read -P 90 8196k 60k", "read -P 78 20M 1M", "read -P 0 30M 1M")
}

// judge has Debian 13's qemu-io read a clone with the keys of all its levels.
func judge(t *testing.T, m *disttest.Image, commands ...string) {
	t.Helper()
	s := testenv.Chroot(t, "trixie")
	conf := testenv.WriteFile(t, filepath.Join(s.Dir, "ceph.conf"),
		append(disttest.ClusterConf(t), "keyring = "+filepath.Join(s.Dir, "keyring")+"\n"...))
	testenv.WriteFile(t, filepath.Join(s.Dir, "keyring"), disttest.Keyring(t))
	pool, name, _ := strings.Cut(m.Spec, "/")
	opts := fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,user=%s", pool, name, conf, disttest.CephUser)
	var args []string
	for i, level := range append([]*disttest.Image{m}, m.Parents...) {
		key := testenv.WriteFile(t, filepath.Join(s.Dir, fmt.Sprint("key", i)), level.Key)
		args = append(args, "--object", fmt.Sprintf("secret,id=k%d,file=%s", i, key))
		prefix := "encrypt." + strings.Repeat("parent.", i)
		opts += fmt.Sprintf(",%sformat=luks-any,%skey-secret=k%d", prefix, prefix, i)
	}
	args = append(args, "-r", "--image-opts", opts)
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	disttest.NoErrors(t, testenv.RunCmd(t, s.Command(t, "qemu-io", args...)))
}
