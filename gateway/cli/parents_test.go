// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// TestParentKeyOfEachClone has the daemon serve clones of one snapshot, which it opens once: whoever does not have the parent's
// key gets nothing, however many others have opened it.
func TestParentKeyOfEachClone(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	g := newGolden(t, "luks1", 16, 12)
	wrong := g.key(t, "wrong")
	var clones []level
	conf := "exports:\n"
	for i, key := range []string{g.keys[0], g.keys[0], wrong} {
		own := g.key(t, fmt.Sprint("own", i))
		l := g.own(g.clone(t), own, 12, 12)
		good(t, formatClone(l.spec, "luks1", own)...)
		conf += fmt.Sprintf("  - {name: c%d, image: \"rbd:%s\", socket: DIR/c%d, keys: [{file: %s}, {file: %s}], engine: native, close_after: 0s}\n",
			i, l.spec, i, own, key)
		clones = append(clones, l)
	}
	d := serveDaemon(t, conf)
	p := nbdshStart(t, d.uri("c0", "c0"), "print('open', flush=True); import time; time.sleep(1000)")
	p.WaitLine("open")
	if r := testenv.Try(t, "nbdinfo", d.uri("c2", "c2")); r.ExitCode == 0 {
		t.Errorf("a clone is served without its parent's key:\n%s", r)
	}
	if e := d.export("c2"); e.State != api.StateFailed || !strings.Contains(e.Error, "its parent rbd:"+g.spec+"@s: ") {
		t.Errorf("%+v", e)
	}
	sameAs(t, "the second clone", d.uri("c1", "c1"), clones[1].model)
	// The first one's end leaves the parent to those who come then.
	p.Signal(syscall.SIGTERM)
	p.Wait()
	qemuWrites(t, []string{"-f", "raw", d.uri("c1", "c1")}, clones[1].model, 10, 1, 81)
	sameAs(t, "the second clone, written", d.uri("c1", "c1"), clones[1].model)
	sameAs(t, "the first clone, again", d.uri("c0", "c0"), clones[0].model)
	d.stop()
}

// TestParentInTheTrash goes on with a clone whose parent's snapshot, and then image, was removed: Ceph keeps it in the trash
// for the clone. It is served, inspected, and flattened.
func TestParentInTheTrash(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	g := newGolden(t, "luks1", 16, 12)
	own := g.own(g.clone(t), g.key(t, "own"), 12, 12)
	good(t, formatClone(own.spec, "luks1", own.keys[0])...)
	heir := level{spec: g.clone(t), keys: g.keys, model: bytes.Clone(g.model)}
	var info struct{ ID string }
	if err := json.Unmarshal([]byte(testenv.RBD(t, "info", "--format", "json", g.spec)), &info); err != nil {
		t.Fatal(err)
	}
	testenv.RBD(t, "snap", "rm", "--no-progress", g.spec+"@s")
	testenv.RBD(t, "trash", "mv", g.spec)
	t.Cleanup(func() { testenv.RBD(t, "trash", "restore", "--pool", testenv.Pool, info.ID) }) // for who removes it
	if out := good(t, "inspect", "rbd:"+own.spec); !strings.Contains(out, "rbd:"+g.spec+"@") {
		t.Errorf("%s", out)
	}
	for _, l := range []level{own, heir} {
		l.scribble(t, 5<<20+77)
		l.reads(t, "--engine", "native")
		good(t, append([]string{"flatten"}, l.args()...)...)
		l.keys = l.keys[:1]
		l.reads(t, "--engine", "native")
	}
}
