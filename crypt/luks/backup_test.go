// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/deploy/testenv"
)

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	decode := func(s string) (v any) {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	return reflect.DeepEqual(decode(a), decode(b))
}

func TestBackupAndRestore(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, clone := range []bool{false, true} {
			t.Run(fmt.Sprintf("luks%d clone %v", version, clone), func(t *testing.T) {
				dev, h, key := formatted(t, luks.FormatOptions{Version: version, CloneMagic: clone})
				var backup bytes.Buffer
				if err := h.Backup(dev, &backup); err != nil {
					t.Fatal(err)
				}
				if _, _, err := h.ChangeKey(context.Background(), dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fast}); err != nil {
					t.Fatal(err)
				}
				from := bytes.NewReader(backup.Bytes())
				h, err := luks.Restore(dev, dev.size(), from, from.Size(), false)
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := opens(t, dev, dev.size(), mustSecret(t, "first"), key.Key); !ok || h.CloneMagic != clone {
					t.Error("does not open after the restore")
				}
				if _, ok := opens(t, dev, dev.size(), mustSecret(t, "new"), key.Key); ok {
					t.Error("opens with what came after the backup")
				}
			})
		}
	}
}

func TestRestoreRefusesOtherImages(t *testing.T) {
	dev, h, key := formatted(t, luks.FormatOptions{})
	var backup bytes.Buffer
	if err := h.Backup(dev, &backup); err != nil {
		t.Fatal(err)
	}
	from := bytes.NewReader(backup.Bytes())
	other, _, _ := formatted(t, luks.FormatOptions{})
	empty := &memory{data: make([]byte, 2<<20)}
	broken := &memory{data: bytes.Clone(dev.data)}
	clear(broken.data[:32768])
	copy(broken.data, "LUKS\xba\xbe\x00\x02")
	for name, target := range map[string]*memory{"other": other, "empty": empty, "broken": broken} {
		before := bytes.Clone(target.data)
		if _, err := luks.Restore(target, target.size(), from, from.Size(), false); !errors.Is(err, luks.ErrInUse) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, target.data) {
			t.Errorf("%s: changed", name)
		}
		if _, err := luks.Restore(target, target.size(), from, from.Size(), true); err != nil {
			t.Errorf("%s: forced: %v", name, err)
		}
		if _, ok := opens(t, target, target.size(), mustSecret(t, "first"), key.Key); !ok {
			t.Errorf("%s: does not open", name)
		}
	}
	small := &memory{data: make([]byte, 1<<20)}
	if _, err := luks.Restore(small, small.size(), from, from.Size(), true); !errors.Is(err, luks.ErrNoSpace) {
		t.Errorf("small image: %v", err)
	}
	half := bytes.NewReader(backup.Bytes()[:20000])
	if _, err := luks.Restore(dev, dev.size(), half, half.Size(), true); !errors.Is(err, luks.ErrDamaged) {
		t.Errorf("half a backup: %v", err)
	}
}

// TestBackupsAreThoseOfCryptsetup restores ours with cryptsetup, and its with ours.
func TestBackupsAreThoseOfCryptsetup(t *testing.T) {
	for _, version := range []int{1, 2} {
		dev, h, key := formatted(t, luks.FormatOptions{Version: version})
		path := dev.save(t)
		dir := t.TempDir()
		var ours bytes.Buffer
		if err := h.Backup(dev, &ours); err != nil {
			t.Fatal(err)
		}
		oursPath := testenv.WriteFile(t, filepath.Join(dir, "ours"), ours.Bytes())
		theirsPath := filepath.Join(dir, "theirs")
		testenv.Run(t, "cryptsetup", "luksHeaderBackup", "--header-backup-file", theirsPath, path)
		_, f, err := readFile(t, path, luks.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change := func(passphrase string) {
			h, err := luks.Read(f, dev.size(), luks.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if h, err = h.RemoveKey(f, h.Keyslots[0].ID, true); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.AddKey(context.Background(), f, key, mustSecret(t, passphrase), luks.KeyslotOptions{KDF: fast}); err != nil {
				t.Fatal(err)
			}
			if cryptsetupOpens(t, path, "first") || !cryptsetupOpens(t, path, passphrase) {
				t.Fatal("the change did not take")
			}
		}
		change("second")
		testenv.Run(t, "cryptsetup", "luksHeaderRestore", "--batch-mode", "--header-backup-file", oursPath, path)
		if !cryptsetupOpens(t, path, "first") || cryptsetupOpens(t, path, "second") {
			t.Errorf("luks%d: cryptsetup restored our backup and does not open it", version)
		}
		change("third")
		_, backup, err := readFile(t, theirsPath, luks.ReadOptions{Detached: true})
		if err != nil {
			t.Fatal(err)
		}
		info, err := backup.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := luks.Restore(f, dev.size(), backup, info.Size(), false); err != nil {
			t.Fatal(err)
		}
		if !cryptsetupOpens(t, path, "first") || cryptsetupOpens(t, path, "third") {
			t.Errorf("luks%d: we restored cryptsetup's backup and it does not open", version)
		}
	}
}
