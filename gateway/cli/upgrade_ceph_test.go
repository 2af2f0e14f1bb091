// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// upgradesBelowQemu is how often the daemon is replaced; where the long tests run, as often as figures need it.
func upgradesBelowQemu() int {
	if os.Getenv(testenv.EnvLong) != "" {
		return 30
	}
	return 3
}

// TestUpgradeBelowQemu replaces the daemon below a guest whose disk is never idle and below fio, with images on Ceph and
// the key derivation that rbd made: both see pauses, and neither an error nor the end of a connection.
func TestUpgradeBelowQemu(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "qemu-system-x86_64")
	cooperative, exclusive := newRBDImage(t, 48, "luks2", "aes-256"), newRBDImage(t, 48, "luks2", "aes-256")
	d := serveDaemon(t, fmt.Sprintf(`
defaults: {ceph: {conf: %s}}
exports:
  - {name: vm, image: "rbd:%s", socket: DIR/vm.sock, key: {file: %s}}
  - {name: fio, image: "rbd:%s", socket: DIR/fio.sock, key: {file: %s}, lock: exclusive}
`, os.Getenv(testenv.EnvCephConf), cooperative.spec, cooperative.key, exclusive.spec, exclusive.key))
	here := testenv.Here(t)
	h := &hop{t: t, m: cooperative, here: here, old: here, guest: testenv.NewGuest(t, here.Dir), socket: d.socket("vm.sock")}
	vm := h.start(here, []string{"-blockdev", "driver=nbd,node-name=disk,server.type=unix,server.path=" + h.socket + ",export=vm"})
	vm.Console().Wait(t, "READY", nil)
	load := startFio(t, d.uri("fio", "fio.sock"))
	d.wait("fio works", func() bool { return strings.Contains(d.metric("luksgate_connections", "fio"), " 1") })
	vm.Console().GoesOn(t)

	var pauses []time.Duration
	pid := d.PID()
	for range upgradesBelowQemu() {
		u, err := d.client.Upgrade(context.Background(), false)
		if err != nil {
			t.Fatalf("%v\n%s", err, d.Output())
		}
		if u.PID == pid || u.Connections != 2 {
			t.Errorf("upgrade: %+v", u)
		}
		pid = u.PID
		t.Logf("pause %v, after %v beside clients", u.Pause.Round(time.Millisecond), u.Prepared.Round(time.Millisecond))
		pauses = append(pauses, u.Pause)
		d.waitPID(pid)
		vm.Console().GoesOn(t)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // the last one is no child of ours
	for _, export := range []string{"vm", "fio"} {               // each was handed over, and did not come by itself
		d.wait(export+" is served", func() bool { return d.requests(export) > 0 })
		if n := d.metric("luksgate_connections_opened_total", export); !strings.HasSuffix(n, " 1") {
			t.Errorf("a client came again: %s", n)
		}
		if n := d.metric("luksgate_request_errors_total", export); strings.Contains(n, "\n") || n != "" && !strings.HasSuffix(n, " 0") {
			t.Errorf("errors: %s", n)
		}
	}
	slices.Sort(pauses)
	t.Logf("%d upgrades: pause p50 %v, p99 %v, max %v; %s", len(pauses), pauses[len(pauses)/2], pauses[len(pauses)*99/100],
		pauses[len(pauses)-1], load.end())
	vm.Console().Say(t, "stop")
	digest, _, _ := strings.Cut(vm.Console().Wait(t, "DIGEST", nil), " ")
	vm.Wait()
	copied := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", d.uri("vm", "vm.sock"), copied)
	h.expect("after upgrades", copied, digest)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	d.wait("the last process ends and takes its sockets along", func() bool {
		_, err := os.Stat(d.socket("vm.sock"))
		return os.IsNotExist(err)
	})
}
