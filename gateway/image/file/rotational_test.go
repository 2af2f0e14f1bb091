// SPDX-License-Identifier: Apache-2.0

package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRotational makes a tree as the kernel has it: links to folders of disks, with partitions inside.
func TestRotational(t *testing.T) {
	root := t.TempDir()
	for disk, turns := range map[string]string{"sda": "1\n", "sdb": "0\n"} {
		queue := filepath.Join(root, "devices", disk, "queue")
		for _, dir := range []string{queue, filepath.Join(root, "devices", disk, disk+"1")} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(queue, "rotational"), []byte(turns), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "dev", "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	for number, target := range map[string]string{"8:0": "sda", "8:1": "sda/sda1", "8:16": "sdb", "8:17": "sdb/sdb1"} {
		if err := os.Symlink("../../devices/"+target, filepath.Join(root, "dev", "block", number)); err != nil {
			t.Fatal(err)
		}
	}
	for minor, want := range map[uint32]bool{0: true, 1: true, 16: false, 17: false, 99: false} {
		if got := rotational(root, 8, minor); got != want {
			t.Errorf("8:%d: %v", minor, got)
		}
	}
	if Rotational(filepath.Join(root, "none")) {
		t.Error("a file that is not there turns")
	}
}

// TestRotationalOfThisMachine compares with what the kernel has for every disk of this machine.
func TestRotationalOfThisMachine(t *testing.T) {
	disks, _ := filepath.Glob("/sys/block/*")
	for _, disk := range disks {
		want, err := os.ReadFile(filepath.Join(disk, "queue", "rotational"))
		if err != nil {
			continue
		}
		var st unix.Stat_t
		node := filepath.Join("/dev", filepath.Base(disk))
		if unix.Stat(node, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue // this system has no node for it
		}
		if got := Rotational(node); got != (strings.TrimSpace(string(want)) == "1") {
			t.Errorf("%s: %v, the kernel says %s", node, got, want)
		}
	}
}
