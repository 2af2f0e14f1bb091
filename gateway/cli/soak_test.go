// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// What "make soak" sets: the seed, and for how long one chain after the other is tried, such as 30m.
const (
	envSoakSeed = "LUKSGATE_SOAK_SEED"
	envSoakTime = "LUKSGATE_SOAK_TIME"
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
	if i > 0 {
		k.inherited(below)
	}
	_, err = work(k.connect(socket), 25)
	k.must(err)
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

// work has each worker do n requests. It returns what was under way when the gateway went.
func work(workers []*worker, n int) (open []change, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			defer func() { _ = w.d.c.Close() }()
			for range n {
				if c, stepErr := w.step(); stepErr != nil {
					mu.Lock()
					open, err = append(open, c), stepErr
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return open, err
}

// round opens the image with an engine, works, and closes it or kills it.
func (k *soak) round(steps int) {
	k.t.Helper()
	engine := "native"
	if k.site.librbd(k.layered) && k.r.IntN(3) == 0 {
		engine = "librbd"
	}
	k.t.Logf("round: engine %s", engine)
	socket, kill := k.site.serve(k.t, k.args("", engine)...)
	d, err := openDisk(socket)
	k.must(err)
	all := &worker{d: d, model: k.top.model}
	if k.r.IntN(3) == 0 && len(k.snaps) < 3 {
		_, err := work(k.connect(socket), steps/8)
		k.must(err)
		s := level{spec: fmt.Sprintf("%s@n%d", k.top.spec, len(k.snaps)), keys: k.top.keys, model: bytes.Clone(k.top.model)}
		k.site.rbd(k.t, "snap", "create", "--no-progress", s.spec)
		k.snaps = append(k.snaps, s)
	}
	if k.r.IntN(2) == 0 {
		_, err := work(k.connect(socket), steps/soakWorkers)
		k.must(err)
		k.readAll(all, engine)
		kill(syscall.SIGTERM)
		k.maintain()
		return
	}
	workers, gone := k.connect(socket), make(chan struct{})
	time.AfterFunc(time.Duration(k.r.IntN(600))*time.Millisecond, func() {
		defer close(gone)
		kill(syscall.SIGKILL)
	})
	open, err := work(workers, 1<<30)
	<-gone
	if errors.Is(err, errWrong) {
		k.must(err)
	}
	k.killed = true
	socket, kill = k.site.serve(k.t, k.args("", "native")...)
	all.d, err = openDisk(socket)
	k.must(err)
	for _, c := range open {
		k.must(all.settle(c))
	}
	k.readAll(all, "native, after kill -9 of "+engine)
	kill(syscall.SIGTERM)
}

// maintain gives the image another size, or makes it independent of its parent, or does nothing. Flattening is for images
// without snapshots, which keep what they show.
func (k *soak) maintain() {
	k.t.Helper()
	var args []string
	switch what := k.r.IntN(6); {
	case what < 2:
		size := int64(len(k.top.model)) + int64(k.r.IntN(5)-2)*(3<<20)/2
		args = []string{"resize", "rbd:" + k.top.spec, strconv.FormatInt(size, 10), "--allow-shrink"}
		k.top.model = append(k.top.model, make([]byte, max(0, size-int64(len(k.top.model))))...)[:size]
	case what == 2 && len(k.snaps) == 0 && len(k.top.keys) > 0:
		args = []string{"flatten", "rbd:" + k.top.spec}
	default:
		return
	}
	k.t.Logf("luksgate %s", strings.Join(args, " "))
	for _, key := range k.top.keys {
		args = append(args, "--key-file", key)
	}
	if got := k.site.luksgate(k.t, args...); got.ExitCode != 0 {
		k.t.Fatalf("seed %d: %s", k.seed, got)
	}
	if args[0] == "flatten" {
		k.top.keys, k.layered = k.top.keys[:1], false
	}
}

func (k *soak) readAll(w *worker, what string) {
	k.t.Helper()
	for at := int64(0); at < int64(len(w.model)); {
		n := min(int64(1+k.r.IntN(4<<20)), int64(len(w.model))-at)
		got := make([]byte, n)
		k.must(w.d.do(nbdRead, 0, at, n, nil, got))
		if err := sameBytes(got, w.model[at:at+n], at); err != nil {
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
		d, err := openDisk(socket)
		k.must(err)
		k.readAll(&worker{d: d, model: l.model}, "native, "+l.spec)
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

// soakSeed is a seed, or the one that was set to try a chain again.
func soakSeed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv(envSoakSeed)
	if s == "" {
		return rand.Uint64() >> 1
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// soakAll tries the chains, one after the other.
func soakAll(t *testing.T, s site, shapes []string, rounds, steps int) {
	t.Helper()
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			k := newSoak(t, s, shape, soakSeed(t))
			for range rounds {
				k.round(steps)
			}
			k.end()
		})
	}
}

// TestSoakShort works on three kinds of chains for a few rounds.
func TestSoakShort(t *testing.T) {
	testenv.CephConf(t)
	soakAll(t, newHere(t), []string{"c2", "d2", "e1"}, 2, 60)
}

// soakOrder is all of soakShapes in an order that stays.
func soakOrder() []string { return slices.Sorted(maps.Keys(soakShapes)) }

// TestReefSoak works on all chains with the librbd of Ceph 18, which writes them too, in turn with the native engine.
func TestReefSoak(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // it has a cluster of its own, and waits most of the time
	testenv.Tool(t, "nbdcopy")
	soakAll(t, inside{newReef(t)}, soakOrder(), 4, 120)
}

// TestReefBesideSoak is the same with Ceph 16, whose librbd cannot write most of them.
func TestReefBesideSoak(t *testing.T) {
	testenv.Long(t)
	testenv.CephConf(t)
	soakAll(t, newHere(t), soakOrder(), 6, 240)
}

// TestSoakForTime goes on with all chains for as long as it is told, on the cluster that is there and, where the chroot can
// be had, with Ceph 18.
func TestSoakForTime(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv(envSoakTime))
	if err != nil {
		t.Skipf("NOT RUN: %s does not say for how long (make soak does)", envSoakTime)
	}
	testenv.CephConf(t)
	sites := map[string]site{"here": newHere(t), "inside": inside{newReef(t)}}
	end := time.Now().Add(limit)
	for pass := 0; time.Now().Before(end) && !t.Failed(); pass++ {
		for _, name := range slices.Sorted(maps.Keys(sites)) {
			for _, shape := range soakOrder() {
				if time.Now().After(end) {
					return
				}
				t.Run(fmt.Sprintf("%s-%s-%d", name, shape, pass), func(t *testing.T) {
					k := newSoak(t, sites[name], shape, soakSeed(t))
					for range 6 {
						k.round(400)
					}
					k.end()
				})
			}
		}
	}
}
