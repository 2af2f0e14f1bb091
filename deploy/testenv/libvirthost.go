// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// libvirtFolders are what libvirtd's own folders are replaced by, below the Dir of a host, so that it finds nothing of this
// machine and leaves nothing.
var libvirtFolders = []string{"/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"}

// The guests' control groups would be made among those of this machine: none are to be seen.
const libvirtHostScript = `set -e
dir=$1 name=$2
shift 2
for folder; do
  mkdir -p "$folder"
  mount --bind "$dir$folder" "$folder"
done
while umount -l /sys/fs/cgroup 2>/dev/null; do :; done
hostname "$name"
PATH=$dir/bin:$PATH
exec libvirtd --pid-file "$dir/pid"
`

// NewLibvirtHost starts the libvirtd of a system as on a host of its own: it is root's, with a host name, a host UUID and
// folders of its own, which is what guests can migrate between. The folders are below its Dir at the paths that they have for the
// daemon and its guests: their /run/libvirt/x is Dir/run/libvirt/x outside.
//
// hook is the content of /etc/libvirt/hooks/qemu, "" for none; it finds programs in Dir/bin first. The test is skipped for
// anybody but root.
func NewLibvirtHost(tb testing.TB, s System, hook string) *Libvirtd {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("NOT RUN: a host's libvirtd takes root")
	}
	s.mustHave(tb, "/usr/sbin/libvirtd", "/usr/bin/qemu-system-x86_64")
	dir, err := os.MkdirTemp(s.Dir, "h")
	if err != nil {
		tb.Fatal(err)
	}
	l := &Libvirtd{Dir: dir, Socket: filepath.Join(dir, "libvirt-sock"), system: s}
	l.URI = "qemu+unix:///system?socket=" + l.Socket
	for _, folder := range append([]string{"/bin", "/etc/libvirt/hooks"}, libvirtFolders...) {
		if err := os.MkdirAll(dir+folder, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	WriteFile(tb, dir+"/etc/libvirt/libvirtd.conf", fmt.Appendf(nil,
		"host_uuid = %q\nunix_sock_dir = %q\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n", newUUID(), dir))
	WriteFile(tb, dir+"/etc/libvirt/qemu.conf", []byte("user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n"+
		"cgroup_controllers = []\nnamespaces = []\nstdio_handler = \"file\"\nremember_owner = 0\n"))
	if hook != "" {
		WriteProgram(tb, dir+"/etc/libvirt/hooks/qemu", hook)
	}
	propagation := "private"
	if s.root != "" {
		propagation = "unchanged" // a chroot has mounts of its own already
	}
	args := []string{"--mount", "--propagation", propagation, "--uts", "sh", "-c", libvirtHostScript, "sh", dir, "host-" + filepath.Base(dir)}
	l.start(tb, s.Command(tb, "unshare", append(args, libvirtFolders...)...))
	return l
}

// Client makes Dir/bin of a host the place for its users: virsh is there, of the host's version, and speaks to its libvirtd
// from any working folder that the host can see. A migration takes a unix socket in Dir, because names such as host-h1 lead nowhere. It
// returns the environment for a shell.
func (l *Libvirtd) Client(tb testing.TB) []string {
	tb.Helper()
	run := l.system.Command(tb, "sh", "-c", `cd "$0" && exec /usr/bin/virsh -q -c "$@"`)
	for i, arg := range run.Args {
		run.Args[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	WriteProgram(tb, l.Dir+"/bin/virsh", fmt.Sprintf(`#!/bin/sh
[ "$1" != migrate ] || set -- "$@" --migrateuri "unix://%s/m$$"
exec %s "$PWD" '%s' "$@"
`, l.Dir, strings.Join(run.Args, " "), l.URI))
	return append(os.Environ(), "LIBVIRT_DEFAULT_URI="+l.URI, "PATH="+l.Dir+"/bin:"+os.Getenv("PATH"))
}

// Emulator makes an emulator for guests of libvirt in dir: this or that host's qemu, which has [GuestMemoryBytes] for a guest of
// 160 MiB, because libvirt itself gives out whole MiB only.
func Emulator(tb testing.TB, dir string) string {
	tb.Helper()
	path := filepath.Join(dir, "qemu")
	WriteProgram(tb, path, fmt.Sprintf(`#!/bin/bash
args=("${@//%d/%d}")
for i in "${!args[@]}"; do
  case ${args[i]} in
    -m) args[i + 1]=%dk ;;
  esac
done
exec /usr/bin/qemu-system-x86_64 "${args[@]}"
`, 160<<20, GuestMemoryBytes, GuestMemoryBytes>>10))
	return path
}

// WriteProgram writes a script that everybody may run.
func WriteProgram(tb testing.TB, path, script string) {
	tb.Helper()
	WriteFile(tb, path, []byte(script))
	if err := os.Chmod(path, 0o755); err != nil {
		tb.Fatal(err)
	}
}
