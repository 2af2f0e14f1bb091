// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// write sends a write and waits for its reply.
func (r *rawClient) doWrite(cookie, offset uint64, p []byte) error {
	r.writeHeader(cookie, offset, uint32(len(p)))
	r.write(p)
	if got, errno := r.reply(); got != cookie || errno != 0 {
		return fmt.Errorf("write %d: reply %d, error %d", cookie, got, errno)
	}
	return nil
}

// doRead reads.
func (r *rawClient) doRead(cookie, offset uint64, n int) ([]byte, error) {
	h := []byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0}
	for shift := 56; shift >= 0; shift -= 8 {
		h = append(h, byte(cookie>>shift))
	}
	for shift := 56; shift >= 0; shift -= 8 {
		h = append(h, byte(offset>>shift))
	}
	r.write(append(h, u32(uint32(n))...))
	if got, errno := r.reply(); got != cookie || errno != 0 {
		return nil, fmt.Errorf("read %d: reply %d, error %d", cookie, got, errno)
	}
	return r.read(n), nil
}

// hammer writes and reads a region of its own until stop and returns how long the requests took.
func hammer(r *rawClient, seed, base uint64, stop *atomic.Bool) (took []time.Duration, err error) {
	rng := rand.New(rand.NewPCG(seed, 9))
	model := make([]byte, 256<<10)
	for cookie := uint64(1); !stop.Load() && err == nil; cookie++ {
		n := 1 + rng.IntN(40_000)
		at := rng.IntN(len(model) - n)
		start := time.Now()
		if rng.IntN(2) == 0 {
			p := bytes.Repeat([]byte{byte(cookie)}, n)
			copy(model[at:], p)
			err = r.doWrite(cookie, base+uint64(at), p)
		} else {
			var got []byte
			got, err = r.doRead(cookie, base+uint64(at), n)
			if err == nil && !bytes.Equal(got, model[at:at+n]) {
				err = fmt.Errorf("read %d has the wrong bytes", cookie)
			}
		}
		took = append(took, time.Since(start))
	}
	return took, err
}

// upgradeFixture serves two encrypted images with several busy clients each.
type upgradeFixture struct {
	*server
	program string // what an upgrade starts
	stop    atomic.Bool
	clients sync.WaitGroup
	mu      sync.Mutex
	took    []time.Duration
}

func newUpgradeFixture(t *testing.T) *upgradeFixture {
	f := &upgradeFixture{program: programOf(t)}
	conf := "limits: {upgrade: 1s}\nexports:\n"
	for _, name := range []string{"a", "b"} {
		luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 2<<20)})
		conf += fmt.Sprintf("  - {name: %s, image: \"file:%s\", socket: DIR/%s.sock, key: {file: %s}}\n", name, luks.Path, name, luks.PassphrasePath)
	}
	f.server = serveProgram(t, f.program, conf)
	for _, name := range []string{"a", "b"} {
		for i := range uint64(3) {
			r := dial(t, f.socket(name+".sock"))
			f.clients.Go(func() {
				took, err := hammer(r, i, i*(512<<10), &f.stop)
				if err != nil {
					t.Errorf("client %d of %s: %v", i, name, err)
				}
				f.mu.Lock()
				f.took = append(f.took, took...)
				f.mu.Unlock()
			})
		}
	}
	return f
}

func (f *upgradeFixture) finish() {
	f.t.Helper()
	f.stop.Store(true)
	f.clients.Wait()
	slices.Sort(f.took)
	n := len(f.took)
	if n == 0 {
		f.t.Fatal("no request was answered")
	}
	f.t.Logf("%d requests: p50 %v, p99 %v, max %v", n, f.took[n/2], f.took[n*99/100], f.took[n-1])
}

// TestUpgrade restarts the daemon again and again below busy clients, none of which sees an error or an end.
func TestUpgrade(t *testing.T) {
	f := newUpgradeFixture(t)
	f.must("add", "mem:1M", "--name", "later", "--socket", f.socket("later.sock"))
	pid := f.PID()
	for range 3 {
		u, err := f.client.Upgrade(context.Background(), false)
		if err != nil {
			t.Fatalf("%v\n%s", err, f.Output())
		}
		t.Logf("pause %v", u.Pause)
		if u.Connections != 6 || u.PID == pid {
			t.Errorf("upgrade: %+v", u)
		}
		pid = u.PID
		f.wait("the new process answers", func() bool {
			v, err := f.client.Version(context.Background())
			return err == nil && v.PID == pid
		})
	}
	t.Cleanup(func() { // the last one is no child of ours
		p, _ := os.FindProcess(pid)
		_ = p.Kill()
	})
	if e := f.export("a"); e.Clients != 3 {
		t.Errorf("a: %+v", e)
	}
	if e := f.export("later"); e.Origin != "api" {
		t.Errorf("an export that was added: %+v", e)
	}
	dial(t, f.socket("later.sock")) // new clients come in
	if r := f.run("upgrade"); r.ExitCode != exitBusy || !strings.Contains(r.Stderr, "memory") {
		t.Errorf("upgrade with memory in use: %s", r)
	}
	f.finish()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Signal(os.Interrupt)
	f.wait("the last process ends and takes its sockets along", func() bool {
		_, err := os.Stat(f.socket("a.sock"))
		return os.IsNotExist(err)
	})
}

// TestUpgradeFails has successors that cannot take over: the old process goes on, and clients notice nothing.
func TestUpgradeFails(t *testing.T) {
	f := newUpgradeFixture(t)
	good, err := os.ReadFile(f.config)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name, conf, want string) {
		t.Helper()
		testenv.WriteFile(t, f.config, []byte(conf))
		if r := f.run("upgrade"); r.ExitCode == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %s", name, r)
		}
		v, err := f.client.Version(context.Background())
		if err != nil || v.PID != f.PID() {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	try("wrong file", "exports: 7\n", "successor")
	try("export gone", strings.Replace(string(good), "name: b,", "name: c,", 1), "not in the configuration")
	try("read-only", strings.ReplaceAll(string(good), "name: a,", "name: a, read_only: true,"), "writing")
	wrong := testenv.WriteFile(t, filepath.Join(t.TempDir(), "k"), []byte("not it"))
	i := strings.Index(string(good), "key: {file: ")
	try("wrong key", string(good[:i])+"key: {file: "+wrong+"}}"+string(good[i+strings.IndexByte(string(good[i:]), '\n'):]), "no keyslot")
	f.finish()
	testenv.WriteFile(t, f.config, good)
	f.server.stop()
}
