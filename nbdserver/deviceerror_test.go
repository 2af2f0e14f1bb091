// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// TestErrorsOfTheDevice makes every command fail with every kind of error.
func TestErrorsOfTheDevice(t *testing.T) {
	commands := []uint16{wire.CmdRead, wire.CmdWrite, wire.CmdFlush, wire.CmdTrim, wire.CmdCache, wire.CmdWriteZeroes, wire.CmdBlockStatus}
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		var mu sync.Mutex
		var fail error
		d := &faulty{Device: device(4 << 20), before: func(string, int64, int64) error {
			mu.Lock()
			defer mu.Unlock()
			return fail
		}}
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, mode)
		for _, x := range []struct {
			err  error
			want uint32
		}{
			{errors.New("a long story " + string(bytes.Repeat([]byte("x"), 5000))), wire.ErrIO},
			{fmt.Errorf("image: %w", syscall.ENOSPC), wire.ErrNoSpace},
			{syscall.EROFS, wire.ErrPerm}, {syscall.EINVAL, wire.ErrInvalid}, {syscall.ENOMEM, wire.ErrNoMem},
			{syscall.ESHUTDOWN, wire.ErrIO}, {nil, 0},
		} {
			for _, command := range commands {
				if command == wire.CmdBlockStatus && mode == "simple" {
					continue
				}
				for _, n := range []uint64{100, 1 << 20} {
					mu.Lock()
					fail = x.err
					mu.Unlock()
					var payload []byte
					if command == wire.CmdWrite {
						payload = make([]byte, n)
					}
					if r := c.do(command, 0, 0, n, payload); r.errno != x.want {
						t.Fatalf("command %d, %d bytes, device says %.20v: error %d, want %d", command, n, x.err, r.errno, x.want)
					}
				}
			}
		}
		c.disconnect()
	})
}

// TestErrorInTheMiddleOfALargeRead comes after the first pieces are on their way.
func TestErrorInTheMiddleOfALargeRead(t *testing.T) {
	d := &faulty{Device: memdevice.New(4 << 20), before: func(op string, offset, _ int64) error {
		if op == "read" && offset >= 1<<20 {
			return syscall.EIO
		}
		return nil
	}}
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	if r := c.do(wire.CmdRead, 0, 0, 2<<20, nil); r.errno != wire.ErrIO {
		t.Errorf("error %d", r.errno)
	}
	if r := c.do(wire.CmdRead, 0, 0, 1<<20, nil); r.errno != 0 {
		t.Errorf("the next read: error %d", r.errno)
	}
	c.disconnect()
}

func TestNotSupportedIsForFastZeroOnly(t *testing.T) {
	err := fmt.Errorf("image: %w", syscall.EOPNOTSUPP)
	if got := nbdserver.ErrnoOf(err, true); got != wire.ErrNotSup {
		t.Errorf("FAST_ZERO: %d", got)
	}
	if got := nbdserver.ErrnoOf(err, false); got != wire.ErrInvalid {
		t.Errorf("others: %d", got)
	}
}

// TestFailingExportIsNotLoud has many clients of one export whose requests all fail: they share what may be logged, an
// export that is well has its own, and what was left out is counted.
func TestFailingExportIsNotLoud(t *testing.T) {
	var log logText
	d := &faulty{Device: memdevice.New(1 << 20), before: func(string, int64, int64) error { return errors.New("the real error") }}
	s := newServer(t, nbdserver.Options{Catalog: one(d), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	start := time.Now()
	for range 20 {
		c := dial(t, s, "structured")
		for range 10 {
			if r := c.do(wire.CmdRead, 0, 0, 512, nil); r.errno != wire.ErrIO {
				t.Fatalf("error %d", r.errno)
			}
		}
		c.disconnect()
	}
	seconds := int(time.Since(start)/time.Second) + 2 // of the clock, begun ones too
	lines := strings.Count(log.String(), "the real error")
	if lines < 10 || lines > 10*seconds {
		t.Errorf("%d lines of 200 errors in %d seconds", lines, seconds)
	}
}

// A logText is what was logged.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
