// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	h.busy(vm)

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
		d.wait("the new process answers", func() bool {
			v, err := d.client.Version(context.Background())
			return err == nil && v.PID == pid
		})
		h.busy(vm)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // the last one is no child of ours
	for _, export := range []string{"vm", "fio"} { // each was handed over, and did not come by itself
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

// metric is the lines of a metric for an export.
func (d *server) metric(name, export string) string {
	d.t.Helper()
	_, text := d.get("/metrics")
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `export="`+export+`"`) && !strings.HasSuffix(line, " 0\n") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// A fioLoad is a fio that reads and writes until it is ended.
type fioLoad struct {
	t *testing.T
	p *testenv.Process
}

func startFio(t *testing.T, uri string) *fioLoad {
	t.Helper()
	return &fioLoad{t, testenv.StartCmd(t, exec.Command(testenv.Tool(t, "fio"), "--name=load", "--ioengine=nbd", "--uri="+uri,
		"--rw=randrw", "--bs=4k", "--iodepth=16", "--time_based", "--runtime="+strconv.Itoa(int((20*time.Minute).Seconds())),
		"--output-format=json"))}
}

// end ends fio, and fails the test unless all went well. It says what fio measured.
func (l *fioLoad) end() string {
	l.t.Helper()
	l.p.Signal(syscall.SIGINT)
	l.p.Wait()
	out := l.p.Output()
	var report struct {
		Jobs []struct {
			Error       int
			Read, Write struct {
				TotalIOs int `json:"total_ios"`
				Latency  struct {
					Max        float64
					Percentile map[string]float64
				} `json:"clat_ns"`
			}
		}
	}
	i := strings.Index(out, "{\n")
	if i < 0 || json.NewDecoder(strings.NewReader(out[i:])).Decode(&report) != nil || len(report.Jobs) != 1 {
		l.t.Fatalf("fio has no report:\n%s", out)
	}
	j := report.Jobs[0]
	if j.Error != 0 || j.Read.TotalIOs == 0 || j.Write.TotalIOs == 0 {
		l.t.Errorf("fio: error %d, %d reads, %d writes\n%s", j.Error, j.Read.TotalIOs, j.Write.TotalIOs, out)
	}
	ms := func(nanos float64) string { return fmt.Sprintf("%.1f ms", nanos/1e6) }
	return fmt.Sprintf("fio: %d reads, p99 %s, max %s; %d writes, p99 %s, max %s", j.Read.TotalIOs, ms(j.Read.Latency.Percentile["99.000000"]),
		ms(j.Read.Latency.Max), j.Write.TotalIOs, ms(j.Write.Latency.Percentile["99.000000"]), ms(j.Write.Latency.Max))
}
