// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/guest/initrd"
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
	packed, err := initrd.Pack(content)
	if err != nil {
		tb.Fatal(err)
	}
	WriteFile(tb, g.Initrd, packed)
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
