// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A notifier tells systemd how the daemon is (sd_notify(3)). Without systemd it does nothing.
type notifier struct {
	address  string
	patience time.Duration // systemd's patience; 0 means that it does not watch
}

func newNotifier() *notifier {
	n := &notifier{address: os.Getenv("NOTIFY_SOCKET")}
	if micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && micros > 0 {
		if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
			n.patience = time.Duration(micros) * time.Microsecond
		}
	}
	return n
}

func (n *notifier) dial() (*net.UnixConn, error) {
	name := n.address
	if name[0] == '@' {
		name = "\x00" + name[1:]
	}
	return net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
}

// send sends a state, such as "READY=1". That systemd does not listen is nobody's problem but systemd's.
func (n *notifier) send(state string) {
	if n.address == "" {
		return
	}
	c, err := n.dial()
	if err != nil {
		return
	}
	_, _ = c.Write([]byte(state))
	_ = c.Close()
}

// reloading says that a reload begins, and when: systemd waits for the READY=1 after it.
func (n *notifier) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

// stores tells whether there is somebody who might keep descriptors.
func (n *notifier) stores() bool { return n.address != "" }

// storeAtOnce is how many descriptors one message carries: fewer than the kernel takes (SCM_MAX_FD, 253).
const storeAtOnce = 200

// store has systemd keep descriptors under a name (FDSTORE=1).
func (n *notifier) store(name string, fds ...int) error {
	if n.address == "" || len(fds) == 0 {
		return nil
	}
	c, err := n.dial()
	if err != nil {
		return fmt.Errorf("daemon: systemd's store: %w", err)
	}
	defer func() { _ = c.Close() }()
	for len(fds) > 0 {
		part := fds[:min(len(fds), storeAtOnce)]
		fds = fds[len(part):]
		if err := sendRights(c, "FDSTORE=1\nFDNAME="+name, part...); err != nil {
			return fmt.Errorf("daemon: systemd's store: %w", err)
		}
	}
	return nil
}

// sendRights sends a message with descriptors, which package net does not do at a connected datagram socket.
func sendRights(c *net.UnixConn, message string, fds ...int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), []byte(message), unix.UnixRights(fds...), nil, 0)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

// unstore has systemd forget what it keeps under a name.
func (n *notifier) unstore(name string) { n.send("FDSTOREREMOVE=1\nFDNAME=" + name) }

// barrier waits until systemd has looked at all that was sent before (BARRIER=1): it cannot tell whose a message of a
// process is that has gone. An older systemd closes a descriptor that it knows nothing of, which does as well.
func (n *notifier) barrier(patience time.Duration) {
	if n.address == "" {
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	defer func() { _ = r.Close() }()
	c, err := n.dial()
	if err == nil {
		err = sendRights(c, "BARRIER=1", int(w.Fd()))
		_ = c.Close()
	}
	_ = w.Close()
	if err == nil {
		_ = r.SetReadDeadline(time.Now().Add(patience))
		_, _ = r.Read(make([]byte, 1))
	}
}

// watchdog says three times in systemd's patience that all is well, as often as check says so. It returns when ctx ends.
func (n *notifier) watchdog(ctx context.Context, check func(context.Context) error) {
	if n.patience == 0 {
		return
	}
	every := n.patience / 3
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, every)
		if check(one) == nil {
			n.send("WATCHDOG=1")
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
