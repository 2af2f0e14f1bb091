// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestCrashBelowQemu kills the daemon below a guest whose disk is never idle, or restarts it, and starts it again half a
// second later with what systemd kept. What docs/crash.md says of the guest is what is seen here.
func TestCrashBelowQemu(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // beside clones, whose tests wait much
	testenv.Tool(t, "qemu-system-x86_64")
	for _, s := range []struct {
		name   string
		system func(*testing.T) testenv.System
	}{
		{"here", func(t *testing.T) testenv.System { return testenv.Here(t) }},
		{"bullseye", func(t *testing.T) testenv.System { return testenv.Chroot(t, "bullseye") }},
	} {
		for _, c := range []struct {
			name, delay string
			signal      syscall.Signal
			stops       bool
		}{
			{"killed", "", syscall.SIGKILL, true},
			{"killed-reconnect-delay", ",reconnect-delay=30", syscall.SIGKILL, false},
			{"restarted", "", syscall.SIGTERM, false},
		} {
			t.Run(s.name+"/"+c.name, func(t *testing.T) { crash(t, s.system(t), c.delay, c.signal, c.stops) })
		}
	}
}

func crash(t *testing.T, system testenv.System, delay string, signal syscall.Signal, stops bool) {
	s := newSystemd(t)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 16<<20)})
	d := s.serveIn(system.Dir, fmt.Sprintf("exports:\n  - {name: disk, image: \"file:%s\", socket: DIR/disk.sock, key: {file: %s}}\n",
		luks.Path, luks.PassphrasePath))
	vm := testenv.NewVM(t, system, "vm", machineType, testenv.NewGuest(t, system.Dir),
		"-blockdev", "driver=nbd,node-name=disk,server.type=unix,server.path="+d.socket("disk.sock")+",export=disk"+delay,
		"-device", "virtio-blk-pci,drive=disk,id=vd,addr=5,rerror=stop,werror=stop")
	vm.Console().Wait(t, "READY", nil)
	for range 2 {
		vm.Console().GoesOn(t)
		d.Signal(signal)
		d.Wait()
		if stops {
			vm.Status("query-status", "io-error") // libvirt: paused (I/O error)
		}
		time.Sleep(500 * time.Millisecond)
		if now := vm.Status("query-status", "running", "io-error"); !stops && now != "running" {
			t.Fatalf("the guest has stopped: %s", now)
		}
		d.Process = s.start(d.config)
		d.wait("READY=1", func() bool { return s.heard("READY=1") > 0 })
		if stops {
			resume(t, vm)
		}
		vm.Console().GoesOn(t) // an ERROR of the guest would end the test
	}
	vm.Console().Say(t, "stop")
	digest, _, _ := strings.Cut(vm.Console().Wait(t, "DIGEST", nil), " ")
	if len(digest) != 64 {
		t.Errorf("the guest found %q on its disk", digest)
	}
	vm.Wait()
	d.stop()
}

// resume is `virsh resume`, again where the connection was not there yet: qemu before 7 tries by itself after 1, 3, 7 and
// 15 seconds, and a guest that is resumed in between stops again.
func resume(t *testing.T, vm *testenv.VM) {
	t.Helper()
	for tries := 1; ; tries++ {
		vm.Do("cont", nil)
		time.Sleep(300 * time.Millisecond)
		if vm.Status("query-status", "running", "io-error") == "running" {
			t.Log("resumed after " + strconv.Itoa(tries) + " tries")
			return
		}
		if tries == 60 {
			t.Fatal("the guest stops again and again")
		}
	}
}
