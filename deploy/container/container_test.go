// SPDX-License-Identifier: Apache-2.0

// Package container_test builds the container image and runs it, without a registry, a network or a runtime of containers.
package container_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// user is the image's, which is not root; the group has the same number.
const user = 990

// An image is what deploy/container/build has made, in a store of the test's own.
type image struct {
	t         *testing.T
	builder   []string
	container string
	// Of its configuration.
	command []string
	health  []string
	user    string
	labels  map[string]string
}

// build makes the image of the packages in dist/, and a container of it.
func build(t *testing.T, d disttest.Dist) *image {
	t.Helper()
	dir := t.TempDir()
	m := &image{t: t, builder: []string{
		testenv.Tool(t, "buildah"), "--root", filepath.Join(dir, "store"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs",
	}}
	cmd := exec.Command("./build", d.Dir, "localhost/luksgate", "--isolation", "chroot")
	cmd.Env = append(os.Environ(), "LUKSGATE_BUILDER="+strings.Join(m.builder, " "))
	if r := testenv.RunCmd(t, cmd); r.ExitCode != 0 || !strings.Contains(r.Stderr, "localhost/luksgate is luksgate "+d.Version) {
		t.Fatalf("%s", r)
	}
	m.inspect()
	m.container = strings.TrimSpace(m.buildah("from", "localhost/luksgate"))
	t.Cleanup(func() { m.buildah("rm", m.container) })
	return m
}

func (m *image) buildah(args ...string) string {
	m.t.Helper()
	return testenv.Run(m.t, m.builder[0], append(m.builder[1:len(m.builder):len(m.builder)], args...)...)
}

func (m *image) inspect() {
	m.t.Helper()
	var all struct {
		Docker struct {
			Config struct {
				User            string
				Entrypoint, Cmd []string
				Healthcheck     struct{ Test []string }
				Labels          map[string]string
			} `json:"config"`
		}
	}
	text := m.buildah("inspect", "--type", "image", "localhost/luksgate")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		m.t.Fatalf("%v\n%s", err, text)
	}
	c := all.Docker.Config
	m.command, m.health, m.user, m.labels = append(c.Entrypoint, c.Cmd...), c.Healthcheck.Test, c.User, c.Labels
}

// run is a command line that runs in the container, as its user, with folders of this machine.
func (m *image) run(volumes []string, line ...string) *exec.Cmd {
	args := append(m.builder[1:len(m.builder):len(m.builder)], "run", "--isolation", "chroot")
	for _, v := range volumes {
		args = append(args, "--volume", v)
	}
	return exec.Command(m.builder[0], append(append(args, m.container, "--"), line...)...)
}

// owned makes a folder that the image's user can write to.
func owned(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, user, user); err != nil {
		testenv.Missing(t, "only root can give the container a folder: %v", err)
	}
	return dir
}

const configuration = `admin:
  socket: /run/luksgate/admin.sock
listen:
  - socket: /run/luksgate/nbd.sock
exports:
  - name: disk
    image: file:/images/luks.img
    key:
      file: /etc/luksgate/passphrase
`

// TestContainer builds the image and has it serve an encrypted image to this machine's clients, by the image's own command.
func TestContainer(t *testing.T) {
	d := disttest.Find(t)
	m := build(t, d)
	if m.user != fmt.Sprintf("%d:%d", user, user) || m.labels["org.opencontainers.image.version"] != d.Version || len(m.labels["org.opencontainers.image.revision"]) != 40 {
		t.Errorf("user %s, labels %v", m.user, m.labels)
	}
	if len(m.health) < 2 || m.health[0] != "CMD" {
		t.Fatalf("no health check: %v", m.health)
	}
	if r := testenv.RunCmd(t, m.run(nil, "/usr/bin/luksgate", "version")); r.ExitCode != 0 || !strings.Contains(r.Stdout, "librbd   1.18") {
		t.Fatalf("%s", r)
	}

	plaintext := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(plaintext)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: plaintext})
	dir := testenv.SocketDir(t)
	etc, images, sockets := owned(t, filepath.Join(dir, "etc")), owned(t, filepath.Join(dir, "images")), owned(t, filepath.Join(dir, "run"))
	give(t, filepath.Join(etc, "luksgate.conf"), []byte(configuration))
	give(t, filepath.Join(etc, "passphrase"), read(t, luks.PassphrasePath))
	give(t, filepath.Join(images, "luks.img"), read(t, luks.Path))
	volumes := []string{etc + ":/etc/luksgate:ro", images + ":/images", sockets + ":/run/luksgate"}

	if r := testenv.RunCmd(t, m.run(volumes, m.health[1:]...)); r.ExitCode == 0 {
		t.Errorf("healthy without a daemon:\n%s", r)
	}
	p := testenv.StartCmd(t, m.run(volumes, m.command...))
	socket := filepath.Join(sockets, "nbd.sock")
	for end := time.Now().Add(testenv.CommandTimeout); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if !p.Running() || time.Now().After(end) {
			t.Fatalf("no socket:\n%s", p.Output())
		}
	}
	copied := filepath.Join(dir, "copy")
	testenv.Run(t, "nbdcopy", "nbd+unix:///disk?socket="+socket, copied)
	if string(read(t, copied)) != string(plaintext) {
		t.Error("what the container serves is not the plaintext")
	}
	if r := testenv.RunCmd(t, m.run(volumes, m.health[1:]...)); r.ExitCode != 0 {
		t.Errorf("not healthy:\n%s", r)
	}
	if owner := strings.TrimSpace(testenv.Run(t, "stat", "--format", "%u:%g", socket)); owner != m.user {
		t.Errorf("the daemon runs as %s", owner)
	}
}

// give writes a file for the image's user.
func give(t *testing.T, path string, content []byte) {
	t.Helper()
	testenv.WriteFile(t, path, content)
	if err := os.Chown(path, user, user); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestNoBuilder has the script say that it has not built anything, where nothing can.
func TestNoBuilder(t *testing.T) {
	d := disttest.Find(t)
	bin := t.TempDir()
	for _, tool := range []string{"bash", "dirname"} {
		if err := os.Symlink(testenv.Tool(t, tool), filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("./build", d.Dir, "localhost/luksgate")
	cmd.Env = []string{"PATH=" + bin}
	if r := testenv.RunCmd(t, cmd); r.ExitCode != 1 || !strings.Contains(r.Stderr, "NOT BUILT") {
		t.Errorf("%s", r)
	}
}
