// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Guest is an operating system for virtual machines: a kernel, and an initrd with deploy/guest/init.
type Guest struct{ Kernel, Initrd string }

// NewGuest makes a guest in dir, which every user may read. The test is skipped where there is no kernel for it: see
// deploy/guest/guest.
func NewGuest(tb testing.TB, dir string) Guest {
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
	program := filepath.Join(tb.TempDir(), "init")
	build := exec.Command("go", "build", "-o", program, "./deploy/guest/init")
	build.Dir = Root(tb)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if r := RunCmd(tb, build); r.ExitCode != 0 {
		tb.Fatalf("%s", r)
	}
	files := []string{program}
	modules, err := filepath.Glob(filepath.Join(source, "modules", "*.ko"))
	if err != nil || len(modules) == 0 {
		tb.Fatalf("no modules in %s (%v)", source, err)
	}
	WriteFile(tb, g.Initrd, initrd(tb, append(files, modules...)))
	for _, path := range []string{g.Kernel, g.Initrd} {
		if err := os.Chmod(path, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return g
}

// initrd packs /init, the first file, and /modules, the others, as the kernel wants it: cpio in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func initrd(tb testing.TB, files []string) []byte {
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
	for _, dir := range []string{"dev", "proc", "sys", "modules"} {
		add(dir, 0o040755, nil)
	}
	for i, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		name := "init"
		if i > 0 {
			name = "modules/" + filepath.Base(path)
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
