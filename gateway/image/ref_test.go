// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"testing"
)

func TestParseRef(t *testing.T) {
	good := map[string]Ref{
		"rbd:rbd/vm1":            {Scheme: RBD, Pool: "rbd", Image: "vm1"},
		"rbd:pool/ns/vm-1@s.1":   {Scheme: RBD, Pool: "pool", Namespace: "ns", Image: "vm-1", Snapshot: "s.1"},
		"file:/srv/a b@c.img":    {Scheme: File, Path: "/srv/a b@c.img"},
		"mem:1048576":            {Scheme: Mem, SizeBytes: 1 << 20},
		"rbd:volumes/volume-1:2": {Scheme: RBD, Pool: "volumes", Image: "volume-1:2"},
	}
	for s, want := range good {
		got, err := ParseRef(s)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
		if got.String() != s {
			t.Errorf("%s is printed as %s", s, got)
		}
	}
	for _, s := range []string{
		"", "vm1", "rbd:", "rbd:pool", "rbd:/img", "rbd:pool/", "rbd:a/b/c/d", "rbd:a//b", "rbd:a/b@", "rbd:a/b@c/d",
		"rbd:a/b@c@d", "file:", "mem:", "mem:-1", "mem:1X", "mem:9999999P", "nbd:foo", "rbd:a/b\x00",
	} {
		if _, err := ParseRef(s); !errors.Is(err, ErrRef) {
			t.Errorf("%q: got %v, want ErrRef", s, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "512": 512, "4K": 4096, "4k": 4096, "1M": 1 << 20, "2G": 2 << 30, "1GiB": 1 << 30, "3T": 3 << 40, "7P": 7 << 50, "10B": 10,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v", s, got, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("rbd:pool/ns/img@snap")
	f.Add("mem:1G")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Fatalf("%q: parsed as %+v, printed and parsed again as %+v, %v", s, r, again, err)
		}
	})
}
