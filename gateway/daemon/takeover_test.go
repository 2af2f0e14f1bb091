// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPredecessorDies has the process before die when it has given everything away, and before it said so: nobody but the
// successor has the clients then.
func TestPredecessorDies(t *testing.T) {
	for name, wait := range map[string]bool{"before the answer": false, "with the answer unread": true} {
		t.Run(name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			before, err := newChannel(os.NewFile(uintptr(pair[0]), "predecessor"))
			if err != nil {
				t.Fatal(err)
			}
			d := newDaemon(t, "")
			d.handover = os.NewFile(uintptr(pair[1]), "successor")
			taken := make(chan error, 1)
			go func() {
				_, err := d.takeOver(&passedSockets{})
				taken <- err
			}()
			until := time.Now().Add(patience)
			for _, err := range []error{
				before.expect(stepReady, until), before.send(plan{Version: stateVersion}),
				before.expect(stepPrepared, until), before.send(state{Version: stateVersion}),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if wait {
				fd, err := rawFD(before.c)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); err != nil {
					t.Fatal(err)
				}
			}
			_ = before.c.Close()
			if err := <-taken; err != nil {
				t.Errorf("the successor gives up: %v", err)
			}
		})
	}
}
