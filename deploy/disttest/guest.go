// SPDX-License-Identifier: Apache-2.0

package disttest

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A Guest stands for a VM: a qemu-io of the host's that writes and reads until it is told to stop.
type Guest struct {
	h     *Host
	input *os.File
	p     *testenv.Process
	stop  chan struct{}
	done  chan int
}

// NewGuest begins to write to the first MiB of an export and to read it back.
func (h *Host) NewGuest(uri string) *Guest {
	h.t.Helper()
	line := asQemu("sh", "-c", `qemu-io -f raw "$1" 2>&1 | sed -u "s/qemu-io> //g"`, "sh", uri)
	cmd := h.Command(line[0], line[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stdin = r
	// Commands must not wait there by the thousand, however slow the cluster is.
	const setPipeSize, pipeBytes = 1031, 4096 // fcntl(2): F_SETPIPE_SZ
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, w.Fd(), setPipeSize, pipeBytes); errno != 0 {
		h.t.Fatalf("the guest's pipe: %v", errno)
	}
	g := &Guest{h: h, input: w, stop: make(chan struct{}), done: make(chan int, 1)}
	g.p = testenv.StartCmd(h.t, cmd)
	_ = r.Close()
	go g.work()
	h.t.Cleanup(func() { _ = w.Close() })
	return g
}

// guestRequests is how many pairs of requests a guest makes a second at most; more would only be noise.
const guestRequests = 200

func (g *Guest) work() {
	n := 0
	for {
		select {
		case <-g.stop:
			g.done <- n
			return
		case <-time.After(time.Second / guestRequests):
		}
		n++
		offset, pattern := n*4%1024, 1+n%250
		if _, err := io.WriteString(g.input, fmt.Sprintf("write -q -P %d %dk 4k\nread -q -P %d %dk 4k\n", pattern, offset, pattern, offset)); err != nil {
			g.done <- -1
			return
		}
	}
}

// Finish ends it: every request must have gone well.
func (g *Guest) Finish() {
	g.h.t.Helper()
	close(g.stop)
	n := <-g.done
	if _, err := io.WriteString(g.input, "read -P 77 2M 64k\nquit\n"); err != nil {
		g.h.t.Errorf("the guest is gone: %v", err)
	}
	// Qemu-io waits for its input to become readable and then takes one line, but its buffer holds more of them: only at
	// the end of the input it takes them all.
	_ = g.input.Close()
	for end := time.Now().Add(testenv.CommandTimeout); g.p.Running(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			g.h.t.Fatalf("a guest with %d requests hangs; the daemon says\n%s%s\n%s", n,
				g.h.Try(g.h.t, "luksgate", "ls"), g.h.Try(g.h.t, "luksgate", "stats"), g.h.Journal())
		}
	}
	code := g.p.Wait()
	out := g.p.Output()
	if code != 0 || n < 10 || strings.Contains(out, "rror") || strings.Contains(out, "failed") || !strings.Contains(out, "read 65536/65536 bytes at offset 2097152") {
		g.h.t.Errorf("a guest with %d requests (exit code %d) was not served without an error:\n%s\n%s", n, code, out, g.h.Journal())
	}
	g.h.t.Logf("a guest wrote and read %d times", n)
}
