// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Where rules for all qemu of libvirt may stand. What the abstraction includes of them depends on the version: the local
// file is Debian's and Ubuntu's, the directory is libvirt's own since 8.
const (
	abstraction      = "/etc/apparmor.d/abstractions/libvirt-qemu"
	localAbstraction = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	abstractionDir   = "/etc/apparmor.d/abstractions/libvirt-qemu.d"
)

// checkAppArmor looks for a rule that lets qemu connect. virt-aa-helper gives a guest the files of its local disks only:
// a unix socket of an NBD disk is never among them, neither at the start nor when a disk is plugged in.
func (h *host) checkAppArmor(dir string) []Finding {
	const check = checkName("apparmor")
	enabled := strings.TrimSpace(h.text("/sys/module/apparmor/parameters/enabled")) == "Y"
	text := h.text(abstraction)
	switch driver := h.setting("security_driver"); {
	case !enabled:
		return []Finding{check.ok("AppArmor is off.")}
	case strings.Contains(driver, "none"):
		return []Finding{check.ok("libvirt confines no guests (security_driver in /etc/libvirt/qemu.conf).")}
	case text == "":
		return []Finding{check.skipped("%s is missing: libvirt is not installed.", abstraction)}
	}
	if where := h.ruleFor(text, filepath.Join(dir, "x.sock")); where != "" {
		return []Finding{check.ok("%s lets guests connect to sockets in %s.", where, dir)}
	}
	target := localAbstraction
	if !strings.Contains(text, "local/abstractions/libvirt-qemu") {
		target = filepath.Join(abstractionDir, "luksgate")
		if !strings.Contains(text, "abstractions/libvirt-qemu.d") {
			target = abstraction
		}
	}
	return []Finding{check.bad("No AppArmor rule lets guests connect to sockets in %s.", dir).do(
		fmt.Sprintf("Add one to %s. Guests that start later have it; the last command gives it to one that runs.", target),
		"mkdir -p "+filepath.Dir(target), fmt.Sprintf("echo '%s/*.sock rw,' >> %s", dir, target),
		"apparmor_parser -r /etc/apparmor.d/libvirt/libvirt-UUID")}
}

// ruleFor finds the file with a rule that gives rw on a path.
func (h *host) ruleFor(text, path string) string {
	if grants(text, path) {
		return abstraction
	}
	if strings.Contains(text, "local/abstractions/libvirt-qemu") && grants(h.text(localAbstraction), path) {
		return localAbstraction
	}
	if !strings.Contains(text, "abstractions/libvirt-qemu.d") {
		return ""
	}
	entries, err := os.ReadDir(h.path(abstractionDir))
	if err != nil {
		return ""
	}
	for _, entry := range entries {
		if name := filepath.Join(abstractionDir, entry.Name()); grants(h.text(name), path) {
			return name
		}
	}
	return ""
}

// grants says whether one of the file rules in an AppArmor text gives reading and writing on a path.
func grants(text, path string) bool {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), ","))
		if len(fields) > 0 && (fields[0] == "owner" || fields[0] == "file") {
			fields = fields[1:]
		}
		if len(fields) != 2 || !strings.Contains(fields[1], "r") || !strings.Contains(fields[1], "w") {
			continue
		}
		if globMatch(strings.Trim(fields[0], `"`), path) {
			return true
		}
	}
	return false
}

// globMatch matches AppArmor's globs: ** is any text, * any without a slash, ? one character, {a,b} either.
func globMatch(glob, path string) bool {
	if open := strings.IndexByte(glob, '{'); open >= 0 {
		if shut := strings.IndexByte(glob[open:], '}'); shut > 0 {
			for _, choice := range strings.Split(glob[open+1:open+shut], ",") {
				if globMatch(glob[:open]+choice+glob[open+shut+1:], path) {
					return true
				}
			}
			return false
		}
	}
	if rest, ok := strings.CutPrefix(glob, "**"); ok {
		for i := range len(path) + 1 {
			if globMatch(rest, path[i:]) {
				return true
			}
		}
		return false
	}
	if rest, ok := strings.CutPrefix(glob, "*"); ok {
		for i := 0; i <= len(path) && (i == 0 || path[i-1] != '/'); i++ {
			if globMatch(rest, path[i:]) {
				return true
			}
		}
		return false
	}
	if glob == "" || path == "" {
		return glob == path
	}
	return (glob[0] == path[0] || glob[0] == '?' && path[0] != '/') && globMatch(glob[1:], path[1:])
}
