// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// commands are the blocks of a document below docs/ that a reader types.
func commands(t *testing.T, document string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", document))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range commandBlock.FindAllStringSubmatch(string(text), -1) {
		out = append(out, b[1])
	}
	return out
}

var commandBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// installTimeout is for apt-get with some 70 packages, which takes minutes beside other work.
const installTimeout = 15 * time.Minute

// TestQuickStart does on a fresh Debian 11 what docs/quickstart.md says, word for word, and reads what the last step wrote
// through librbd's own engine.
func TestQuickStart(t *testing.T) {
	d := disttest.Find(t)
	blocks := commands(t, "quickstart.md")
	if len(blocks) != 5 {
		t.Fatalf("%d blocks of commands in the quick start, want its 5 steps", len(blocks))
	}
	script := "set -eux\ncd /srv\n" + strings.Join(blocks, "")
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

	h := disttest.NewHost(t, disttest.NewSuite, d)
	h.Write(t, "/etc/ceph/ceph.client.admin.keyring", "root:root", "600", []byte(testenv.Ceph(t, "auth", "get", "client.admin")))
	deb, err := os.ReadFile(d.Deb("luksgate"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/srv/"+filepath.Base(d.Deb("luksgate")), "root:root", "644", deb)
	cmd := h.Command("bash", "-s")
	cmd.Stdin = strings.NewReader(script)
	r := testenv.RunWithin(t, installTimeout, cmd)
	if r.ExitCode != 0 || strings.Contains(r.Stdout, "verification failed") || !strings.Contains(r.Stdout, "read 1048576/1048576 bytes at offset 0") || !strings.Contains(r.Stdout, "<disk ") {
		t.Fatalf("%s\n%s", r, h.Journal())
	}
	m := &disttest.Image{Spec: "vms/web1", KeyFile: filepath.Join(t.TempDir(), "key")}
	key, err := os.ReadFile(h.Path("/etc/luksgate/keys/web1"))
	if err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, m.KeyFile, key)
	h.Run(t, "systemctl", "stop", "luksgate.socket", "luksgate.service")
	m.IO(t, "read -P 165 0 1M")
}
