// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
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

// watchdog says twice in systemd's patience that all is well, after check has returned. It returns when ctx ends.
func (n *notifier) watchdog(ctx context.Context, check func()) {
	if n.patience == 0 {
		return
	}
	tick := time.NewTicker(n.patience / 2)
	defer tick.Stop()
	for {
		check()
		n.send("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
