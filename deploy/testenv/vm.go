// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// EnvAccel is the environment variable that names qemu's accelerator. Without it guests are emulated: that works everywhere,
// while a /dev/kvm inside of a virtual machine may be there and fail.
const EnvAccel = "LUKSGATE_TEST_ACCEL"

// GuestMemoryBytes is what guests have: 160 MiB, and not a multiple of 256 KiB. An emulating qemu older than 9.0 forgets, where the
// memory is one, to watch the pages of such a range again that it has just sent, and what the guest writes to them then does not
// migrate (qemu's commit 03bfc2188f). With KVM that is not so.
const GuestMemoryBytes = 160<<20 - 8<<10

// A VM is a qemu that runs a [Guest]. One goroutine may use it.
type VM struct {
	*Process
	tb      testing.TB
	qmp     net.Conn
	replies *json.Decoder
	console *Console
}

// A Console is what a guest says, line by line.
type Console struct {
	conn net.Conn

	mu    sync.Mutex
	lines []string
}

// NewVM starts a qemu of a system with a guest in it. name is for files in the system's Dir; args come after those for the
// machine. With "-incoming" in args the guest comes later.
func NewVM(tb testing.TB, s System, name, machine string, g Guest, args ...string) *VM {
	tb.Helper()
	qmp, console := filepath.Join(s.Dir, name+".qmp"), filepath.Join(s.Dir, name+".tty")
	accel := os.Getenv(EnvAccel)
	if accel == "" {
		accel = "tcg"
	}
	// A guest must find the same processor wherever it comes to.
	line := []string{"-machine", machine + ",accel=" + accel, "-cpu", "qemu64", "-m", strconv.Itoa(GuestMemoryBytes>>10) + "k", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-kernel", g.Kernel, "-initrd", g.Initrd, "-append", "console=ttyS0 quiet panic=-1",
		"-chardev", "socket,id=tty,path=" + console + ",server=on,wait=off", "-serial", "chardev:tty",
		"-qmp", "unix:" + qmp + ",server=on,wait=off"}
	vm := &VM{tb: tb, Process: StartCmd(tb, s.Command(tb, "qemu-system-x86_64", append(line, args...)...))}
	vm.console = newConsole(vm.dial(console))
	vm.qmp = vm.dial(qmp)
	vm.replies = json.NewDecoder(vm.qmp)
	tb.Cleanup(func() {
		_ = vm.qmp.Close()
		_ = vm.console.conn.Close()
		if tb.Failed() {
			tb.Logf("console of %s:\n%s", name, strings.Join(vm.console.All(), "\n"))
		}
	})
	vm.receive("QMP")
	vm.Do("qmp_capabilities", nil)
	return vm
}

func (vm *VM) dial(path string) net.Conn {
	vm.tb.Helper()
	for deadline := time.Now().Add(CommandTimeout); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c
		}
		if !vm.Running() || time.Now().After(deadline) {
			vm.tb.Fatalf("qemu does not listen: %v\n%s", err, vm.Output())
		}
	}
}

// receive returns the next message that has a key; events in between are dropped.
func (vm *VM) receive(keys ...string) map[string]json.RawMessage {
	vm.tb.Helper()
	_ = vm.qmp.SetReadDeadline(time.Now().Add(CommandTimeout))
	for {
		message := map[string]json.RawMessage{}
		if err := vm.replies.Decode(&message); err != nil {
			vm.tb.Fatalf("QMP: %v\n%s", err, vm.Output())
		}
		for _, key := range keys {
			if _, ok := message[key]; ok {
				return message
			}
		}
	}
}

// Do runs a QMP command and returns its result.
func (vm *VM) Do(command string, arguments any) json.RawMessage {
	vm.tb.Helper()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		vm.tb.Fatal(err)
	}
	if _, err := vm.qmp.Write(text); err != nil {
		vm.tb.Fatalf("QMP %s: %v\n%s", command, err, vm.Output())
	}
	reply := vm.receive("return", "error")
	if reply["error"] != nil {
		vm.tb.Fatalf("QMP %s: %s", text, reply["error"])
	}
	return reply["return"]
}

