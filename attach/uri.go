// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DefaultPort is the TCP port that IANA gave to NBD; URIs and libvirt leave it out.
const DefaultPort = 10809

// Limits of what an NBD client can be told.
const (
	// MaxExportNameBytes is the longest string of the NBD protocol (proto.md, "Values").
	MaxExportNameBytes = 4096
	// MaxSocketPathBytes is what fits in sockaddr_un with its closing zero byte (unix(7)).
	MaxSocketPathBytes = 107
)

// A URI says where an export is, as in the NBD URI specification (doc/uri.md of the NBD project).
// Exactly one of Socket and Host is set.
type URI struct {
	// Socket is the absolute path of a unix socket.
	Socket string
	// Host is a host name or an IP address without brackets.
	Host string
	// Port is a TCP port; 0 means DefaultPort. It must be 0 with Socket.
	Port int
	// TLS says that the connection must be encrypted (scheme nbds).
	TLS bool
	// Export is the name of the export; "" is the default export.
	Export string
}

// String formats u: nbd://host/export, nbds://..., nbd+unix:///export?socket=/path. A u that Check refuses gives a
// string that ParseURI refuses or reads as something else.
func (u URI) String() string {
	scheme := "nbd"
	if u.TLS {
		scheme = "nbds"
	}
	if u.Socket != "" {
		return scheme + "+unix:///" + url.PathEscape(u.Export) + "?socket=" + escapeQueryPath(u.Socket)
	}
	host := u.Host
	if u.Port != 0 && u.Port != DefaultPort {
		host = net.JoinHostPort(u.Host, strconv.Itoa(u.Port))
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + "/" + url.PathEscape(u.Export)
}

// Address is where to connect to, as package net wants it.
func (u URI) Address() (network, address string) {
	if u.Socket != "" {
		return "unix", u.Socket
	}
	port := u.Port
	if port == 0 {
		port = DefaultPort
	}
	return "tcp", net.JoinHostPort(u.Host, strconv.Itoa(port))
}

// escapeQueryPath keeps slashes readable: they need no escape in a query (RFC 3986, 3.4). A space becomes %20, since
// "+" means a space to some readers and a plus to others.
func escapeQueryPath(path string) string {
	s := url.QueryEscape(path)
	return strings.NewReplacer("%2F", "/", "+", "%20").Replace(s)
}

// ParseURI reads an NBD URI that names one export. It accepts what String writes and the forms of other programs, and
// refuses what it would have to ignore: user names, vsock, unknown parameters, fragments.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err == nil {
		err = u.Check()
	}
	if err != nil {
		return URI{}, fmt.Errorf("attach: NBD URI %q: %w", s, err)
	}
	return u, nil
}

func parseURI(s string) (URI, error) {
	p, err := url.Parse(s)
	if err != nil {
		return URI{}, errors.Unwrap(err) // the outer error repeats the URI
	}
	var out URI
	scheme, unix := strings.CutSuffix(p.Scheme, "+unix")
	switch scheme {
	case "nbd":
	case "nbds":
		out.TLS = true
	default:
		return URI{}, fmt.Errorf("scheme %q: want nbd, nbds, nbd+unix or nbds+unix", p.Scheme)
	}
	if p.Opaque != "" {
		return URI{}, errors.New("want // after the scheme")
	}
	if p.User != nil || p.Fragment != "" {
		return URI{}, errors.New("user names and fragments are not supported")
	}
	out.Export = strings.TrimPrefix(p.Path, "/") // one slash separates, any other belongs to the name
	query, err := url.ParseQuery(strings.ReplaceAll(p.RawQuery, "+", "%2B"))
	if err != nil {
		return URI{}, err
	}
	sockets := query["socket"]
	delete(query, "socket")
	for key := range query {
		return URI{}, fmt.Errorf("parameter %q is not supported", key)
	}
	if unix {
		if len(sockets) != 1 || p.Host != "" {
			return URI{}, errors.New("want no host and one ?socket=PATH with a unix scheme")
		}
		out.Socket = sockets[0]
		return out, nil
	}
	if len(sockets) != 0 {
		return URI{}, errors.New("socket= needs the scheme nbd+unix or nbds+unix")
	}
	return out, out.setHost(p)
}

func (u *URI) setHost(p *url.URL) error {
	u.Host = p.Hostname()
	port := p.Port()
	if port == "" {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q: want 1 to 65535", port)
	}
	if n != DefaultPort {
		u.Port = int(n)
	}
	return nil
}

var dnsName = regexp.MustCompile(`^[a-zA-Z0-9.\-]+$`) // libvirt's basictypes.rng

// Check says whether an NBD client could be given u. It names the field that is wrong.
func (u URI) Check() error {
	if err := checkExport(u.Export); err != nil {
		return err
	}
	if (u.Socket == "") == (u.Host == "") {
		return errors.New("socket or host: want exactly one of them")
	}
	if u.Socket != "" {
		return u.checkSocket()
	}
	if u.Port < 0 || u.Port > 65535 {
		return fmt.Errorf("port %d: want 1 to 65535", u.Port)
	}
	if addr, err := netip.ParseAddr(u.Host); err == nil && addr.Zone() == "" {
		return nil
	}
	if !dnsName.MatchString(u.Host) || len(u.Host) > 253 {
		return fmt.Errorf("host %q: want a host name or an IP address", u.Host)
	}
	return nil
}

func (u URI) checkSocket() error {
	switch {
	case u.Port != 0:
		return errors.New("port: a unix socket has none")
	case !filepath.IsAbs(u.Socket) || u.Socket == "/":
		return fmt.Errorf("socket %q: want an absolute path", u.Socket)
	case len(u.Socket) > MaxSocketPathBytes:
		return fmt.Errorf("socket %q: %d bytes, but the kernel takes at most %d: use a shorter path",
			u.Socket, len(u.Socket), MaxSocketPathBytes)
	case !printable(u.Socket):
		return fmt.Errorf("socket %q: want UTF-8 text without control characters", u.Socket)
	}
	return nil
}

func checkExport(name string) error {
	if len(name) > MaxExportNameBytes {
		return fmt.Errorf("name: %d bytes, but NBD allows at most %d", len(name), MaxExportNameBytes)
	}
	if !printable(name) {
		return fmt.Errorf("name %q: want UTF-8 text without control characters", name)
	}
	return nil
}

// printable says whether XML, JSON, a URI and a log line can all carry s unchanged.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffe || r == 0xffff || r == utf8.RuneError || r == 0x2028 || r == 0x2029 {
			return false
		}
	}
	return true
}
