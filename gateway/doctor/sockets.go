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
	const check = "libvirt"
	if opts.Versions == nil {
		return []Finding{{check, Skipped, "libvirt is not asked", ""}}
	}
	lib, qemu, err := opts.Versions(ctx)
	if err != nil {
		return []Finding{{check, Warning, fmt.Sprintf("libvirt cannot be asked: %v", err),
			"start libvirtd, or run this as root or as a member of group libvirt; without libvirt pass --connect none"}}
	}
	found := fmt.Sprintf("libvirt %s, qemu %s", lib, qemu)
	switch {
	case !lib.AtLeast(attach.OldestLibvirt) || !qemu.AtLeast(attach.OldestQemu):
		return []Finding{{check, Error, found, fmt.Sprintf("disks are written for libvirt %s and qemu %s or newer: upgrade",
			attach.OldestLibvirt, attach.OldestQemu)}}
	case lib.AtLeast(libvirtWithLibrbd) && qemu.AtLeast(qemuWithLibrbd):
		found += ", which can also open encrypted RBD images themselves (luksgate xml to-librbd)"
	}
	return []Finding{{check, OK, found, ""}}
}

// longestName is what names of sockets need at most: attach/bridge makes them of up to 48 bytes, a dash, 8 digits, ".sock".
const longestName = 48 + 1 + 8 + len(".sock") + 1

// socketPathBytes is what fits into sun_path with its end (unix(7)).
const socketPathBytes = 107

// checkSocketDir wants a directory that qemu can enter and strangers cannot, and sockets in it that qemu can write to.
// libvirt 6.0 to 12 never changes the owner of an NBD socket: the gateway has to make it right.
func (h *host) checkSocketDir(dir string) []Finding {
	const check = "socket-dir"
	group := h.qemu.group
	if group == "" {
		group = "kvm"
	}
	recipe := fmt.Sprintf("install -d -m 0750 -o USER-OF-LUKSGATE -g %s %s (and the same in tmpfiles.d, as /run is empty after "+
		"a boot)", group, dir)
	if len(dir)+1+longestName > socketPathBytes {
		return []Finding{{check, Error, fmt.Sprintf("%s has %d bytes, and a socket's whole path at most %d", dir, len(dir),
			socketPathBytes), "take a shorter directory"}}
	}
	st, err := os.Stat(h.path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{{check, Error, dir + " is missing", recipe}}
	case err != nil:
		return []Finding{{check, Error, fmt.Sprintf("%s cannot be looked at: %v", dir, err), "run this as root"}}
	case !st.IsDir():
		return []Finding{{check, Error, dir + " is no directory", recipe}}
	}
	found := fmt.Sprintf("%s is %s", dir, h.owners(st))
	switch {
	case !h.qemu.known:
		return []Finding{{check, Warning, fmt.Sprintf("%s; there is no user %s that it could be compared with", found, h.qemu.user),
			"install libvirt-daemon-system, or set user in /etc/libvirt/qemu.conf"}}
	case !h.qemu.may(st, mayEnter):
		return []Finding{{check, Error, fmt.Sprintf("%s: qemu (%s) cannot enter it", found, h.qemu.user), recipe}}
	case st.Mode().Perm()&0o007 != 0:
		return []Finding{{check, Warning, found + ": every user of this host can enter it", recipe}}
	}
	return append([]Finding{{check, OK, found, ""}}, h.checkSockets(dir)...)
}

func (h *host) checkSockets(dir string) []Finding {
	const check = "sockets"
	entries, err := os.ReadDir(h.path(dir))
	if err != nil {
		return []Finding{{check, Error, fmt.Sprintf("%s cannot be read: %v", dir, err), "run this as root"}}
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
			all = append(all, Finding{check, Error, found + ": every user of this host can read the plaintext",
				"chmod 0660 " + path + ", and set the mode in the gateway's configuration"})
		case !h.qemu.may(st, mayRead|mayWrite):
			all = append(all, Finding{check, Error, fmt.Sprintf("%s: qemu (%s) cannot connect", found, h.qemu.user),
				fmt.Sprintf("chgrp %s %s && chmod 0660 %s, and set group and mode in the gateway's configuration",
					h.qemu.group, path, path)})
		default:
			good++
		}
	}
	if len(all) > 0 {
		return all
	}
	return []Finding{{check, OK, fmt.Sprintf("%d sockets, all for qemu only", good), ""}}
}
