// SPDX-License-Identifier: Apache-2.0

// Package initrd packs what a guest begins with.
package initrd

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
)

// folders are in every guest.
var folders = []string{"dev", "etc", "modules", "proc", "run", "sys", "tmp"}

// Pack packs files, from their names in the guest to their paths here, as the kernel wants them: cpio in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst). All of them are executable, and root's.
func Pack(files map[string]string) ([]byte, error) {
	var out bytes.Buffer
	inode := 0
	add := func(name string, mode int, content []byte) {
		inode++
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&out)
		out.Write(content)
		pad(&out)
	}
	made := map[string]bool{}
	var folder func(name string)
	folder = func(name string) {
		if name == "." || made[name] {
			return
		}
		folder(path.Dir(name))
		made[name] = true
		add(name, 0o040755, nil)
	}
	for _, name := range folders {
		folder(name)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[name])
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		folder(path.Dir(name))
		add(name, 0o100755, content)
	}
	add("TRAILER!!!", 0, nil)
	return out.Bytes(), nil
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
