// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A Process is what one process has at a moment.
type Process struct {
	// RSSBytes is its resident memory; in PSSBytes pages shared with others count in part; AnonymousBytes is its own, without
	// files and shared memory.
	RSSBytes, PSSBytes, AnonymousBytes int64
	// LockedBytes never leave memory.
	LockedBytes int64
	Threads     int64
	Files       int64 // descriptors that are open
}

// ReadProcess asks the kernel; it takes the rights to read the process's memory map.
func ReadProcess(pid int) (p Process, err error) {
	folder := fmt.Sprintf("/proc/%d/", pid)
	err = readSizes(folder+"smaps_rollup", map[string]*int64{
		"Rss": &p.RSSBytes, "Pss": &p.PSSBytes, "Anonymous": &p.AnonymousBytes, "Locked": &p.LockedBytes,
	})
	if err != nil {
		return p, err
	}
	if err := readSizes(folder+"status", map[string]*int64{"Threads": &p.Threads}); err != nil {
		return p, err
	}
	files, err := os.ReadDir(folder + "fd")
	p.Files = int64(len(files))
	return p, err
}

// readSizes reads lines such as "Rss: 12 kB" or "Threads: 7" into the numbers of these names, all of which must be there.
func readSizes(path string, into map[string]*int64) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		to := into[name]
		if to == nil {
			continue
		}
		number, kibibytes := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if *to, err = strconv.ParseInt(number, 10, 64); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
		if kibibytes {
			*to <<= 10
		}
		found++
	}
	if found != len(into) {
		return fmt.Errorf("%s: only %d of %d names are there", path, found, len(into))
	}
	return nil
}
