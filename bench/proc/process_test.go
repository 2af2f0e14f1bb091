// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"testing"
)

func TestProcessCountsWhatThisOneTakes(t *testing.T) {
	before, err := ReadProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const bytes = 32 << 20
	memory := make([]byte, bytes)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	for name, grown := range map[string]int64{
		"RSS": after.RSSBytes - before.RSSBytes, "PSS": after.PSSBytes - before.PSSBytes,
		"anonymous": after.AnonymousBytes - before.AnonymousBytes,
	} {
		if grown < bytes*3/4 || grown > bytes*5/2 { // the race detector has as much for itself
			t.Errorf("%s grew by %d of %d bytes (memory[0] is %d)", name, grown, bytes, memory[0])
		}
	}
	if after.Files != before.Files+1 || after.Threads < 1 {
		t.Errorf("%d files, then %d; %d threads", before.Files, after.Files, after.Threads)
	}
	if _, err := ReadProcess(1 << 22); err == nil {
		t.Error("a process that cannot be is there")
	}
}
