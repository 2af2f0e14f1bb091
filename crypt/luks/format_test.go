// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestFormatIsOpenedByCryptsetup(t *testing.T) {
	for name, tc := range map[string]struct {
		opts       luks.FormatOptions
		dump       []string
		dataOffset int64
	}{
		"luks2 default geometry": {
			luks.FormatOptions{KDF: fastArgon2, Label: "a label", UUID: "01234567-89ab-cdef-0123-456789abcdef"},
			[]string{"a label", "01234567-89ab-cdef-0123-456789abcdef", "sector: 4096", "cipher: aes-xts-plain64", "argon2id", "offset: 16777216"},
			16 << 20,
		},
		"luks2 argon2i":        {luks.FormatOptions{KDF: luks.KDFOptions{Type: "argon2i", TimeCost: 4, MemoryKiB: 32, Threads: 1}}, []string{"argon2i\n"}, 16 << 20},
		"luks2 stripe period":  {luks.FormatOptions{KDF: fast, DataAlignmentBytes: 12 << 20}, []string{"offset: 25165824"}, 24 << 20},
		"luks2 aes-128 512":    {luks.FormatOptions{KDF: fast, KeyBytes: 32, SectorBytes: 512}, []string{"sector: 512"}, 16 << 20},
		"luks2 small":          {luks.FormatOptions{KDF: fast, DataOffsetBytes: 1 << 20}, []string{"offset: 1048576"}, 1 << 20},
		"luks1 aes-256":        {luks.FormatOptions{Version: 1, KDF: fast}, []string{"Version:       \t1", "Payload offset:\t4096", "MK bits:       \t512", "sha256"}, 2 << 20},
		"luks1 aes-128":        {luks.FormatOptions{Version: 1, KDF: luks.KDFOptions{Iterations: 1000, Hash: "sha512"}, KeyBytes: 32}, []string{"MK bits:       \t256", "sha512"}, 2 << 20},
		"luks1 librbd objects": {luks.FormatOptions{Version: 1, KDF: fast, DataAlignmentBytes: 4 << 20}, []string{"Payload offset:\t8192"}, 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := file(t, 26<<20)
			tc.opts.Passphrase = mustSecret(t, "pass\n")
			h, key, err := luks.Format(context.Background(), f, 26<<20, tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Release()
			if h.DataOffsetBytes != tc.dataOffset || key.Keyslot != 0 || len(h.Warnings) != 0 {
				t.Errorf("data at %d, expected %d; keyslot %d; warnings %q", h.DataOffsetBytes, tc.dataOffset, key.Keyslot, h.Warnings)
			}
			if !cryptsetupOpens(t, f.Name(), "pass\n") || cryptsetupOpens(t, f.Name(), "pass") {
				t.Error("cryptsetup opens it with another passphrase than ours")
			}
			dump := testenv.Run(t, "cryptsetup", "luksDump", f.Name())
			for _, want := range tc.dump {
				if !strings.Contains(strings.ReplaceAll(dump, "[bytes]", ""), strings.TrimSuffix(want, "\n")) {
					t.Errorf("luksDump has no %q:\n%s", want, dump)
				}
			}
			withKey := testenv.Run(t, "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--key-file", passFile(t, "pass\n"), f.Name())
			if dumpedKey(withKey) != hexOf(key.Key.Bytes()) {
				t.Error("cryptsetup finds another volume key")
			}
			repaired := testenv.Run(t, "cryptsetup", "repair", "--batch-mode", f.Name())
			if strings.Contains(repaired, "repaired") {
				t.Errorf("cryptsetup repair had something to do: %s", repaired)
			}
		})
	}
}

