// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/nbdserver"
)

// listenFlags say where clients come from: one of a socket, an address, sockets that systemd passes, and standard input
// and output.
type listenFlags struct {
	socket, listen string
	stdio          bool
	access         config.SocketMode

	passed []net.Listener // by systemd
	conn   net.Conn       // of --stdio
}

func (f *listenFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.socket, "socket", "", "unix socket to serve on")
	f.access.Mode = 0o600
	fs.Var(&f.access.Mode, "socket-mode", "who may connect to --socket, in octal")
	fs.StringVar(&f.access.Owner, "socket-owner", "", "user who owns --socket, by name or number")
	fs.StringVar(&f.access.Group, "socket-group", "", "group of --socket, by name or number")
	fs.StringVar(&f.listen, "listen", "", "HOST:PORT to serve on (port 0: any free one)")
	fs.BoolVar(&f.stdio, "stdio", false, "serve one client on standard input and output, and end with it")
}

// check takes what this process was given. Sockets of systemd are for whoever names no other place.
func (f *listenFlags) check(s std, k *keyFlags, flags *pflag.FlagSet) error {
	named, err := nbdserver.ActivationListeners()
	if err != nil {
		return err
	}
	for _, list := range named {
		f.passed = append(f.passed, list...)
	}
	places := 0
	for _, given := range []bool{f.socket != "", f.listen != "", f.stdio, len(f.passed) > 0} {
		if given {
			places++
		}
	}
	switch {
	case places > 1 && len(f.passed) > 0:
		return usage("sockets were passed (LISTEN_FDS): leave out --socket, --listen and --stdio")
	case places != 1:
		return usage("give one of --socket, --listen and --stdio, or pass sockets as systemd does (LISTEN_FDS)")
	case f.socket == "" && (flags.Changed("socket-mode") || f.access.Owner != "" || f.access.Group != ""):
		return usage("--socket-mode, --socket-owner and --socket-group need --socket")
	case f.stdio:
		return f.takeStdio(s, k)
	}
	return nil
}

// takeStdio makes the connection, and points standard input and output elsewhere: nothing that a library prints, and no
// file that gets a free number, may end up between the client and us.
func (f *listenFlags) takeStdio(s std, k *keyFlags) error {
	in, isFile := s.in.(*os.File)
	out, isFile2 := s.out.(*os.File)
	switch {
	case !isFile || !isFile2:
		return errors.New("--stdio: standard input and output are no files")
	case terminal(in) || terminal(out):
		return usage("--stdio: a terminal speaks no NBD: let the client start luksgate, or use --socket")
	case sameStream(out, s.err):
		return usage("--stdio: standard error is the client's connection too, where messages would be taken for data: " +
			"redirect it, in a unit of systemd with StandardError=journal")
	case k.fd == 0 || k.fd == 1:
		return usage("--key-fd %d: with --stdio that is the client's connection: use --key-file or another descriptor", k.fd)
	case slices.ContainsFunc(k.files, isStdin):
		return usage("--key-file: with --stdio standard input is the client's connection: use another file")
	}
	var own [2]*os.File
	for i, file := range []*os.File{in, out} {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("--stdio: standard input or output: %w", err)
		}
		own[i] = os.NewFile(uintptr(fd), [2]string{"standard input", "standard output"}[i])
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("--stdio: %w", err)
	}
	defer func() { _ = null.Close() }()
	for _, file := range []*os.File{in, out} {
		if err := unix.Dup3(int(null.Fd()), int(file.Fd()), 0); err != nil {
			return fmt.Errorf("--stdio: %w", err)
		}
	}
	f.conn, err = nbdserver.StdioConn(own[0], own[1])
	return err
}

// sameStream tells whether two streams are the same socket, pipe or file.
func sameStream(a *os.File, b any) bool {
	f, ok := b.(*os.File)
	if !ok {
		return false
	}
	x, err1 := a.Stat()
	y, err2 := f.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// isStdin tells whether a path is another name of standard input.
func isStdin(path string) bool {
	return slices.Contains([]string{"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}, filepath.Clean(path))
}

// bind listens, and returns the addresses in the form that clients take. With --stdio there is nothing to listen on.
func (f *listenFlags) bind() ([]net.Listener, []attach.URI, error) {
	switch {
	case f.stdio:
		return nil, nil, nil
	case f.socket != "":
		return f.bindUnix()
	case f.listen != "":
		host, port, err := splitHostPort(f.listen)
		if err != nil {
			return nil, nil, err
		}
		l, err := access.ListenTCP(net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			return nil, nil, err
		}
		u := attach.URI{Host: host, Port: l.Addr().(*net.TCPAddr).Port}
		if host == "" {
			u.Host = "localhost"
		}
		return []net.Listener{l}, []attach.URI{u}, nil
	}
	var uris []attach.URI
	for _, l := range f.passed {
		switch a := l.Addr().(type) {
		case *net.UnixAddr:
			uris = append(uris, attach.URI{Socket: a.Name})
		case *net.TCPAddr:
			uris = append(uris, attach.URI{Host: a.IP.String(), Port: a.Port})
		}
	}
	return f.passed, uris, nil
}

func (f *listenFlags) bindUnix() ([]net.Listener, []attach.URI, error) {
	path, err := filepath.Abs(f.socket)
	if err != nil {
		return nil, nil, err
	}
	l, err := access.ListenUnix(path, access.Socket{Mode: fs.FileMode(f.access.Mode), Owner: f.access.Owner, Group: f.access.Group})
	if err != nil {
		return nil, nil, err
	}
	return []net.Listener{l}, []attach.URI{{Socket: path}}, nil
}

// local tells whether clients may come over a unix socket, whose users and groups are known.
func (f *listenFlags) local() bool {
	return f.socket != "" || f.stdio || slices.ContainsFunc(f.passed, func(l net.Listener) bool { return l.Addr().Network() == "unix" })
}
