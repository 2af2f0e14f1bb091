// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// An rbdImage is an encrypted image that the rbd tool made, for both engines.
type rbdImage struct {
	spec, key string
	format    string // luks1 or luks2, as rbd has it
}

func newRBDImage(t *testing.T, sizeMiB int64, format, cipher string) *rbdImage {
	t.Helper()
	m := &rbdImage{
		spec: testenv.NewImage(t, sizeMiB), format: format,
		key: testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), []byte("correct horse")),
	}
	testenv.RBD(t, "encryption", "format", "--cipher-alg", cipher, m.spec, format, m.key)
	return m
}

// cheapKDF has cryptsetup replace the costly keyslot that rbd made, so that opening the image takes no time.
func (m *rbdImage) cheapKDF(t *testing.T) *rbdImage {
	t.Helper()
	header := filepath.Join(t.TempDir(), "header")
	raw := "rbd:" + m.spec + ":conf=" + os.Getenv(testenv.EnvCephConf)
	testenv.Run(t, "qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", "count=16", "if="+raw, "of="+header)
	testenv.Run(t, "cryptsetup", "luksChangeKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", m.key, header, m.key)
	testenv.Run(t, "qemu-io", "-f", "raw", raw, "-c", "write -q -s "+header+" 0 16M")
	return m
}

// librbd are the arguments with which qemu's tools open the image through librbd's own engine.
func (m *rbdImage) librbd(spec string) []string {
	pool, name, _ := strings.Cut(spec, "/")
	format := m.format
	if format == "luks1" {
		format = "luks" // qemu's name
	}
	opts := fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,encrypt.format=%s,encrypt.key-secret=k",
		pool, name, os.Getenv(testenv.EnvCephConf), format)
	return []string{"--object", "secret,id=k,file=" + m.key, "--image-opts", opts}
}

// librbdRead copies all of the image's plaintext to a file, as librbd's engine reads it. qemu-img convert will not do: it
// asks librbd for holes, and librbd 16 answers for the raw image, as if the header were not there.
func (m *rbdImage) librbdRead(t *testing.T, spec, file string) {
	t.Helper()
	a := m.librbd(spec)
	testenv.Run(t, "qemu-img", "dd", a[0], a[1], a[2], "-O", "raw", "bs=2M", "if="+a[3], "of="+file)
}

// TestBothEngines writes random data through one engine and reads it through the other, both ways.
func TestBothEngines(t *testing.T) {
	testenv.CephConf(t)
	for i, c := range []struct {
		format, cipher string
		dataMiB        int
	}{{"luks2", "aes-128", 8}, {"luks2", "aes-256", 8}, {"luks1", "aes-256", 20}} {
		t.Run(c.format+"-"+c.cipher, func(t *testing.T) {
			m := newRBDImage(t, 24, c.format, c.cipher)
			if c.cipher == "aes-256" {
				m.cheapKDF(t) // one of the three shows that rbd's own keyslot opens
			}
			g := export(t, "rbd:"+m.spec, "--key-file", m.key)
			model := randomBytes(c.dataMiB<<20, uint64(i))
			if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", g.uri)); size != strconv.Itoa(len(model)) {
				t.Fatalf("size %s, want %d", size, len(model))
			}
			modelFile := filepath.Join(t.TempDir(), "model")
			testenv.Run(t, "nbdcopy", testenv.WriteFile(t, modelFile, model), g.uri)
			qemuWrites(t, []string{"-f", "raw", g.uri}, model, 60, 1, uint64(i))
			g.stop(t)

			copied := filepath.Join(t.TempDir(), "copy")
			m.librbdRead(t, m.spec, copied)
			if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, model) {
				t.Fatalf("librbd reads something else than the gateway wrote (%v)", err)
			}
			qemuWrites(t, m.librbd(m.spec), model, 60, 512, uint64(i)+100)
			g = export(t, "rbd:"+m.spec, "--key-file", m.key)
			testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, testenv.WriteFile(t, modelFile, model))
			g.stop(t)
			g = export(t, "rbd:"+m.spec, "--key-file", m.key, "--engine", "librbd")
			testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, modelFile)
			g.stop(t)
		})
	}
}