// Status asks a query-... command until its "status" is one of those wanted, and returns it.
func (vm *VM) Status(query string, wanted ...string) string {
	vm.tb.Helper()
	var answer struct{ Status string }
	var raw json.RawMessage
	for deadline := time.Now().Add(guestTimeout); ; time.Sleep(20 * time.Millisecond) {
		raw = vm.Do(query, nil)
		if err := json.Unmarshal(raw, &answer); err != nil {
			vm.tb.Fatalf("%s: %v: %s", query, err, raw)
		}
		for _, status := range wanted {
			if answer.Status == status {
				return status
			}
		}
		if time.Now().After(deadline) {
			vm.tb.Fatalf("%s: want status %q, got %s", query, wanted, raw)
		}
	}
}

// Console is the guest's serial line.
func (vm *VM) Console() *Console { return vm.console }

// DialConsole connects to a guest whose serial line is a unix socket. The test's end closes it.
func DialConsole(tb testing.TB, path string) *Console {
	tb.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	c := newConsole(conn)
	tb.Cleanup(func() {
		_ = conn.Close()
		if tb.Failed() {
			tb.Logf("console:\n%s", strings.Join(c.All(), "\n"))
		}
	})
	return c
}

func newConsole(conn net.Conn) *Console {
	c := &Console{conn: conn}
	go c.read()
	return c
}

func (c *Console) read() {
	lines := bufio.NewReader(c.conn)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" {
			c.mu.Lock()
			c.lines = append(c.lines, line)
			c.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// All is what the guest has said so far.
func (c *Console) All() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

// Say sends a line to the guest.
func (c *Console) Say(tb testing.TB, line string) {
	tb.Helper()
	if _, err := fmt.Fprintln(c.conn, line); err != nil {
		tb.Fatalf("console: %v", err)
	}
}

// Wait waits for a line that begins with a word and is good, and returns what follows the word. An ERROR line fails the
// test.
func (c *Console) Wait(tb testing.TB, word string, good func(rest string) bool) string {
	tb.Helper()
	return c.wait(tb, 0, word, good)
}

// guestTimeout is how long a guest may be silent. An emulated one on a machine with other work takes a minute for what
// takes seconds.
const guestTimeout = 6 * time.Minute

// wait is Wait for a line that is not among the first ones.
func (c *Console) wait(tb testing.TB, first int, word string, good func(rest string) bool) string {
	tb.Helper()
	for deadline := time.Now().Add(guestTimeout); ; time.Sleep(10 * time.Millisecond) {
		for i, line := range c.All() {
			if strings.HasPrefix(line, "ERROR") || strings.Contains(line, "panic") {
				tb.Fatalf("the guest says: %s", line)
			}
			rest, ok := strings.CutPrefix(line+" ", word+" ") // and not a longer word
			if rest = strings.TrimSpace(rest); ok && i >= first && (good == nil || good(rest)) {
				return rest
			}
		}
		if time.Now().After(deadline) {
			tb.Fatalf("the guest never said %s, but\n%s", word, strings.Join(c.All(), "\n"))
		}
	}
}

// moreOps is how many requests of the guest show that its disk works.
const moreOps = 50

// GoesOn waits until the guest, which says OPS N every now and then, has done requests that it had not done yet: what it
// had said before the call counts for nothing.
func (c *Console) GoesOn(tb testing.TB) {
	tb.Helper()
	before := -1
	c.wait(tb, len(c.All()), "OPS", func(rest string) bool {
		ops, err := strconv.Atoi(rest)
		if err != nil {
			return false // half a line, from before the guest came here
		}
		if before < 0 {
			before = ops
		}
		return ops > before+moreOps
	})
}
