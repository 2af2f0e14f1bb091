// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/nbdserver"
)

// stateVersion changes when a state can no longer be understood by those who knew the one before.
const stateVersion = 2

// Limits of a state, which comes from a process of the same user but maybe of another version.
const (
	maxStateBytes = 512 << 20
	maxStateFDs   = 1 << 20
	fdsAtOnce     = 128 // the kernel takes 253 (SCM_MAX_FD)
)

// A state is what a process hands to its successor, besides the descriptors that it numbers.
type state struct {
	Version   int             `json:"version"`
	Listeners []stateListener `json:"listeners"`
	Sessions  []stateSession  `json:"sessions"`
	// Added are exports that are not in the configuration file, and Drained those that take no new clients.
	Added   []config.Export `json:"added"`
	Drained []string        `json:"drained"`
}

type stateListener struct {
	Key string `json:"key"`
	FD  int    `json:"fd"`
}

type stateSession struct {
	*nbdserver.Session
	FD int `json:"fd"`

	conn any // what FD numbers, on the side that sends
}

// A plan is what a successor opens in standby.
type plan struct {
	Version int `json:"version"`
	// Added and Drained are those of the state that follows.
	Added   []config.Export `json:"added"`
	Drained []string        `json:"drained"`
	// Open are the exports whose image is open.
	Open []planExport `json:"open"`
}

// A planExport is what clients of an export were told.
type planExport struct {
	*nbdserver.Session     // without a client
	Clients            int `json:"clients"`
}

// A step is a message that says how far a side is.
type step struct {
	Step  string `json:"step"`
	Error string `json:"error,omitempty"`
}

// Steps of a hand-over, in order.
const (
	stepReady    = "ready"    // successor: the configuration is read, and waits for the plan
	stepOpened   = "opened"   // successor: one image of the plan is open in standby
	stepPrepared = "prepared" // successor: all are, and waits for the state
	stepOpen     = "open"     // successor: has the state and the locks, images are open, sessions fit
	stepCommit   = "commit"   // predecessor: will touch no image any more
)

// A channel is the connection between a process and its successor. Messages are JSON with their length in front.
type channel struct{ c *net.UnixConn }

func newChannel(f *os.File) (*channel, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("not a unix socket")
	}
	return &channel{u}, nil
}

func (ch *channel) send(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = ch.c.Write(append(binary.BigEndian.AppendUint64(nil, uint64(len(body))), body...))
	return err
}

func (ch *channel) receive(v any) error {
	var size [8]byte
	if _, err := io.ReadFull(ch.c, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint64(size[:])
	if n > maxStateBytes {
		return fmt.Errorf("message of %d bytes", n)
	}
	body, err := io.ReadAll(io.LimitReader(ch.c, int64(n)))
	if err == nil && uint64(len(body)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// expect waits for a step of the other side until a time.
func (ch *channel) expect(want string, until time.Time) error {
	_ = ch.c.SetReadDeadline(until)
	defer func() { _ = ch.c.SetReadDeadline(time.Time{}) }()
	var s step
	if err := ch.receive(&s); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it did not say %q in time", want)
		}
		return fmt.Errorf("it did not say %q: %w", want, err)
	}
	if s.Error != "" {
		return errors.New(s.Error)
	}
	if s.Step != want {
		return fmt.Errorf("it said %q: expected %q", s.Step, want)
	}
	return nil
}

// sendFDs sends descriptors, which stay open here.
func (ch *channel) sendFDs(fds []int) error {
	for len(fds) > 0 {
		n := min(len(fds), fdsAtOnce)
		if _, _, err := ch.c.WriteMsgUnix([]byte{0}, unix.UnixRights(fds[:n]...), nil); err != nil {
			return err
		}
		fds = fds[n:]
	}
	return nil
}

// receiveFDs receives n descriptors.
func (ch *channel) receiveFDs(n int) ([]int, error) {
	var fds []int
	oob := make([]byte, unix.CmsgSpace(fdsAtOnce*4))
	for len(fds) < n {
		_, got, flags, _, err := ch.c.ReadMsgUnix(make([]byte, 1), oob)
		if err == nil && flags&unix.MSG_CTRUNC != 0 {
			err = syscall.EMFILE
		}
		var messages []unix.SocketControlMessage
		if err == nil {
			messages, err = unix.ParseSocketControlMessage(oob[:got])
		}
		if err == nil && len(messages) == 0 {
			err = io.ErrUnexpectedEOF
		}
		for _, m := range messages {
			rights, rightsErr := unix.ParseUnixRights(&m)
			fds, err = append(fds, rights...), errors.Join(err, rightsErr)
		}
		if err != nil {
			closeFDs(fds)
			return nil, err
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// rawFD is the descriptor of a connection or listener, valid while that is open. It stays as it is: taking it through
// File would make it block.
func rawFD(v any) (int, error) {
	sc, ok := v.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("%T has no descriptor", v)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	out := -1
	err = raw.Control(func(fd uintptr) { out = int(fd) })
	return out, err
}

// adopt makes connections and listeners of what was received. The descriptors belong to them then.
func (s *state) adopt(fds []int, passed *passedSockets) error {
	file := func(i int) (*os.File, error) {
		if i < 0 || i >= len(fds) {
			return nil, fmt.Errorf("descriptor %d of %d", i, len(fds))
		}
		return os.NewFile(uintptr(fds[i]), "handed over"), nil
	}
	for _, l := range s.Listeners {
		f, err := file(l.FD)
		if err != nil {
			return err
		}
		inner, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("socket %s: %w", l.Key, err)
		}
		if u, ok := inner.(*net.UnixListener); ok {
			inner = nbdserver.AdoptUnixListener(u, strings.TrimPrefix(l.Key, "unix:"))
		}
		passed.by[l.Key] = inner
	}
	for _, m := range s.Sessions {
		f, err := file(m.FD)
		if err != nil {
			return err
		}
		m.Conn, err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("client of %s: %w", m.Export.Name, err)
		}
	}
	return nil
}
