// SPDX-License-Identifier: Apache-2.0

package disttest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// An Image is a LUKS2 image that librbd has made, and its passphrase.
type Image struct {
	// Spec is pool/name; Engine is luksgate's --engine for it, empty for the one that luksgate chooses.
	Spec, Engine string
	Key          []byte
	// KeyFile is a file of this machine with Key in it.
	KeyFile string
	// Parents are what a clone with keys of their own has below it, the nearest first.
	Parents []*Image
}

// NewImage makes an empty one.
func NewImage(t *testing.T, sizeMiB int64) *Image {
	t.Helper()
	m := &Image{Spec: testenv.NewImage(t, sizeMiB), Key: []byte("the passphrase of " + t.Name())}
	m.KeyFile = testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), m.Key)
	testenv.RBD(t, "encryption", "format", m.Spec, "luks2", m.KeyFile)
	return m
}

// NewClone makes a clone of a snapshot, which has no header of its own yet, and a passphrase for it.
func (m *Image) NewClone(t *testing.T, snapshot string) *Image {
	t.Helper()
	c := &Image{Spec: testenv.Pool + "/" + testenv.UniqueName(t), Key: []byte("the other passphrase of " + t.Name())}
	c.KeyFile = testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), c.Key)
	c.Parents = append([]*Image{m}, m.Parents...)
	testenv.RBD(t, "clone", m.Spec+"@"+snapshot, c.Spec)
	testenv.OwnImage(t, c.Spec)
	return c
}

// IO has this machine's qemu-io do something through librbd's own encryption engine.
func (m *Image) IO(t *testing.T, commands ...string) string {
	t.Helper()
	pool, name, _ := strings.Cut(m.Spec, "/")
	args := []string{
		"--object", "secret,id=k,file=" + m.KeyFile, "--image-opts",
		fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,encrypt.format=luks2,encrypt.key-secret=k", pool, name, testenv.CephConf(t)),
	}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return NoErrors(t, testenv.Try(t, "qemu-io", args...))
}

// export writes the keys of an image on a host, and is the export's part of luksgate.conf.
func (m *Image) export(h *Host, name string) string {
	text := "  - name: " + name + "\n    image: rbd:" + m.Spec + "\n"
	if m.Engine != "" {
		text += "    engine: " + m.Engine + "\n"
	}
	text += "    keys:\n"
	for i, one := range append([]*Image{m}, m.Parents...) {
		path := fmt.Sprintf("/etc/luksgate/keys/%s.%d", name, i)
		h.Write(h.t, path, "root:luksgate", "640", one.Key)
		text += "      - file: " + path + "\n"
	}
	return text
}
