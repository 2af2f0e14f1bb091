// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
)

// crash calls f with every state in which a power loss could leave the disk: all writes up to a Sync are there; of the ones
// after it any subset is, and one of them may be torn, at its front or at its back. Each state is a fresh image.
func crash(before []byte, log []event, f func(state []byte)) {
	stable := bytes.Clone(before)
	var pending []event
	flush := func() {
		for subset := range 1 << len(pending) {
			state := bytes.Clone(stable)
			for i, w := range pending {
				if subset>>i&1 != 0 {
					copy(state[w.offsetBytes:], w.data)
				}
			}
			f(state)
			for i, w := range pending {
				if subset>>i&1 == 0 {
					tear(state, w, f)
				}
			}
		}
		for _, w := range pending {
			copy(stable[w.offsetBytes:], w.data)
		}
		pending = nil
	}
	for _, e := range log {
		if e.data == nil {
			flush()
		} else {
			pending = append(pending, e)
		}
	}
	flush()
	f(stable)
}

// tear calls f with states in which a part of a write is done: cuts at every sector of small writes, at some of large ones,
// and in the middle of sectors.
func tear(state []byte, w event, f func([]byte)) {
	step := max(512, len(w.data)/16/512*512)
	for _, inside := range []int{0, 100, 511} {
		for cut := step + inside; cut < len(w.data); cut += step {
			front, back := bytes.Clone(state), bytes.Clone(state)
			copy(front[w.offsetBytes:], w.data[:cut])
			copy(back[w.offsetBytes+int64(cut):], w.data[cut:])
			f(front)
			f(back)
		}
	}
}

// change is an operation on keyslots to cut.
type change struct {
	name string
	// before and after are passphrases that must open the header: in every state all of always, and one of either.
	always, either []string
	run            func(t *testing.T, h *luks.Header, dev *memory, key *luks.VolumeKey) error
}

func changes(t *testing.T) []change {
	ctx := context.Background()
	return []change{
		{"add", []string{"first", "second"}, nil, func(t *testing.T, h *luks.Header, dev *memory, key *luks.VolumeKey) error {
			_, _, err := h.AddKey(ctx, dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fast})
			return err
		}},
		{"remove", []string{"first"}, nil, func(_ *testing.T, h *luks.Header, dev *memory, _ *luks.VolumeKey) error {
			_, err := h.RemoveKey(dev, 1, false)
			return err
		}},
		{"change", []string{"second"}, []string{"first", "new"}, func(t *testing.T, h *luks.Header, dev *memory, key *luks.VolumeKey) error {
			_, _, err := h.ChangeKey(ctx, dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fast})
			return err
		}},
	}
}

// conditions are the states of the header before the change.
var conditions = []struct {
	name    string
	version int
	spoil   func(data []byte)
}{
	{"luks1", 1, func([]byte) {}},
	{"luks2", 2, func([]byte) {}},
	{"luks2 primary damaged", 2, func(data []byte) { data[5000] ^= 1 }},
	{"luks2 secondary damaged", 2, func(data []byte) { data[16384+5000] ^= 1 }},
	{"luks2 primary gone", 2, func(data []byte) { clear(data[:4096]) }},
}

func TestPowerLossAtEveryWrite(t *testing.T) {
	for _, c := range conditions {
		for _, op := range changes(t) {
			t.Run(c.name+"/"+op.name, func(t *testing.T) {
				t.Parallel()
				cutEverywhere(t, c.version, c.spoil, op)
			})
		}
	}
}

func cutEverywhere(t *testing.T, version int, spoil func([]byte), op change) {
	opts := luks.FormatOptions{Version: version, KeyBytes: 32}
	dev, h, key := formatted(t, opts)
	_, h, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast})
	if err != nil {
		t.Fatal(err)
	}
	spoil(dev.data)
	if h, err = luks.Read(dev, dev.size(), luks.ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(dev.data)
	dev.log = nil
	if err := op.run(t, h, dev, key); err != nil {
		t.Fatal(err)
	}
	states := 0
	seen := map[string]bool{}
	crash(before, dev.log, func(state []byte) {
		states++
		check(t, state, key.Key, op, seen)
	})
	t.Logf("%d states, %d writes", states, len(dev.log))
	if states < 20 {
		t.Errorf("only %d states", states)
	}
	for _, p := range op.either {
		if !seen[p] {
			t.Errorf("no state opens with %q: the test does not see both sides of the change", p)
		}
	}
}

// check opens one state. seen collects the passphrases of either that opened.
func check(t *testing.T, state []byte, key *secret.Bytes, op change, seen map[string]bool) {
	dev := &memory{data: state}
	for _, p := range op.always {
		if _, ok := opens(t, dev, dev.size(), mustSecret(t, p), key); !ok {
			t.Fatalf("%q does not open", p)
		}
	}
	if len(op.either) == 0 {
		return
	}
	any := false
	for _, p := range op.either {
		if _, ok := opens(t, dev, dev.size(), mustSecret(t, p), key); ok {
			any, seen[p] = true, true
		}
	}
	if !any {
		t.Fatalf("none of %q opens", op.either)
	}
}

// TestFailedWriteLeavesAnOpenableHeader has each write fail in turn, as a full or lost cluster does.
func TestFailedWriteLeavesAnOpenableHeader(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, op := range changes(t) {
			for failAt := 1; ; failAt++ {
				dev, h, key := formatted(t, luks.FormatOptions{Version: version, KeyBytes: 32})
				_, h, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast})
				if err != nil {
					t.Fatal(err)
				}
				dev.writes, dev.failAt = 0, failAt
				err = op.run(t, h, dev, key)
				check(t, dev.data, key.Key, op, map[string]bool{})
				if err == nil {
					if failAt < 3 {
						t.Errorf("luks%d %s: only %d writes", version, op.name, failAt-1)
					}
					break
				}
			}
		}
	}
}