// TestQemuReadsWhatWeFormat writes data through our cipher and has qemu read it.
func TestQemuReadsWhatWeFormat(t *testing.T) {
	f := file(t, 4<<20)
	h, key, err := luks.Format(context.Background(), f, 4<<20, luks.FormatOptions{Version: 1, KDF: fast, Passphrase: mustSecret(t, "pass")})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Release()
	c, err := xts.New(key.Key.Bytes(), h.SectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	plain := bytes.Repeat([]byte("0123456789abcdef"), (2<<20)/16)
	ciphertext := make([]byte, len(plain))
	c.Encrypt(ciphertext, plain, h.IVOffset)
	if _, err := f.WriteAt(ciphertext, h.DataOffsetBytes); err != nil {
		t.Fatal(err)
	}
	raw := testenv.WriteFile(t, filepath.Join(t.TempDir(), "plain"), plain)
	testenv.Run(t, "qemu-img", "compare", "--object", "secret,id=s,file="+passFile(t, "pass"),
		"--image-opts", "driver=luks,key-secret=s,file.filename="+f.Name(), "driver=raw,file.filename="+raw)
}

// TestQemuFormatsOpen opens what qemu-img makes.
func TestQemuFormatsOpen(t *testing.T) {
	for _, args := range []string{",cipher-alg=aes-128,hash-alg=sha512"} {
		path := filepath.Join(t.TempDir(), "image")
		pass := passFile(t, "pass")
		for range 20 {
			r := testenv.Try(t, "qemu-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,file="+pass,
				"-o", "key-secret=s,iter-time=50"+args, path, "4M")
			// On a busy machine qemu's benchmark of its KDF gives up now and then.
			if r.ExitCode == 0 {
				break
			}
			if !strings.Contains(r.Stderr, "accurate CPU usage") {
				t.Fatal(r)
			}
		}
		h, f, err := readFile(t, path, luks.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := opens(t, f, h.DataOffsetBytes+4<<20, mustSecret(t, "pass"), nil); !ok {
			t.Errorf("%q does not open", args)
		}
	}
}

func TestFormatRefusesWhatIsThere(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(b []byte){
		"zeros":                nil,
		"a LUKS header":        func(b []byte) { copy(b, "LUKS\xba\xbe\x00\x02") },
		"data at byte 1048577": func(b []byte) { b[1<<20+1] = 1 },
		"a partition table":    func(b []byte) { copy(b[510:], "\x55\xaa") },
		"an XFS":               func(b []byte) { copy(b, "XFSB") },
		"a secondary LUKS2":    func(b []byte) { _, h2 := copies(t); copy(b[16384:], h2) },
		"librbd clone":         func(b []byte) { copy(b, "RBDL\xba\xbe\x00\x02") },
		"a LUKS header of":     func(b []byte) { copy(b, "RBDL\xba\xbe\x00\x01") },
	} {
		dev := &memory{data: make([]byte, 2<<20)}
		opts := luks.FormatOptions{KDF: fast, DataOffsetBytes: 3 << 19, Passphrase: mustSecret(t, "p")}
		if spoil != nil {
			spoil(dev.data)
		}
		before := bytes.Clone(dev.data)
		_, key, err := luks.Format(ctx, dev, dev.size(), opts)
		key.Release()
		if spoil == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, luks.ErrInUse) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, dev.data) {
			t.Errorf("%s: the image was changed", name)
		}
		opts.Force = true
		_, key, err = luks.Format(ctx, dev, dev.size(), opts)
		if err != nil {
			t.Fatalf("%s: forced: %v", name, err)
		}
		if _, ok := opens(t, dev, dev.size(), opts.Passphrase, key.Key); !ok {
			t.Errorf("%s: forced: does not open", name)
		}
		key.Release()
	}
}

// copies returns the two copies of a small LUKS2 header.
func copies(t *testing.T) (primary, secondary []byte) {
	dev, _, _ := formatted(t, luks.FormatOptions{})
	return dev.data[:16384], dev.data[16384:32768]
}

