// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A soak is one chain, whose last image is written in every way, with what it must hold.
type soak struct {
	t       *testing.T
	site    site
	r       *rand.Rand
	seed    uint64
	top     level
	layered bool // not all of the chain has one key
	killed  bool // the last gateway did not give back the lock
	snaps   []level
	did     tally
}

// A tally is what was done to a chain.
type tally struct {
	steps, rounds, kills, snapshots, resizes, flattens int
}

func (c tally) String() string {
	return fmt.Sprintf("%d requests in %d rounds, %d kills, %d snapshots, %d resizes, %d flattens",
		c.steps, c.rounds, c.kills, c.snapshots, c.resizes, c.flattens)
}

// soakShapes are the chains, by what is put on top of what: a plaintext image, an image or a clone with a key of its own,
// LUKS1 or LUKS2, and a clone with its parent's.
var soakShapes = map[string][]string{
	"a1": {"luks1"}, "a2": {"luks2"},
	"b":  {"luks2", "inherit"},
	"c1": {"luks1", "luks2"}, "c2": {"luks2", "luks1"}, "c3": {"luks2", "luks2"},
	"d1": {"plain", "luks1"}, "d2": {"plain", "luks2"},
	"e1": {"plain", "luks2", "luks1", "inherit"}, "e2": {"luks1", "inherit", "luks2", "luks1"},
}

const soakMiB = 22 // of every image: a LUKS2 header leaves 6

func newSoak(t *testing.T, s site, shape string, seed uint64) *soak {
	t.Helper()
	k := &soak{t: t, site: s, seed: seed, r: rand.New(rand.NewPCG(seed, 7))}
	t.Logf("chain %s, %s=%d", shape, envSoakSeed, seed)
	object := []string{"64K", "1M", "4M"}[k.r.IntN(3)]
	for i, kind := range soakShapes[shape] {
		k.add(i, kind, object)
	}
	k.did = tally{} // what made it does not count
	return k
}

// add makes the next image of the chain, and writes to it what it keeps to itself.
func (k *soak) add(i int, kind, object string) {
	k.t.Helper()
	name := testenv.UniqueName(k.t)
	spec := testenv.Pool + "/" + name
	below := k.top
	k.top = level{spec: spec, keys: below.keys}
	if i == 0 {
		k.site.rbd(k.t, "create", "--size", strconv.Itoa(soakMiB)+"M", "--object-size", object, spec)
	} else {
		k.site.rbd(k.t, "snap", "create", "--no-progress", below.spec+"@s")
		k.site.rbd(k.t, "clone", "--rbd-default-clone-format", "2", "--object-size", object, below.spec+"@s", spec)
	}
	k.site.own(k.t, spec)
	switch kind {
	case "plain":
	case "inherit":
		k.top.keys = append([]string{below.keys[0]}, below.keys...)
	default:
		key := k.site.key(k.t, name)
		k.top.keys = append([]string{key}, below.keys...)
		args := []string{"format", "rbd:" + spec, "--type", kind, "--key-file", key, "--kdf", "pbkdf2", "--kdf-iterations", "1000", "--yes"}
		if got := k.site.luksgate(k.t, args...); got.ExitCode != 0 {
			k.t.Fatalf("format: %s", got)
		}
		k.layered = i > 0
	}
	socket, kill := k.site.serve(k.t, k.args(kind, "native")...)
	d, err := openDisk(socket)
	k.must(err)
	k.top.model = make([]byte, d.sizeBytes)
	k.must(d.do(nbdRead, 0, 0, d.sizeBytes, nil, k.top.model))
	k.must(d.c.Close())
	if i > 0 {
		k.inherited(below)
	}
	k.work(socket, 100)
	kill(syscall.SIGTERM)
}

// inherited looks whether a new clone shows its parent as far as that goes.
func (k *soak) inherited(below level) {
	k.t.Helper()
	n := min(len(k.top.model), len(below.model))
	want := make([]byte, len(k.top.model))
	copy(want, below.model[:n])
	k.must(sameBytes(k.top.model, want, 0))
}

// args are those of an export of the last image.
func (k *soak) args(kind, engine string) []string {
	args := []string{"rbd:" + k.top.spec}
	if kind == "plain" {
		return append(args, "--plain")
	}
	for _, key := range k.top.keys {
		args = append(args, "--key-file", key)
	}
	args = append(args, "--engine", engine)
	if k.killed {
		args = append(args, "--takeover")
		k.killed = false
	}
	return args
}

func (k *soak) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("seed %d: %v", k.seed, err)
	}
}

const soakWorkers = 4

// connect has each of some workers a part of the image and a connection.
func (k *soak) connect(socket string) []*worker {
	k.t.Helper()
	var all []*worker
	begin := 0
	for i := range soakWorkers {
		end := len(k.top.model) * (i + 1) / soakWorkers
		if i < soakWorkers-1 {
			end += k.r.IntN(1000) // inside a sector
		}
		d, err := openDisk(socket)
		k.must(err)
		r := rand.New(rand.NewPCG(k.r.Uint64(), 1))
		all = append(all, &worker{r: r, d: d, offset: int64(begin), model: k.top.model[begin:end]})
		begin = end
	}
	return all
}

// work has the workers do n requests together.
func (k *soak) work(socket string, n int) {
	k.t.Helper()
	_, err := k.workUntil(socket, n, nil)
	k.must(err)
}

// workUntil is work for a gateway that may go: when begun, the first time that stop is called, is over. It returns what was
// under way then.
func (k *soak) workUntil(socket string, n int, begun func()) (open []change, err error) {
	k.t.Helper()
	workers := k.connect(socket)
	if begun != nil {
		begun()
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			defer func() { _ = w.d.c.Close() }()
			done := 0
			var broken change
			var stepErr error
			for done < n/soakWorkers && stepErr == nil {
				if broken, stepErr = w.step(); stepErr == nil {
					done++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			k.did.steps += done
			if stepErr != nil {
				open, err = append(open, broken), errors.Join(err, stepErr)
			}
		})
	}
	wg.Wait()
	return open, err
}

