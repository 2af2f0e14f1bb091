// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A Guest is an operating system for virtual machines: a kernel, and an initrd with deploy/guest/init.
type Guest struct{ Kernel, Initrd string }

// NewGuest makes a guest in dir, which every user may read. The test is skipped where there is no kernel for it: see
// deploy/guest/guest.
func NewGuest(tb testing.TB, dir string) Guest {
	tb.Helper()
	return NewGuestOf(tb, dir, "./deploy/guest/init", nil)
}

// NewGuestOf makes a guest that runs another program of ours than deploy/guest/init. files are further files of the guest, by
// their names there; "modules/..." is loaded by it, and with the source "nbd.ko" is the kernel's NBD driver.
func NewGuestOf(tb testing.TB, dir, program string, files map[string]string) Guest {
	tb.Helper()
	out, err := exec.Command(filepath.Join(Root(tb), "deploy", "guest", "guest"), "dir").Output()
	if err != nil {
		tb.Fatal(err)
	}
	source := strings.TrimSpace(string(out))
	kernel, err := os.ReadFile(filepath.Join(source, "vmlinuz"))
	if err != nil {
		tb.Skipf("NOT RUN: no kernel for guests: get it with deploy/guest/guest make")
	}
	g := Guest{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd")}
	WriteFile(tb, g.Kernel, kernel)
	content := map[string]string{"init": GoProgram(tb, program)}
	modules, err := filepath.Glob(filepath.Join(source, "modules", "*.ko"))
	if err != nil || len(modules) == 0 {
		tb.Fatalf("no modules in %s (%v)", source, err)
	}
	for _, path := range modules {
		content["modules/"+filepath.Base(path)] = path
	}
	for name, path := range files {
		if path == "nbd.ko" {
			path = filepath.Join(source, path)
		}
		content[name] = path
	}
	WriteFile(tb, g.Initrd, initrd(tb, content))
	for _, path := range []string{g.Kernel, g.Initrd} {
		if err := os.Chmod(path, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return g
}

// GoProgram builds a program of this repository as guests can run it, without cgo and Ceph.
func GoProgram(tb testing.TB, dir string) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "program")
	build := exec.Command("go", "build", "-tags", "noceph", "-o", program, dir)
	build.Dir = Root(tb)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if r := RunCmd(tb, build); r.ExitCode != 0 {
		tb.Fatalf("%s", r)
	}
	return program
}

// initrd packs files as the kernel wants them: cpio in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func initrd(tb testing.TB, files map[string]string) []byte {
	tb.Helper()
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
	for _, dir := range []string{"dev", "proc", "sys", "run", "modules"} {
		add(dir, 0o040755, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[name])
		if err != nil {
			tb.Fatal(err)
		}
		add(name, 0o100755, content)
	}
	add("TRAILER!!!", 0, nil)
	return out.Bytes()
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
