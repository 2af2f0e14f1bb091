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
// after it any subset is, and one of them may be torn, at its front or at its back. f must not keep the state.
func crash(before []byte, log []event, f func(state []byte)) {
	stable, state := bytes.Clone(before), make([]byte, len(before))
	var pending []event
	// show calls f with the pending writes of a subset, and a part of one more.
	show := func(subset int, torn event) {
		copy(state, stable)
		for i, w := range pending {
			if subset>>i&1 != 0 {
				copy(state[w.offsetBytes:], w.data)
			}
		}
		copy(state[torn.offsetBytes:], torn.data)
		f(state)
	}
	for _, e := range append(log, event{}) {
		if e.data != nil {
			pending = append(pending, e)
			continue
		}
		for subset := range 1 << len(pending) {
			show(subset, event{})
			for i, w := range pending {
				if subset>>i&1 == 0 {
					tear(w, func(part event) { show(subset, part) })
				}
			}
		}
		for _, w := range pending {
			copy(stable[w.offsetBytes:], w.data)
		}
		pending = nil
	}
}

// tear calls f with parts of a write: headers end at every sector and begin in the middle of every sector, areas of
// keyslots do so in some places.
func tear(w event, f func(event)) {
	step := 512
	if len(w.data) > 16<<10 {
		step = len(w.data) / 8 / 512 * 512
	}
	for cut := step; cut < len(w.data); cut += step {
		f(event{w.offsetBytes, w.data[:cut]})
		f(event{w.offsetBytes + int64(cut) + 100, w.data[cut+100:]})
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
			_, _, err := h.AddKey(ctx, dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fastest})
			return err
		}},
		{"remove", []string{"first"}, nil, func(_ *testing.T, h *luks.Header, dev *memory, _ *luks.VolumeKey) error {
			_, err := h.RemoveKey(dev, 1, false)
			return err
		}},
		{"change", []string{"second"}, []string{"first", "new"}, func(t *testing.T, h *luks.Header, dev *memory, key *luks.VolumeKey) error {
			_, _, err := h.ChangeKey(ctx, dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fastest})
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
	opts := luks.FormatOptions{Version: version, KeyBytes: 32, KDF: fastest}
	dev, h, key := formatted(t, opts)
	if _, _, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fastest}); err != nil {
		t.Fatal(err)
	}
	spoil(dev.data)
	h, err := luks.Read(dev, dev.size(), luks.ReadOptions{})
	if err != nil {
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
	opened := false
	for _, p := range op.either {
		if _, ok := opens(t, dev, dev.size(), mustSecret(t, p), key); ok {
			opened, seen[p] = true, true
		}
	}
	if !opened {
		t.Fatalf("none of %q opens", op.either)
	}
}

// TestFailedWriteLeavesAnOpenableHeader has each write fail in turn, as a full or lost cluster does.
func TestFailedWriteLeavesAnOpenableHeader(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, op := range changes(t) {
			for failAt := 1; ; failAt++ {
				dev, h, key := formatted(t, luks.FormatOptions{Version: version, KeyBytes: 32, KDF: fastest})
				_, h, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fastest})
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

// TestCryptsetupOpensBetweenWrites asks cryptsetup about the states after each write; that it may repair them is its affair.
func TestCryptsetupOpensBetweenWrites(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, op := range changes(t) {
			dev, h, key := formatted(t, luks.FormatOptions{Version: version, KeyBytes: 32, KDF: fastest})
			_, h, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fastest})
			if err != nil {
				t.Fatal(err)
			}
			state := &memory{data: bytes.Clone(dev.data)}
			dev.log = nil
			if err := op.run(t, h, dev, key); err != nil {
				t.Fatal(err)
			}
			for i, e := range dev.log {
				copy(state.data[e.offsetBytes:], e.data)
				if e.data == nil {
					continue
				}
				path := state.save(t)
				for _, p := range op.always {
					if !cryptsetupOpens(t, path, p) {
						t.Errorf("luks%d %s, event %d: cryptsetup does not open it with %q", version, op.name, i, p)
					}
				}
				if len(op.either) > 0 && !cryptsetupOpens(t, path, op.either[0]) && !cryptsetupOpens(t, path, op.either[1]) {
					t.Errorf("luks%d %s, event %d: cryptsetup opens it with none of %q", version, op.name, i, op.either)
				}
			}
		}
	}
}