func TestFormatRefusesNonsense(t *testing.T) {
	p := mustSecret(t, "p")
	for want, opts := range map[string]luks.FormatOptions{
		"version 3":       {Version: 3, Passphrase: p},
		"key of 48":       {KeyBytes: 48, Passphrase: p},
		"sectors of 8192": {SectorBytes: 8192, Passphrase: p},
		"512 bytes only":  {Version: 1, SectorBytes: 4096, Passphrase: p},
		"no label":        {Version: 1, Label: "x", Passphrase: p},
		"longer than":     {Label: strings.Repeat("x", 48), Passphrase: p},
		"UUID":            {UUID: "not one", Passphrase: p},
		"no passphrase":   {},
		"alignment":       {DataAlignmentBytes: 1000, Passphrase: p},
		"data offset":     {DataOffsetBytes: 4096, Passphrase: p},
		"expected pbkdf2": {Version: 1, KDF: luks.KDFOptions{Type: "argon2id"}, Passphrase: p},
		"image ends":      {Passphrase: p},
		"volume key":      {VolumeKey: p, Passphrase: p},
		"hash":            {KDF: luks.KDFOptions{Type: "pbkdf2", Hash: "md5", Iterations: 1000}, Passphrase: p, DataOffsetBytes: 3 << 19},
		"GiB in all":      {KDF: luks.KDFOptions{TimeCost: 1 << 30, MemoryKiB: 1 << 20, Threads: 1}, Passphrase: p, DataOffsetBytes: 3 << 19},
		"threads":         {KDF: luks.KDFOptions{TimeCost: 1, MemoryKiB: 1 << 10, Threads: 200}, Passphrase: p, DataOffsetBytes: 3 << 19},
	} {
		dev := &memory{data: make([]byte, 2<<20)}
		if opts.KDF == (luks.KDFOptions{}) {
			opts.KDF = fast
		}
		_, _, err := luks.Format(context.Background(), dev, dev.size(), opts)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected one with %q", err, want)
		}
		if err != nil && len(dev.log) > 0 && (dev.data[0] != 0 || dev.data[16384] != 0) {
			t.Errorf("%s: a header was written", want)
		}
	}
}

// TestInterruptedFormatLeavesNoHeader cuts the writes of a format at every point.
func TestInterruptedFormatLeavesNoHeader(t *testing.T) {
	for _, version := range []int{1, 2} {
		dev, _, key := formatted(t, luks.FormatOptions{Version: version, KeyBytes: 32})
		before := make([]byte, len(dev.data))
		outcomes := map[string]int{}
		crash(before, dev.log, func(state []byte) {
			d := &memory{data: state}
			h, err := luks.Read(d, d.size(), luks.ReadOptions{})
			if err != nil {
				outcomes["none"]++
				return
			}
			if version == 1 && len(h.Keyslots) == 0 {
				outcomes["none"]++
				return
			}
			if _, ok := opens(t, d, d.size(), mustSecret(t, "first"), key.Key); ok {
				outcomes["opens"]++
			} else {
				outcomes["neither"]++
			}
		})
		// LUKS1 has no checksum: torn in its only keyslot it is a header that nothing opens, and the format is repeated.
		if outcomes["opens"] == 0 || outcomes["none"] == 0 || version == 2 && outcomes["neither"] != 0 {
			t.Errorf("luks%d: %v", version, outcomes)
		}
	}
}

func TestFormatDetached(t *testing.T) {
	for _, version := range []int{1, 2} {
		f := file(t, 16<<20)
		h, key, err := luks.Format(context.Background(), f, 16<<20, luks.FormatOptions{Version: version, Detached: true, KDF: fast, Passphrase: mustSecret(t, "pass")})
		if err != nil {
			t.Fatal(err)
		}
		key.Release()
		data := file(t, 1<<20)
		if h.DataOffsetBytes != 0 || !cryptsetupOpens(t, data.Name(), "pass", "--header", f.Name()) {
			t.Errorf("luks%d: data at %d", version, h.DataOffsetBytes)
		}
	}
}

// TestCloneMagic makes what librbd writes to clones, and sees that the checksum is that of the plain magic.
func TestCloneMagic(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			dev, h, key := formatted(t, luks.FormatOptions{Version: version, CloneMagic: true})
			if !h.CloneMagic || string(dev.data[:4]) != "RBDL" || version == 2 && string(dev.data[16384:16388]) != "LDBR" {
				t.Fatalf("no clone magic: %q", dev.data[:6])
			}
			if _, h, err := h.AddKey(context.Background(), dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast}); err != nil || !h.CloneMagic {
				t.Fatalf("adding a key: %v", err)
			}
			if _, ok := opens(t, dev, dev.size(), mustSecret(t, "second"), key.Key); !ok {
				t.Error("does not open")
			}
			copy(dev.data, "LUKS")
			if version == 2 {
				copy(dev.data[16384:], "SKUL")
			}
			if h, err := luks.Read(dev, dev.size(), luks.ReadOptions{}); err != nil || h.CloneMagic || len(h.Warnings) != 0 {
				t.Fatalf("with plain magics: %v", err)
			}
			if !cryptsetupOpens(t, dev.save(t), "second") {
				t.Error("cryptsetup does not open it with plain magics")
			}
		})
	}
}