// round opens the image with an engine, works, and closes it or kills it.
func (k *soak) round(steps int) {
	k.t.Helper()
	k.did.rounds++
	engine := "native"
	if k.site.librbd(k.layered) && (k.did.resizes == 0 || k.site.librbdWritesResizedClones()) && k.r.IntN(3) == 0 {
		engine = "librbd"
	}
	socket, kill := k.site.serve(k.t, k.args("", engine)...)
	if k.r.IntN(3) == 0 && len(k.snaps) < 3 {
		k.work(socket, steps/4)
		s := level{spec: fmt.Sprintf("%s@n%d", k.top.spec, len(k.snaps)), keys: k.top.keys, model: bytes.Clone(k.top.model)}
		k.site.rbd(k.t, "snap", "create", "--no-progress", s.spec)
		k.snaps = append(k.snaps, s)
		k.did.snapshots++
	}
	if k.r.IntN(2) == 0 {
		k.work(socket, steps)
		k.readAll(socket, engine)
		kill(syscall.SIGTERM)
		k.maintain()
		return
	}
	k.kill(socket, engine, steps, kill)
}

// kill ends the gateway suddenly, at some time while it works, and looks what became of the image.
func (k *soak) kill(socket, engine string, steps int, kill func(syscall.Signal)) {
	k.t.Helper()
	k.work(socket, k.r.IntN(steps))
	gone := make(chan struct{})
	open, err := k.workUntil(socket, 1<<30, func() {
		time.AfterFunc(time.Duration(k.r.IntN(600))*time.Millisecond, func() {
			defer close(gone)
			kill(syscall.SIGKILL)
		})
	})
	<-gone
	if errors.Is(err, errWrong) || errors.Is(err, errReply) {
		k.must(err)
	}
	k.killed = true
	k.did.kills++
	socket, kill = k.site.serve(k.t, k.args("", "native")...)
	d, err := openDisk(socket)
	k.must(err)
	all := &worker{d: d, model: k.top.model}
	for _, c := range open {
		k.must(all.settle(c))
	}
	k.readAll(socket, "native, after kill -9 of "+engine)
	kill(syscall.SIGTERM)
}

// maintain gives the image another size, or makes it independent of its parent, or does nothing. Flattening is for images
// without snapshots, which keep what they show.
func (k *soak) maintain() {
	k.t.Helper()
	var args []string
	switch what := k.r.IntN(6); {
	case what < 2:
		const step = 3 << 19
		size := max(int64(len(k.top.model))+int64(k.r.IntN(5)-2)*step, step)
		args = []string{"resize", "rbd:" + k.top.spec, strconv.FormatInt(size, 10), "--allow-shrink"}
		k.top.model = append(k.top.model, make([]byte, max(0, size-int64(len(k.top.model))))...)[:size]
	case what == 2 && len(k.snaps) == 0 && len(k.top.keys) > 0:
		args = []string{"flatten", "rbd:" + k.top.spec}
	default:
		return
	}
	for _, key := range k.top.keys {
		args = append(args, "--key-file", key)
	}
	if got := k.site.luksgate(k.t, args...); got.ExitCode != 0 {
		k.t.Fatalf("seed %d: %s", k.seed, got)
	}
	if args[0] == "flatten" {
		k.top.keys, k.layered = k.top.keys[:1], false
		k.did.flattens++
		return
	}
	k.did.resizes++
}

// readAll compares all of the image with the model, in pieces of any size.
func (k *soak) readAll(socket, what string) {
	k.t.Helper()
	k.compare(socket, what, k.top.model)
}

func (k *soak) compare(socket, what string, model []byte) {
	k.t.Helper()
	d, err := openDisk(socket)
	k.must(err)
	defer func() { _ = d.c.Close() }()
	for at := int64(0); at < int64(len(model)); {
		n := min(int64(1+k.r.IntN(4<<20)), int64(len(model))-at)
		got := make([]byte, n)
		k.must(d.do(nbdRead, 0, at, n, nil, got))
		if err := sameBytes(got, model[at:at+n], at); err != nil {
			k.t.Fatalf("seed %d: engine %s: %v", k.seed, what, err)
		}
		at += n
	}
}

// end has everybody read the image and its snapshots, and the object map checked.
func (k *soak) end() {
	k.t.Helper()
	for _, l := range append(k.snaps, k.top) {
		socket, kill := k.site.serve(k.t, append(l.args(), "--read-only", "--engine", "native")...)
		k.compare(socket, "native, "+l.spec, l.model)
		kill(syscall.SIGTERM)
		k.site.judge(k.t, l, k.layered)
	}
	k.checkMap()
}

// checkMap fails if the object map misses an object: librbd would not look for it. It may say that one has changed since
// the last snapshot which has not, or that one exists which does not, as after librbd's own sudden end.
func (k *soak) checkMap() {
	k.t.Helper()
	got := k.site.try(k.t, "--log-to-stderr=true", "object-map", "check", "--no-progress", k.top.spec)
	if got.ExitCode != 0 || strings.Contains(got.Stderr, "marked as 0") {
		k.t.Errorf("seed %d: the object map is wrong\n%s", k.seed, got)
	}
	if info := k.site.rbd(k.t, "info", k.top.spec); strings.Contains(info, "invalid") && !strings.Contains(got.Stderr, "marked as") {
		k.t.Errorf("seed %d: the object map is wrong\n%s\n%s", k.seed, info, got)
	}
}
