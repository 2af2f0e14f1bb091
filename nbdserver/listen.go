// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketOptions say who may connect to a unix socket.
type SocketOptions struct {
	// Mode of the socket; zero means 0660.
	Mode fs.FileMode
	// UID and GID that own it; negative means the process's own.
	UID, GID int
}

// maxSocketPath is what sun_path holds.
const maxSocketPath = 107

// UnixListener is a listening unix socket with a name of ours.
type UnixListener struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

// Close stops listening and removes the name, unless another server has put its own socket there.
func (l *UnixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && l.info != nil && os.SameFile(now, l.info) {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// Path is the socket's name.
func (l *UnixListener) Path() string { return l.path }

// Keep makes Close leave the name in place, for a successor that has the socket.
func (l *UnixListener) Keep() { l.info = nil }

// ListenUnix listens on a unix socket. The socket has its owner and mode before anybody can connect by its name. A
// socket that is left over from a server that is gone is replaced; one that answers, or any other file, is not.
func ListenUnix(path string, o SocketOptions) (*UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("nbdserver: socket %s: path has %d bytes, at most %d allowed", path, len(path), maxSocketPath)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := listenUnix(path, o)
	if err != nil {
		return nil, fmt.Errorf("nbdserver: socket %s: %w", path, err)
	}
	return l, nil
}

// listenUnix makes the socket in a private folder and moves it to its place. The name it binds goes through /proc,
// because the private folder's own may be longer than sun_path.
func listenUnix(path string, o SocketOptions) (*UnixListener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".nbd")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(private) }()
	dir, err := os.Open(private)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	name := fmt.Sprintf("/proc/self/fd/%d/s", dir.Fd())
	inner, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	inner.SetUnlinkOnClose(false)
	l := &UnixListener{UnixListener: inner, path: path}
	if err = publish(filepath.Join(private, "s"), path, o); err == nil {
		l.info, err = os.Lstat(path)
	}
	if err != nil {
		_ = inner.Close()
		return nil, err
	}
	return l, nil
}

func publish(fresh, path string, o SocketOptions) error {
	mode := o.Mode
	if mode == 0 {
		mode = 0o660
	}
	if o.UID >= 0 || o.GID >= 0 {
		if err := os.Chown(fresh, o.UID, o.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(fresh, mode.Perm()); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nbdserver: socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("nbdserver: socket %s: a file that is no socket is there", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("nbdserver: socket %s: another process serves on it: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nbdserver: socket %s: cannot tell whether it is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("nbdserver: stale socket: %w", err)
	}
	return nil
}

// firstActivationFD is where systemd puts the sockets it passes (sd_listen_fds(3)).
const firstActivationFD = 3

// maxActivationFDs is more than systemd stores.
const maxActivationFDs = 1 << 20

// ActivationFiles returns the descriptors that systemd, or a test suite that does as it does, passed to this process, with
// their names (LISTEN_FDNAMES; "unknown" where there is none). None is no error. The environment is cleared, so that
// children do not take them for theirs.
func ActivationFiles() ([]*os.File, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxActivationFDs {
		return nil, fmt.Errorf("nbdserver: LISTEN_FDS is %q: expected a number of at most %d", count, maxActivationFDs)
	}
	return activationFiles(firstActivationFD, n, strings.Split(names, ":")), nil
}

func activationFiles(first, n int, names []string) []*os.File {
	out := make([]*os.File, n)
	for i := range out {
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(first + i)
		out[i] = os.NewFile(uintptr(first+i), name)
	}
	return out
}

// ActivationListeners returns the listening sockets among the descriptors of ActivationFiles, by name. Anything else there
// is an error.
func ActivationListeners() (map[string][]net.Listener, error) {
	files, err := ActivationFiles()
	if err != nil {
		return nil, err
	}
	return ListenersOf(files)
}

// ListenersOf makes listeners of files, by name, and closes the files. On an error everything is closed.
func ListenersOf(files []*os.File) (map[string][]net.Listener, error) {
	out := map[string][]net.Listener{}
	var failed error
	for _, f := range files {
		l, err := listenerOf(f)
		_ = f.Close()
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		out[f.Name()] = append(out[f.Name()], l)
	}
	if failed == nil {
		return out, nil
	}
	for _, list := range out {
		for _, l := range list {
			_ = l.Close()
		}
	}
	return nil, failed
}

// listenerOf makes a listener of a socket, which it leaves open.
func listenerOf(f *os.File) (net.Listener, error) {
	if on, err := acceptsConnections(f); err != nil || !on {
		return nil, fmt.Errorf("nbdserver: passed descriptor (%s) is no listening socket (with systemd: Accept=no)", f.Name())
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("nbdserver: passed socket (%s): %w", f.Name(), err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it is not ours
	}
	return l, nil
}

func acceptsConnections(f *os.File) (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	on := 0
	controlErr := raw.Control(func(fd uintptr) { on, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN) })
	return on != 0, errors.Join(controlErr, err)
}

// StdioConn makes a connection of a program's standard input and output: one socket, as inetd and test suites pass it,
// or two pipes. The files belong to the connection afterwards.
func StdioConn(in, out *os.File) (net.Conn, error) {
	if c, err := net.FileConn(in); err == nil {
		_ = in.Close()
		_ = out.Close()
		return c, nil
	}
	for _, f := range []*os.File{in, out} {
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("nbdserver: standard input or output: %w", err)
		}
		if info.Mode()&fs.ModeNamedPipe == 0 {
			return nil, fmt.Errorf("nbdserver: %s is neither a socket nor a pipe: start the program with one", f.Name())
		}
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return nil, fmt.Errorf("nbdserver: %s: %w", f.Name(), err)
		}
	}
	// Opened anew, so that the runtime's poller takes them and deadlines work.
	return &pipeConn{in: reopen(in), out: reopen(out)}, nil
}

// reopen moves the descriptor to a file that is polled.
func reopen(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return f
	}
	_ = unix.SetNonblock(fd, true)
	_ = f.Close()
	return os.NewFile(uintptr(fd), f.Name())
}

// pipeConn is a connection of two pipes.
type pipeConn struct{ in, out *os.File }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }

func (p *pipeConn) Read(b []byte) (int, error)         { return p.in.Read(b) }
func (p *pipeConn) Write(b []byte) (int, error)        { return p.out.Write(b) }
func (p *pipeConn) Close() error                       { return errors.Join(p.in.Close(), p.out.Close()) }
func (p *pipeConn) LocalAddr() net.Addr                { return stdioAddr{} }
func (p *pipeConn) RemoteAddr() net.Addr               { return stdioAddr{} }
func (p *pipeConn) SetReadDeadline(t time.Time) error  { return p.in.SetReadDeadline(t) }
func (p *pipeConn) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
func (p *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetReadDeadline(t), p.out.SetWriteDeadline(t))
}
