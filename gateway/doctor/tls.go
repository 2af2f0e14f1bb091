// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// checkTLS looks for the certificates that libvirt hands to qemu for NBD disks with tls='yes'.
func (h *host) checkTLS(wanted bool) []Finding {
	const check = checkName("tls")
	if !wanted && h.setting("nbd_tls") != "1" {
		return []Finding{check.skipped("There is no TLS for NBD disks: nbd_tls is not set in /etc/libvirt/qemu.conf.")}
	}
	dir := h.tlsDir()
	all := h.checkCertificates(dir)
	abstractionText := h.text(abstraction) + h.text(localAbstraction)
	if abstractionText != "" && !readable(abstractionText, filepath.Join(dir, "client-key.pem")) {
		all = append(all, check.bad("AppArmor does not let guests read %s.", dir).do("Set nbd_tls_x509_cert_dir = "+
			"\"/etc/pki/libvirt/nbd\" in /etc/libvirt/qemu.conf, which libvirt's own rules allow, or add a rule.",
			fmt.Sprintf("echo '%s/** r,' >> %s", dir, localAbstraction)))
	}
	if len(all) == 0 {
		return []Finding{check.ok("The certificates for NBD disks are in %s.", dir)}
	}
	return all
}

// tlsDir is where libvirt takes the certificates from: its qemu_conf.c.
func (h *host) tlsDir() string {
	const nbd = "/etc/pki/libvirt-nbd"
	if dir := h.setting("nbd_tls_x509_cert_dir"); dir != "" {
		return filepath.Clean(dir)
	}
	if _, err := os.Stat(h.path(nbd)); err == nil {
		return nbd
	}
	if dir := h.setting("default_tls_x509_cert_dir"); dir != "" {
		return filepath.Clean(dir)
	}
	return "/etc/pki/qemu"
}

func (h *host) checkCertificates(dir string) []Finding {
	const check = checkName("tls")
	var all []Finding
	var missing []string
	for _, name := range []string{"ca-cert.pem", "client-cert.pem", "client-key.pem"} {
		path := filepath.Join(dir, name)
		st, err := os.Stat(h.path(path))
		switch {
		case err != nil:
			missing = append(missing, path)
		case h.qemu.known && !h.qemu.may(st, mayRead):
			all = append(all, check.bad("%s is %s: qemu (%s) cannot read it.", path, h.owners(st), h.qemu.user).do("Give it to qemu's group.",
				fmt.Sprintf("chgrp %s %s && chmod 0640 %s", h.qemuGroup(), path, path)))
		case strings.HasSuffix(name, "key.pem") && st.Mode().Perm()&0o004 != 0:
			all = append(all, check.bad("%s is %s: every user can read the private key.", path, h.owners(st)).do(
				"Take it from them, and make another key.", "chmod o= "+path))
		}
	}
	if len(missing) > 0 {
		all = append(all, check.bad("Missing: %s.", strings.Join(missing, ", ")).do(
			"Put the client's certificates there, or name their directory as nbd_tls_x509_cert_dir in /etc/libvirt/qemu.conf."))
	}
	return all
}

// readable says whether an AppArmor text has a rule that gives reading on a path.
func readable(text, path string) bool {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), ","))
		if len(fields) == 2 && strings.Contains(fields[1], "r") && globMatch(strings.Trim(fields[0], `"`), path) {
			return true
		}
	}
	return false
}
