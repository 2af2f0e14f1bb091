// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/luksgate/luksgate/gateway/image"
)

// Sizes of names (sun_path less its end; NBD's strings, of which 64 bytes are plenty for a label of a metric too).
const (
	maxSocketPathBytes = 107
	maxExportNameBytes = 255
)

// A checker collects what is wrong with what was decoded.
type checker struct {
	c    *File
	errs []*Error
}

func (k *checker) fail(key, hint, format string, args ...any) {
	if len(k.errs) < maxErrors {
		k.errs = append(k.errs, &Error{Line: k.line(key), Key: key, Text: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// line is that of key, or of the nearest thing that it is part of.
func (k *checker) line(key string) int {
	for key != "" {
		if line := k.c.lines[key]; line > 0 {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// check finds what is wrong with values, alone and together.
func (c *File) check() []*Error {
	k := &checker{c: c}
	k.socket("admin.socket", c.Admin.Socket)
	k.address("metrics.address", c.Metrics.Address)
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	k.socket("libvirt.socket", c.Libvirt.Socket)
	k.vault()
	k.barbican()
	k.limits()
	sockets := map[string]string{c.Admin.Socket: "admin.socket"}
	for i := range c.Listen {
		k.listen(fmt.Sprintf("listen[%d]", i), &c.Listen[i], sockets)
	}
	names := map[string]int{}
	for i := range c.Exports {
		key, e := fmt.Sprintf("exports[%d]", i), &c.Exports[i]
		k.export(key, e)
		if first, twice := names[e.Name]; twice {
			k.fail(key+".name", fmt.Sprintf("the first is exports[%d]", first), "there is an export %q already", e.Name)
		}
		names[e.Name] = i
		if e.Socket != "" {
			k.uniqueSocket(key+".socket", e.Socket, sockets)
		} else if !slices.ContainsFunc(c.Listen, func(l Listen) bool { return l.Has(e.Name) }) {
			k.fail(key, "give it a socket, or name it in a section of listen", "nobody can reach this export")
		}
	}
	return k.errs
}

// Has tells whether an export can be had at a shared listener.
func (l *Listen) Has(export string) bool {
	return len(l.Exports) == 0 || slices.ContainsFunc(l.Exports, func(pattern string) bool {
		ok, err := path.Match(pattern, export)
		return ok && err == nil
	})
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.fail(key, "", "%q: expected %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) file(key, path string) {
	if path != "" && !filepath.IsAbs(path) {
		k.fail(key, "the daemon has no folder of its own", "%q is no absolute path", path)
	}
}

func (k *checker) socket(key, path string) {
	k.file(key, path)
	if len(path) > maxSocketPathBytes {
		k.fail(key, "", "the path has %d bytes, a unix socket's may have %d", len(path), maxSocketPathBytes)
	}
}

func (k *checker) uniqueSocket(key, path string, taken map[string]string) {
	k.socket(key, path)
	if other, twice := taken[path]; twice {
		k.fail(key, "", "the socket %s is that of %s already", path, other)
	}
	taken[path] = key
}

func (k *checker) address(key, address string) {
	if address == "" {
		return
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		k.fail(key, "", "%q: expected HOST:PORT, such as 127.0.0.1:9105 or [::]:10809", address)
	}
}

func (k *checker) limits() {
	k.c.Limits.OutOfRange(func(key string, value, most int64) {
		k.fail("limits."+key, "", "%d: expected 0 (the default) to %d", value, most)
	})
	if p := k.c.Limits.Poll; time.Duration(p) > MaxPoll {
		k.fail("limits.poll", "", "%v: expected 0s (not at all) to %v", p, MaxPoll)
	}
}

// OutOfRange calls found for each limit that is too large or negative, with its key.
func (l *Limits) OutOfRange(found func(key string, value, most int64)) {
	for _, n := range []struct {
		key   string
		value int64
		most  int64
	}{
		{"connections", int64(l.Connections), 1 << 20},
		{"connections_per_export", int64(l.ConnectionsPerExport), 1 << 16},
		{"in_flight", int64(l.InFlight), 1 << 16},
		{"request_size", int64(l.RequestSize), 64 << 20},
		{"in_flight_size", int64(l.InFlightSize), 1 << 40},
		{"buffers", int64(l.Buffers), 1 << 44},
		{"handshake_options", int64(l.HandshakeOptions), 1 << 16},
		{"option_size", int64(l.OptionSize), 1 << 20},
	} {
		if n.value < 0 || n.value > n.most {
			found(n.key, n.value, n.most)
		}
	}
}

func (k *checker) listen(key string, l *Listen, sockets map[string]string) {
	if (l.Socket == "") == (l.Address == "") {
		k.fail(key, "", "give one of socket and address")
	}
	if l.Socket != "" {
		k.uniqueSocket(key+".socket", l.Socket, sockets)
		if l.TLS != nil {
			k.fail(key+".tls", "qemu refuses TLS there; the socket's mode and group say who may connect", "TLS on a unix socket")
		}
	}
	k.address(key+".address", l.Address)
	for i, pattern := range l.Exports {
		if _, err := path.Match(pattern, ""); err != nil {
			k.fail(fmt.Sprintf("%s.exports[%d]", key, i), "", "%q is no pattern", pattern)
		}
	}
	if t := l.TLS; t != nil {
		if t.Certificate == "" || t.Key == "" {
			k.fail(key+".tls", "", "certificate and key are both needed")
		}
		k.file(key+".tls.certificate", t.Certificate)
		k.file(key+".tls.key", t.Key)
		k.file(key+".tls.client_ca", t.ClientCA)
	}
}

func (k *checker) export(key string, e *Export) {
	switch {
	case e.Name == "":
		k.fail(key, "", "name is missing")
	case len(e.Name) > maxExportNameBytes:
		k.fail(key+".name", "", "%d bytes, at most %d are allowed", len(e.Name), maxExportNameBytes)
	case strings.ContainsFunc(e.Name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == '\ufffd' }):
		k.fail(key+".name", "", "%q: spaces, slashes and control characters are not allowed", e.Name)
	}
	k.allow(key, e)
	k.oneOf(key+".engine", e.Engine, "auto", "native", "librbd")
	k.oneOf(key+".lock", e.Lock, "cooperative", "exclusive", "none")
	k.oneOf(key+".holes", e.Holes, "zero", "decrypt")
	k.oneOf(key+".zeroes", e.Zeroes, "object", "encrypt", "punch")
	k.oneOf(key+".open", e.Open, OpenOnDemand, OpenAtStart)
	k.header(key, e)
	if n := e.Ceph.ImagesPerConnection; n < 0 || n > 1<<16 {
		k.fail(key+".ceph.images_per_connection", "", "%d: expected 0 (the default) to %d", n, 1<<16)
	}
	k.file(key+".ceph.conf", e.Ceph.Conf)
	if e.Ceph.Key != nil {
		k.key(key+".ceph.key", e.Ceph.Key)
	}
	for i := range e.Keys {
		name := fmt.Sprintf("%s.keys[%d]", key, i)
		if k.c.lines[key+".key"] > 0 {
			name = key + ".key"
		}
		k.key(name, &e.Keys[i])
	}
	ref, err := image.ParseRef(e.Image)
	switch {
	case e.Image == "":
		k.fail(key, "", "image is missing")
	case err != nil:
		k.fail(key+".image", "", "%v", err)
	case ref.Scheme == image.File:
		k.file(key+".image", ref.Path)
	}
	if err == nil && ref.Scheme != image.Mem && !e.Plain && len(e.Keys) == 0 {
		k.fail(key, "or plain: true, to serve the image's bytes as they are", "key is missing")
	}
	if e.Plain && len(e.Keys) > 0 {
		k.fail(key+".plain", "", "an export that is plain needs no key")
	}
}
