// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// newReefClient is the tools, librbd and qemu of Ceph 18 in a chroot, as clients of the test cluster outside.
func newReefClient(t *testing.T) *reef {
	t.Helper()
	outside := testenv.CephConf(t)
	s := testenv.Chroot(t, "trixie")
	conf, err := os.ReadFile(outside)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^keyring = (.*)$`)
	found := line.FindSubmatch(conf)
	if found == nil {
		t.Fatalf("%s names no keyring", outside)
	}
	keyring, err := os.ReadFile(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	inside := testenv.WriteFile(t, filepath.Join(s.Dir, "keyring"), keyring)
	conf = append(line.ReplaceAll(conf, []byte("keyring = "+inside)), "\nrbd_sparse_read_threshold_bytes = 1\n"...)
	return &reef{System: s, conf: testenv.WriteFile(t, filepath.Join(s.Dir, "ceph.conf"), conf)}
}

// A golden image is the parent of clones.
type golden struct {
	level
	dir string
}

// newGolden makes an image of sizeMiB, of one format or "" for plaintext, fills it and takes its snapshot s.
func newGolden(t *testing.T, format string, sizeMiB, dataMiB int64, create ...string) golden {
	t.Helper()
	g := golden{dir: t.TempDir()}
	g.model = randomBytes(int(dataMiB)<<20, uint64(sizeMiB))
	if dataMiB >= 8 {
		// A whole object: librbd's engine reads noise from smaller holes where the store does not tell holes from data.
		clear(g.model[4<<20 : 8<<20])
	}
	g.spec = testenv.NewImage(t, sizeMiB, create...)
	args := []string{"rbd:" + g.spec, "--plain"}
	if format != "" {
		g.keys = []string{g.key(t, "golden")}
		args = []string{"rbd:" + g.spec, "--key-file", g.keys[0]}
		good(t, append([]string{"format", "rbd:" + g.spec, "--type", format, "--key-file", g.keys[0]}, cheap...)...)
	}
	e := export(t, args...)
	testenv.Run(t, "nbdcopy", "--destination-is-zero", testenv.WriteFile(t, filepath.Join(g.dir, "model"), g.model), e.uri)
	e.stop(t)
	testenv.RBD(t, "snap", "create", "--no-progress", g.spec+"@s")
	return g
}

func (g golden) key(t *testing.T, name string) string {
	t.Helper()
	return testenv.WriteFile(t, filepath.Join(g.dir, name), []byte("the passphrase "+name))
}

// clone makes a clone without a header of its own.
func (g golden) clone(t *testing.T, options ...string) string {
	t.Helper()
	spec := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, append([]string{"clone", "--rbd-default-clone-format", "2", g.spec + "@s", spec}, options...)...)
	testenv.OwnImage(t, spec)
	return spec
}

// own is the level of a clone with its own key: what is in the overlap is the parent's, the rest is zeros.
func (g golden) own(spec, key string, dataMiB, overlapMiB int64) level {
	l := level{spec: spec, keys: append([]string{key}, g.keys...), model: make([]byte, dataMiB<<20)}
	copy(l.model, g.model[:overlapMiB<<20])
	return l
}

func formatClone(spec, format, key string, args ...string) []string {
	return append(append([]string{"format", "rbd:" + spec, "--type", format, "--key-file", key}, cheap...), args...)
}

// TestFormatClone gives clones keys of their own on a cluster whose librbd cannot, and reads them.
func TestFormatClone(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	for _, c := range []struct {
		parent              string
		sizeMiB, parentMiB  int64
		clone               string
		dataMiB, overlapMiB int64
		warning             string // with the parent's name for %s
	}{
		{"", 24, 24, "luks2", 8, 8, "the last 16 MiB (16777216 bytes) of rbd:%s@s, from byte 8388608 "},
		{"", 24, 24, "luks1", 20, 20, "the last 4 MiB (4194304 bytes) of rbd:%s@s, from byte 20971520 "},
		{"luks1", 24, 20, "luks2", 8, 8, "make the parent larger by 12 MiB (12582912 bytes) before the snapshot (luksgate resize rbd:%s)"},
		{"luks2", 24, 8, "luks1", 20, 8, ""},
		{"luks2", 24, 8, "luks2", 8, 8, ""},
	} {
		t.Run(c.clone+" over "+c.parent, func(t *testing.T) {
			g := newGolden(t, c.parent, c.sizeMiB, c.parentMiB)
			l := g.own(g.clone(t), g.key(t, "own"), c.dataMiB, c.overlapMiB)
			r := luksgate(t, formatClone(l.spec, c.clone, l.keys[0])...)
			if r.ExitCode != exitOK {
				t.Fatalf("%s", r)
			}
			if c.warning == "" && strings.Contains(r.Stderr, "warning") || c.warning != "" && !strings.Contains(r.Stderr, fmt.Sprintf(c.warning, g.spec)) {
				t.Errorf("want %q\n%s", c.warning, r)
			}
			e := export(t, append(l.args(), "--read-only", "--engine", "native")...)
			sameAs(t, "the clone", e.uri, l.model)
			e.stop(t)
			e = export(t, append(g.args(), plainWithout(g.keys, "--read-only")...)...)
			sameAs(t, "its parent", e.uri, g.model)
			e.stop(t)
			bad(t, exitGeneral, "has been written to", formatClone(l.spec, c.clone, l.keys[0])...)
			good(t, formatClone(l.spec, "luks1", l.keys[0], "--force")...)
		})
	}
}

// plainWithout adds --plain where there are no keys.
func plainWithout(keys []string, args ...string) []string {
	if len(keys) == 0 {
		return append(args, "--plain")
	}
	return args
}

// TestFormatCloneRefuses asks for what would lose data or could not be opened, and finds the clone as it was.
func TestFormatCloneRefuses(t *testing.T) {
	testenv.CephConf(t)
	g := newGolden(t, "luks2", 20, 4)
	spec, key := g.clone(t), g.key(t, "own")
	// A block in its middle is enough.
	e := export(t, "rbd:"+spec, "--key-file", g.keys[0])
	testenv.Run(t, "qemu-io", "-f", "raw", e.uri, "-c", "write -P 7 2M 512", "-c", "flush")
	bad(t, exitBusy, "open for writing by client.", formatClone(spec, "luks2", key, "--force")...)
	e.stop(t)
	bad(t, exitGeneral, "is a clone of rbd:"+g.spec+"@s and has been written to, which would be lost (--force", formatClone(spec, "luks2", key)...)
	small := g.clone(t)
	testenv.RBD(t, "resize", "--no-progress", "--allow-shrink", "--size", "12M", small)
	bad(t, exitGeneral, "the data would begin at byte 16777216, the image ends at 12582912", formatClone(small, "luks2", key)...)
	bad(t, exitNotLUKS, "is a clone of rbd:"+g.spec+"@s", formatClone(g.clone(t), "luks2", key, "--header", filepath.Join(g.dir, "header"))...)
	e = export(t, "rbd:"+spec, "--key-file", g.keys[0], "--read-only")
	copy(g.model[2<<20:], bytes.Repeat([]byte{7}, 512))
	sameAs(t, "the clone that was refused", e.uri, g.model)
	e.stop(t)
}

// A layout is what two clones with the same format and parent have in common.
type layout struct {
	Info    luks.Info
	Magics  [2]string
	Objects string // their names without the prefix, and sizes
	JSON    map[string]any
}

// layoutOf reads it from the raw image, without what is random or measured.
func layoutOf(t *testing.T, spec string) layout {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	testenv.RBD(t, "export", "--no-progress", spec, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	h, err := luks.Read(bytes.NewReader(b), int64(len(b)), luks.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := layout{Info: h.Info, Magics: [2]string{string(b[:6])}}
	l.Info.UUID, l.Info.SequenceID, l.Info.Warnings = "", 0, nil
	for i := range l.Info.Keyslots {
		l.Info.Keyslots[i].KDF = luks.KDF{}
	}
	for i := range l.Info.Digests {
		l.Info.Digests[i].Iterations = 0
	}
	if h.Version == 2 {
		l.Magics[1] = string(b[16384 : 16384+6])
		if err := json.NewDecoder(bytes.NewReader(b[4096:16384])).Decode(&l.JSON); err != nil {
			t.Fatal(err)
		}
		forget(l.JSON)
	}
	var info struct {
		Prefix string `json:"block_name_prefix"`
	}
	if err := json.Unmarshal([]byte(testenv.RBD(t, "info", "--format", "json", spec)), &info); err != nil {
		t.Fatal(err)
	}
	for n := range len(b) >> 22 {
		object := fmt.Sprintf("%s.%016x", info.Prefix, n)
		got := testenv.Try(t, "rados", "--conf", testenv.CephConf(t), "-p", testenv.Pool, "stat", object)
		if _, size, ok := strings.Cut(got.Stdout, "size "); ok {
			l.Objects += fmt.Sprintf("%d: %s", n, size)
		}
	}
	return l
}

// forget removes what is random or measured from a header's JSON.
func forget(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range []string{"salt", "digest", "iterations", "kdf"} {
			delete(v, key)
		}
		for _, inner := range v {
			forget(inner)
		}
	case []any:
		for _, inner := range v {
			forget(inner)
		}
	}
}

// TestReefLayout formats two clones of one snapshot, with Ceph 18 and with luksgate: they differ in nothing but what is
// random. Then librbd and qemu of Ceph 18 open and write ours, and we read what they wrote.
func TestReefLayout(t *testing.T) {
	testenv.Long(t)
	testenv.Tool(t, "nbdcopy")
	t.Parallel() // much of it is waiting
	r := newReefClient(t)
	for _, parent := range []string{"", "luks1", "luks2"} {
		g := newGolden(t, parent, 48, map[string]int64{"": 48, "luks1": 44, "luks2": 32}[parent])
		for i, k := range g.keys {
			g.keys[i] = r.key(t, filepath.Base(k))
		}
		for _, format := range []string{"luks1", "luks2"} {
			t.Run(format+" over "+parent, func(t *testing.T) {
				t.Parallel()
				theirs, ours, key := g.clone(t), g.clone(t), r.key(t, "own")
				r.rbd(t, "encryption", "format", theirs, format, key)
				good(t, formatClone(ours, format, key)...)
				a, b := layoutOf(t, theirs), layoutOf(t, ours)
				if !reflect.DeepEqual(a, b) {
					t.Errorf("Ceph 18 makes\n%+v\nluksgate makes\n%+v", a, b)
				}
				if a.Magics[0] != "RBDL\xba\xbe" {
					t.Errorf("Ceph 18 has the magic %q", a.Magics)
				}
				dataMiB := map[string]int64{"luks1": 44, "luks2": 32}[format]
				l := g.own(ours, key, dataMiB, min(dataMiB, int64(len(g.model))>>20))
				differs(t, "qemu of Ceph 18", r.qemuRead(t, l), l.model)
				l.qemuWrite(t, r, 5<<20, 0x77)
				l.qemuWrite(t, r, 30<<20, 0x78)
				e := export(t, append(l.args(), "--read-only", "--engine", "native")...)
				sameAs(t, "luksgate", e.uri, l.model)
				e.stop(t)
			})
		}
	}
}

// qemuWrite writes a block through qemu and librbd's engine, inside, and into the model.
func (l level) qemuWrite(t *testing.T, r *reef, at int, pattern byte) {
	t.Helper()
	opts, secrets := r.qemuOptions(l)
	out := r.run(t, "qemu-io", append(secrets, "--image-opts", opts, "-c", fmt.Sprintf("write -P %d %d 8k", pattern, at))...)
	if strings.Contains(out, "failed") {
		t.Fatal(out)
	}
	copy(l.model[at:], bytes.Repeat([]byte{pattern}, 8<<10))
}
