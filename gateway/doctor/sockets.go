// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksgate/luksgate/attach"
)

// The versions from which on qemu and libvirt open LUKS images in RBD themselves.
var (
	libvirtWithLibrbd = attach.Version{Major: 7, Minor: 9}
	qemuWithLibrbd    = attach.Version{Major: 6, Minor: 1}
)

func checkVersions(ctx context.Context, opts Options) []Finding {
	const check = checkName("libvirt")
	if opts.Versions == nil {
		return []Finding{check.skipped("libvirt is not asked.")}
	}
	lib, qemu, err := opts.Versions(ctx)
	if err != nil {
		return []Finding{check.warning("libvirt cannot be asked: %v.", err).do(
			"Start libvirtd, or run this as root or as a member of group libvirt. On a host without libvirt pass --connect none.")}
	}
	found := fmt.Sprintf("This host has libvirt %s and qemu %s", lib, qemu)
	switch {
	case !lib.AtLeast(attach.OldestLibvirt) || !qemu.AtLeast(attach.OldestQemu):
		return []Finding{check.bad("%s.", found).do(fmt.Sprintf("Upgrade: disks are written for libvirt %s and qemu %s or newer.",
			attach.OldestLibvirt, attach.OldestQemu))}
	case lib.AtLeast(libvirtWithLibrbd) && qemu.AtLeast(qemuWithLibrbd):
		found += ", which can also open encrypted RBD images themselves (luksgate xml to-librbd)"
	}
	return []Finding{check.ok("%s.", found)}
}

// longestName is what names of sockets need at most: attach/bridge makes them of up to 48 bytes, a dash, 8 digits, ".sock".
const longestName = 48 + 1 + 8 + len(".sock") + 1

// socketPathBytes is what fits into sun_path with its end (unix(7)).
const socketPathBytes = 107

// checkSocketDir wants a directory that qemu can enter and strangers cannot, and sockets in it that qemu can write to.
// libvirt 6.0 to 12 never changes the owner of an NBD socket: the gateway has to make it right.
func (h *host) checkSocketDir(dir string) []Finding {
	const check = checkName("socket-dir")
	if len(dir)+1+longestName > socketPathBytes {
		return []Finding{check.bad("%s has %d bytes, and a socket's whole path at most %d.", dir, len(dir), socketPathBytes).do(
			"Take a shorter directory (--socket-dir).")}
	}
	st, err := os.Stat(h.path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{check.bad("%s is missing.", dir).do("The service makes it when it starts. Without the package make it by hand, "+
			"and name it in tmpfiles.d too if it is in /run, which is empty after a boot.", h.makeDir(dir),
			fmt.Sprintf("echo 'd %s 0750 %s %s' > /etc/tmpfiles.d/luksgate.conf", dir, h.gatewayUser(), h.qemuGroup()))}
	case err != nil:
		return []Finding{check.bad("%s cannot be looked at: %v.", dir, err).do("Run this as root.")}
	case !st.IsDir():
		return []Finding{check.bad("%s is no directory.", dir).do("Name the directory of the sockets (--socket-dir).")}
	}
	found := fmt.Sprintf("%s is %s", dir, h.owners(st))
	switch {
	case !h.qemu.known:
		return []Finding{check.warning("%s. There is no user %s that it could be compared with.", found, h.qemu.user).do(
			"Install libvirt-daemon-system, or set user in /etc/libvirt/qemu.conf.")}
	case !h.qemu.may(st, mayEnter):
		return []Finding{check.bad("%s: qemu (%s) cannot enter it.", found, h.qemu.user).do("Let its group in.", h.makeDir(dir))}
	case st.Mode().Perm()&0o002 != 0:
		return []Finding{check.bad("%s: every user of this host can put a socket of the same name there.", found).do(
			"Give the gateway a directory of its own (--socket-dir).")}
	case st.Mode().Perm()&0o001 != 0:
		found += ". Every user may enter it: the mode of each socket decides"
	}
	return append([]Finding{check.ok("%s.", found)}, h.checkSockets(dir)...)
}

// gatewayUser is the package's user, where it is installed.
func (h *host) gatewayUser() string {
	if strings.Contains("\n"+h.text("/etc/passwd"), "\nluksgate:") {
		return "luksgate"
	}
	return "root"
}

func (h *host) qemuGroup() string {
	if h.qemu.group == "" {
		return "kvm"
	}
	return h.qemu.group
}

func (h *host) makeDir(dir string) string {
	return fmt.Sprintf("install -d -m 0750 -o %s -g %s %s", h.gatewayUser(), h.qemuGroup(), dir)
}

func (h *host) checkSockets(dir string) []Finding {
	const check = checkName("sockets")
	entries, err := os.ReadDir(h.path(dir))
	if err != nil {
		return []Finding{check.bad("%s cannot be read: %v.", dir, err).do("Run this as root.")}
	}
	var all []Finding
	good := 0
	for _, entry := range entries {
		// What is no .sock is no export's: the gateway's admin socket is nobody's but the administrator's.
		if entry.Type()&fs.ModeSocket == 0 || !strings.HasSuffix(entry.Name(), ".sock") || entry.Name() == "admin.sock" {
			continue
		}
		st, err := entry.Info()
		if err != nil {
			continue // it has just gone
		}
		path := filepath.Join(dir, entry.Name())
		found := fmt.Sprintf("%s is %s", path, h.owners(st))
		switch {
		case st.Mode().Perm()&0o007 != 0:
			all = append(all, check.bad("%s: every user of this host can read the plaintext.", found).do(
				"Take it from them, and set socket_access in luksgate.conf, so that it stays so.", "chmod 0660 "+path))
		case !h.qemu.may(st, mayRead|mayWrite):
			all = append(all, check.bad("%s: qemu (%s) cannot connect.", found, h.qemu.user).do(
				"Give it to qemu's group, and set socket_access in luksgate.conf, so that it stays so.",
				fmt.Sprintf("chgrp %s %s && chmod 0660 %s", h.qemuGroup(), path, path)))
		default:
			good++
		}
	}
	if len(all) > 0 {
		return all
	}
	switch good {
	case 0:
		return []Finding{check.ok("No export has a socket here yet.")}
	case 1:
		return []Finding{check.ok("The one socket here is for qemu only.")}
	}
	return []Finding{check.ok("The %d sockets here are for qemu only.", good)}
}
