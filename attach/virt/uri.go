// SPDX-License-Identifier: Apache-2.0

package virt

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// DefaultURI is what is connected to where neither a flag nor EnvURI says otherwise.
const DefaultURI = "qemu:///system"

// EnvURI is libvirt's own environment variable for the default.
const EnvURI = "LIBVIRT_DEFAULT_URI"

// An endpoint is where a libvirt URI leads to.
type endpoint struct {
	driver  string   // what the daemon is asked for: the URI without transport and parameters
	sockets []string // where the daemon may listen, in the order in which they are tried
}

// resolve finds the sockets of a libvirt URI of this host: DRIVER:///PATH or DRIVER+unix:///PATH?socket=FILE. An empty
// URI is the default. What libvirt 6.0 to 12 has as default sockets: libvirt's src/remote/remote_sockets.c.
func resolve(uri string, getenv func(string) string) (endpoint, error) {
	if uri == "" {
		uri = getenv(EnvURI)
	}
	if uri == "" {
		uri = DefaultURI
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		return endpoint{}, fmt.Errorf("libvirt URI %q: expected one like %s", uri, DefaultURI)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	if u.Host != "" || transport != "" && transport != "unix" {
		return endpoint{}, fmt.Errorf("libvirt URI %q is of another host: luksgate speaks to the libvirt of its own host only; "+
			"run it there", uri)
	}
	e := endpoint{driver: driver + "://" + u.Path}
	if socket := u.Query().Get("socket"); socket != "" {
		e.sockets = []string{socket}
		return e, nil
	}
	dir := "/run/libvirt"
	if u.Path == "/session" {
		dir = filepath.Join(runtimeDir(getenv), "libvirt")
	}
	// The daemon of one driver, where libvirt is split into several, and the one for all of them.
	e.sockets = []string{filepath.Join(dir, "virt"+driver+"d-sock"), filepath.Join(dir, "libvirt-sock")}
	return e, nil
}

// runtimeDir is $XDG_RUNTIME_DIR, or what libvirt takes without it.
func runtimeDir(getenv func(string) string) string {
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir
	}
	if dir := getenv("XDG_CACHE_HOME"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, ".cache")
}