// TestSnapshotAndClone exports a snapshot and a clone with the inherited key, and writes the clone.
func TestSnapshotAndClone(t *testing.T) {
	testenv.CephConf(t)
	m := newRBDImage(t, 24, "luks2", "aes-256").cheapKDF(t)
	model := randomBytes(8<<20, 11)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "model"), model)
	g := export(t, "rbd:"+m.spec, "--key-file", m.key)
	testenv.Run(t, "nbdcopy", file, g.uri)
	testenv.RBD(t, "snap", "create", "--no-progress", m.spec+"@s")
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 1 0 1M")
	g.stop(t)

	clone := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", m.spec+"@s", clone)
	testenv.OwnImage(t, clone)
	for _, spec := range []string{m.spec + "@s", clone} {
		g := export(t, "rbd:"+spec, "--key-file", m.key)
		testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, file)
		if spec == clone {
			qemuWrites(t, []string{"-f", "raw", g.uri}, model, 40, 1, 12)
		} else if r := testenv.Try(t, "qemu-io", "-f", "raw", g.uri, "-c", "write 0 4k"); r.ExitCode == 0 {
			t.Errorf("a snapshot was written\n%s", r)
		}
		g.stop(t)
	}
	m.librbdRead(t, clone, file)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, model) {
		t.Fatalf("librbd reads something else from the clone than the gateway wrote (%v)", err)
	}
	r := luksgate(t, "inspect", "rbd:"+clone)
	if r.ExitCode != 0 || !strings.Contains(r.Stdout, m.spec+"@s (luks2") {
		t.Errorf("inspect does not show the parent\n%s", r)
	}
}

// TestOwnKeyCloneBeforeCeph18 gives a clone of a plaintext image a header and some data of its own behind librbd's back:
// its own objects are encrypted, and the parent's plaintext shows where there are none; and writes it.
func TestOwnKeyCloneBeforeCeph18(t *testing.T) {
	testenv.CephConf(t)
	golden := randomBytes(28<<20, 61)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "golden"), golden)
	parent := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "import", "--no-progress", file, parent)
	testenv.OwnImage(t, parent)
	testenv.RBD(t, "snap", "create", "--no-progress", parent+"@s")
	own := randomBytes(4<<20, 62)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: own})
	clone := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", parent+"@s", clone)
	testenv.OwnImage(t, clone)
	// Every object of the header, and the first of the data, in whole.
	g := export(t, "rbd:"+clone, "--plain")
	testenv.Run(t, "nbdcopy", luks.Path, g.uri)
	g.stop(t)

	model := append(append([]byte{}, own...), golden[4<<20:12<<20]...)
	testenv.RBD(t, "snap", "create", "--no-progress", clone+"@s")
	for _, spec := range []string{clone, clone + "@s"} {
		g := export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath, "--read-only", "--engine", "native")
		sameAs(t, spec, g.uri, model)
		g.stop(t)
	}
	// Writing copies up with the clone's key, and leaves the snapshot as it was.
	before := append([]byte{}, model...)
	g = export(t, "rbd:"+clone, "--key-file", luks.PassphrasePath)
	qemuWrites(t, []string{"-f", "raw", g.uri}, model, 40, 1, 63)
	sameAs(t, clone, g.uri, model)
	g.stop(t)
	for spec, want := range map[string][]byte{clone: model, clone + "@s": before} {
		g := export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath, "--read-only")
		sameAs(t, spec+", once more", g.uri, want)
		g.stop(t)
	}
}

// TestCephExitCodes tries what the manual promises of clusters, pools and images that cannot be had.
func TestCephExitCodes(t *testing.T) {
	conf := testenv.CephConf(t)
	plain := testenv.NewImage(t, 4)
	socket := filepath.Join(testenv.SocketDir(t), "s")
	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"missing pool", []string{"rbd:nopool/x"}, exitUnreachable, `no pool "nopool"`},
		{"missing image", []string{"rbd:rbd/none"}, exitUnreachable, "no such image"},
		{"missing snapshot", []string{"rbd:" + plain + "@none"}, exitUnreachable, "no such image or snapshot"},
		{"missing configuration", []string{"rbd:" + plain, "--ceph-conf", "/nonexistent"}, exitUnreachable, "/nonexistent"},
		{"unknown user", []string{"rbd:" + plain, "--ceph-conf", conf, "--ceph-user", "nobody"}, exitUnreachable, "client.nobody"},
		{"not LUKS", []string{"rbd:" + plain}, exitNotLUKS, "--plain"},
	} {
		r := luksgate(t, append([]string{"export", "--socket", socket}, c.args...)...)
		if r.ExitCode != c.code || !strings.Contains(r.Stderr, c.text) {
			t.Errorf("%s: want exit code %d and %q\n%s", c.name, c.code, c.text, r)
		}
	}
	g := export(t, "rbd:"+plain, "--plain", "--lock", "exclusive")
	r := luksgate(t, "export", "rbd:"+plain, "--plain", "--lock", "exclusive", "--socket", socket)
	if r.ExitCode != exitBusy || !strings.Contains(r.Stderr, "exclusive lock") {
		t.Errorf("locked by somebody else: want exit code %d\n%s", exitBusy, r)
	}
	g.stop(t)
}
