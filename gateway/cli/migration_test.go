// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// machineType is one that qemu has from 5.2 on.
const machineType = "pc-i440fx-5.2"

// TestMigration moves a guest whose disk is never idle from the gateway to qemu with librbd's engine on the same image, and
// back. The old side is this machine's qemu, and that of Debian 11 where there is a chroot of it.
func TestMigration(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // beside clones, whose tests wait much
	testenv.CephConf(t)
	testenv.Tool(t, "qemu-system-x86_64")
	m := newRBDImage(t, 48, "luks2", "aes-256").cheapKDF(t)
	t.Run("same-qemu", func(t *testing.T) { migrate(t, testenv.Here(t), m, 1) })
	t.Run("old-qemu", func(t *testing.T) { migrate(t, testenv.Chroot(t, "bullseye"), m, 2) })
}

func migrate(t *testing.T, old testenv.System, m *rbdImage, rounds int) {
	socket := filepath.Join(old.Dir, "nbd")
	gate := testenv.StartCmd(t, command("export", "rbd:"+m.spec, "--key-file", m.key, "--socket", socket, "--name", "disk"))
	uri := gate.WaitLine("nbd+unix:")

	h := &hop{t: t, m: m, old: old, here: testenv.Here(t), guest: testenv.NewGuest(t, old.Dir), socket: socket}
	h.here.Dir = old.Dir // where both sides can reach it
	vm := h.start(h.old, h.gatewayDisk())
	vm.Console().Wait(t, "READY", nil)
	vm.Console().GoesOn(h.t)
	for range rounds {
		vm = h.move(vm, h.here, h.librbdDisk())
		vm = h.move(vm, h.old, h.gatewayDisk())
	}
	vm.Console().Say(t, "stop")
	digest, _, _ := strings.Cut(vm.Console().Wait(t, "DIGEST", nil), " ")
	if code := vm.Wait(); code != 0 {
		t.Errorf("qemu: exit code %d\n%s", code, vm.Output())
	}

	// What the guest remembers, what the gateway reads and what librbd reads are the same. nbdcopy leaves out what the
	// gateway calls a hole.
	copied := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", uri, copied)
	h.expect("through the gateway", copied, digest)
	testenv.Run(t, "qemu-img", append(append([]string{"convert", "-O", "raw"}, m.librbd(m.spec)...), copied)...)
	h.expect("through librbd", copied, digest)
	if code := gate.Stop(); code != 0 {
		t.Errorf("gateway: exit code %d\n%s", code, gate.Output())
	}
	checkGateLog(t, gate)
}

// checkGateLog looks for the hand-over of the lock, and for complaints.
func checkGateLog(t *testing.T, gate *testenv.Process) {
	t.Helper()
	for line := range strings.Lines(gate.Output()) {
		// Nobody else migrates a guest every other second.
		tooOften := strings.Contains(line, "goes back and forth")
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") && !tooOften {
			t.Errorf("the gateway has something to complain about: %s", line)
		}
	}
	if !strings.Contains(gate.Output(), "another client took the exclusive lock") {
		t.Errorf("the lock was never handed over:\n%s", gate.Output())
	}
}

// A hop takes a guest from one qemu to the next.
type hop struct {
	t         *testing.T
	m         *rbdImage
	old, here testenv.System
	guest     testenv.Guest
	socket    string
	count     int
}

func (h *hop) gatewayDisk() []string {
	return []string{"-blockdev", "driver=nbd,node-name=disk,server.type=unix,server.path=" + h.socket + ",export=disk,discard=unmap"}
}

func (h *hop) librbdDisk() []string {
	pool, name, _ := strings.Cut(h.m.spec, "/")
	return []string{"-object", "secret,id=key,file=" + h.m.key, "-blockdev", "driver=rbd,node-name=disk,pool=" + pool + ",image=" + name +
		",conf=" + os.Getenv(testenv.EnvCephConf) + ",encrypt.format=luks2,encrypt.key-secret=key,discard=unmap"}
}

func (h *hop) start(s testenv.System, disk []string, more ...string) *testenv.VM {
	h.t.Helper()
	h.count++
	args := append(disk, "-device", "virtio-blk-pci,drive=disk,id=vd,addr=5,rerror=report,werror=report")
	return testenv.NewVM(h.t, s, "vm"+strconv.Itoa(h.count), machineType, h.guest, append(args, more...)...)
}

// move migrates a running guest and ends the qemu that it leaves.
func (h *hop) move(from *testenv.VM, to testenv.System, disk []string) *testenv.VM {
	h.t.Helper()
	incoming := "unix:" + filepath.Join(h.old.Dir, "migrate"+strconv.Itoa(h.count))
	vm := h.start(to, disk, "-incoming", incoming)
	vm.Status("query-status", "inmigrate")
	from.Do("migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 30, "downtime-limit": 300})
	from.Do("migrate", map[string]any{"uri": incoming})
	if status := from.Status("query-migrate", "completed", "failed"); status != "completed" {
		h.t.Fatalf("migration %d: %s\n%s\n%s", h.count, from.Do("query-migrate", nil), from.Output(), vm.Output())
	}
	vm.Status("query-status", "running")
	vm.Console().GoesOn(h.t)
	from.Do("quit", nil)
	from.Wait()
	vm.Console().GoesOn(h.t)
	return vm
}

func (h *hop) expect(how, file, digest string) {
	h.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatal(err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		h.t.Errorf("%s the disk is not what the guest wrote", how)
	}
}
