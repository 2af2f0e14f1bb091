// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A host is the files of a machine.
type host struct {
	root string
	qemu identity
}

// An identity is the user and the groups that libvirt gives to a qemu.
type identity struct {
	user, group string
	uid         uint32
	gids        []uint32
	known       bool // the user is there
}

func newHost(root string) *host {
	h := &host{root: root}
	h.qemu = h.qemuIdentity()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// text is a file's content, "" if it cannot be read.
func (h *host) text(name string) string {
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		return ""
	}
	return string(b)
}

// setting is a value of /etc/libvirt/qemu.conf without its quotes, "" if it is left at its default.
func (h *host) setting(name string) string {
	for line := range strings.Lines(h.text("/etc/libvirt/qemu.conf")) {
		key, value, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == name {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}

// qemuIdentity finds the user of qemu.conf, else the one that Debian and Ubuntu have. libvirt gives a qemu the groups of its
// user besides the group of qemu.conf.
func (h *host) qemuIdentity() identity {
	q := identity{user: strings.TrimPrefix(h.setting("user"), "+"), group: strings.TrimPrefix(h.setting("group"), "+")}
	if q.user == "" {
		q.user = "libvirt-qemu"
	}
	for line := range strings.Lines(h.text("/etc/passwd")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 4 && (f[0] == q.user || f[2] == q.user) {
			q.user, q.uid, q.known = f[0], number(f[2]), true
			q.gids = append(q.gids, number(f[3]))
		}
	}
	for line := range strings.Lines(h.text("/etc/group")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		if f[0] == q.group || f[2] == q.group || slices.Contains(strings.Split(f[3], ","), q.user) {
			q.gids = append(q.gids, number(f[2]))
		}
	}
	if q.group == "" && len(q.gids) > 0 {
		q.group = h.groupName(q.gids[0])
	}
	return q
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return ^uint32(0) // nobody's
	}
	return uint32(n)
}

func (h *host) groupName(gid uint32) string { return h.name("/etc/group", gid) }
func (h *host) userName(uid uint32) string  { return h.name("/etc/passwd", uid) }

// name looks an id up in passwd or group, which have name and id in the same fields.
func (h *host) name(file string, id uint32) string {
	want := strconv.FormatUint(uint64(id), 10)
	for line := range strings.Lines(h.text(file)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == want {
			return f[0]
		}
	}
	return want
}

// Permission bits of one class.
const (
	mayRead  fs.FileMode = 4
	mayWrite fs.FileMode = 2
	mayEnter fs.FileMode = 1
)

// may says whether the identity has all bits on a file. ACLs are not looked at.
func (q identity) may(st fs.FileInfo, bits fs.FileMode) bool {
	mode := st.Mode().Perm()
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return false
	case q.known && q.uid == 0:
		return true
	case q.known && sys.Uid == q.uid:
		mode >>= 6
	case slices.Contains(q.gids, sys.Gid):
		mode >>= 3
	}
	return mode&bits == bits
}

// owners prints a file's mode and owners: "0750 luksgate:kvm".
func (h *host) owners(st fs.FileInfo) string {
	mode := "0" + strconv.FormatUint(uint64(st.Mode().Perm()), 8)
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return mode + " " + h.userName(sys.Uid) + ":" + h.groupName(sys.Gid)
	}
	return mode
}
