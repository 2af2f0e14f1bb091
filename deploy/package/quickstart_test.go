// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

var commandBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestQuickStart does on a fresh Debian 11 what docs/quickstart.md says, word for word, and reads what the last step wrote
// through librbd's own engine.
func TestQuickStart(t *testing.T) {
	p := dist(t)
	doc, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "quickstart.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eux\ncd /srv\n"
	blocks := commandBlock.FindAllStringSubmatch(string(doc), -1)
	for _, b := range blocks {
		script += b[1]
	}
	if len(blocks) != 5 {
		t.Fatalf("%d blocks of commands in the quick start, want its 5 steps", len(blocks))
	}
	conf := testenv.CephConf(t)
	if testenv.Try(t, "ceph", "--conf", conf, "osd", "pool", "get", "vms", "size").ExitCode == 0 {
		t.Fatal("the test cluster has a pool vms: somebody else uses it")
	}
	testenv.Ceph(t, "osd", "pool", "create", "vms", "4")
	t.Cleanup(func() {
		testenv.Ceph(t, "osd", "pool", "rm", "vms", "vms", "--yes-i-really-really-mean-it")
		testenv.Ceph(t, "auth", "rm", "client.luksgate")
	})
	testenv.RBD(t, "pool", "init", "vms")

	h := newHost(t, newSuite, p)
	h.Write(t, "/etc/ceph/ceph.client.admin.keyring", "root:root", "600", []byte(testenv.Ceph(t, "auth", "get", "client.admin")))
	deb, err := os.ReadFile(p.deb("luksgate"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/srv/"+filepath.Base(p.deb("luksgate")), "root:root", "644", deb)
	cmd := h.Command("bash", "-s")
	cmd.Stdin = strings.NewReader(script)
	r := testenv.RunCmd(t, cmd)
	if r.ExitCode != 0 || strings.Contains(r.Stdout, "verification failed") || !strings.Contains(r.Stdout, "read 1048576/1048576 bytes at offset 0") || !strings.Contains(r.Stdout, "<disk ") {
		t.Fatalf("%s\n%s", r, h.journal())
	}
	m := &image{spec: "vms/web1", file: filepath.Join(t.TempDir(), "key")}
	key, err := os.ReadFile(h.Path("/etc/luksgate/keys/web1"))
	if err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, m.file, key)
	h.Run(t, "systemctl", "stop", "luksgate.socket", "luksgate.service")
	m.io(t, "read -P 165 0 1M")
}