// TestPlainMagic turns a clone's header into a plain one, with a failure at each write on the way.
func TestPlainMagic(t *testing.T) {
	for version, writes := range map[int]int{1: 1, 2: 2} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			for failAt := writes; failAt >= 0; failAt-- {
				dev, h, key := formatted(t, luks.FormatOptions{Version: version, CloneMagic: true})
				dev.writes, dev.failAt = 0, failAt
				plain, err := h.PlainMagic(dev)
				if failAt > 0 {
					if !errors.Is(err, errInjected) {
						t.Errorf("write %d fails: %v", failAt, err)
					}
					dev.failAt = 0
					if h, err = luks.Read(dev, dev.size(), luks.ReadOptions{}); err != nil || len(h.Warnings) != 0 {
						t.Fatalf("after a failure at write %d: %v %q", failAt, err, h.Warnings)
					}
					plain, err = h.PlainMagic(dev)
				}
				if err != nil || plain.CloneMagic || string(dev.data[:4]) != "LUKS" || version == 2 && string(dev.data[16384:16388]) != "SKUL" {
					t.Fatalf("the clone magic is there still: %v", err)
				}
				if _, ok := opens(t, dev, dev.size(), mustSecret(t, "first"), key.Key); !ok {
					t.Error("does not open")
				}
				dev.writes = 0
				if again, err := plain.PlainMagic(dev); err != nil || again != plain || dev.writes != 0 {
					t.Errorf("there was something left to do: %v", err)
				}
			}
		})
	}
}

// TestDataBegin foretells what Format does.
func TestDataBegin(t *testing.T) {
	for _, opts := range []luks.FormatOptions{
		{}, {Version: 1, KeyBytes: 32}, {Version: 1, DataAlignmentBytes: 4 << 20}, {DataAlignmentBytes: 12 << 20}, {DataOffsetBytes: 1 << 20},
	} {
		opts.KDF, opts.Passphrase = fast, mustSecret(t, "first")
		dev := &memory{data: make([]byte, 26<<20)}
		want, err := opts.DataBegin(dev.size())
		if err != nil {
			t.Fatal(err)
		}
		h, key, err := luks.Format(context.Background(), dev, dev.size(), opts)
		if err != nil || h.DataOffsetBytes != want {
			t.Fatalf("%+v: foretold %d, %v", opts, want, err)
		}
		key.Release()
		if _, err := opts.DataBegin(want - 1); !errors.Is(err, luks.ErrNoSpace) {
			t.Errorf("an image of %d bytes: %v", want-1, err)
		}
	}
}

// TestMeasuredKDF only looks at bounds: how fast this machine is is not our business.
func TestMeasuredKDF(t *testing.T) {
	for _, opts := range []luks.KDFOptions{
		{Target: time.Millisecond, MemoryKiB: 256}, {Target: time.Millisecond, Type: "argon2i", MemoryKiB: 128, Threads: 1},
		{Target: time.Millisecond, Type: "pbkdf2"},
	} {
		_, h, _ := formatted(t, luks.FormatOptions{KDF: opts})
		switch k := h.Keyslots[0].KDF; k.Type {
		case "pbkdf2":
			if k.Iterations < 1000 {
				t.Errorf("%+v", k)
			}
		default:
			if k.TimeCost < 4 || k.MemoryKiB != opts.MemoryKiB || k.Threads < 1 || k.Threads > 4 {
				t.Errorf("%+v", k)
			}
		}
	}
}

func TestInfoIsJSONWithoutSecrets(t *testing.T) {
	_, h, key := formatted(t, luks.FormatOptions{Label: "label"})
	js, err := json.Marshal(h.Info)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(js, &back); err != nil {
		t.Fatal(err)
	}
	if back["label"] != "label" || back["cipher"] != "aes" || back["warnings"] == nil || back["tokens"] == nil {
		t.Errorf("%s", js)
	}
	for _, s := range []string{"salt", "digest\":\"", hexOf(key.Key.Bytes())} {
		if strings.Contains(string(js), s) {
			t.Errorf("%q in %s", s, js)
		}
	}
}
