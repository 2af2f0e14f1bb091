// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestMetricsAreFed has a daemon do and suffer all that its metrics tell, and looks for each of them.
func TestMetricsAreFed(t *testing.T) {
	testenv.CephConf(t)
	m := newRBDImage(t, 80, "luks2", "aes-256").cheapKDF(t)
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer down.Close()
	token := testenv.WriteFile(t, filepath.Join(t.TempDir(), "token"), []byte("s.token"))
	address := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	d := serveDaemon(t, fmt.Sprintf(`
metrics: {address: %q}
defaults: {ceph: {conf: %s}, close_after: 1h}
vault: {address: %q, token_file: %s}
exports:
  - {name: disk, image: "rbd:%s", socket: DIR/disk.sock, key: {file: %s}}
  - {name: wrong, image: "rbd:%s", socket: DIR/wrong.sock, key: {file: %s}}
  - {name: keyless, image: "rbd:%s", socket: DIR/keyless.sock, key: {vault: {path: a}, timeout: 1s}}
`, address, os.Getenv(testenv.EnvCephConf), down.URL, token, m.spec, m.key, m.spec, token, m.spec))
	prom := startPrometheus(t, address)
	prom.waitFor(d, `count(luksgate_export_open)`) // before anything happens, so that it sees it happen
	uri := d.uri("disk", "disk.sock")
	// Large requests, so that a worker helps; it may have other things to do at first.
	testenv.Run(t, "qemu-io", "-f", "raw", "-d", "unmap", uri, "-c", "write 0 16M", "-c", "read 0 16M", "-c", "flush",
		"-c", "write -z 0 4M", "-c", "discard 4M 4M", "-c", "map")
	testenv.Try(t, "nbdinfo", d.uri("nothing", "disk.sock"))
	for _, name := range []string{"wrong", "keyless"} {
		if r := testenv.Try(t, "nbdinfo", d.uri(name, name+".sock")); r.ExitCode == 0 {
			t.Errorf("%s was opened: %s", name, r)
		}
	}
	d.must("reload")
	loseLock(t, d, m)
	failRead(t, d, m)

	prom.waitFor(d, `rate(luksgate_rbd_errors_total{op="read"}[5m]) * 0 + 1`)
	prom.checkDashboard("disk", "wrong", "keyless")
	prom.checkRules(d, "LuksgateKeySourceDown")

	_, text := d.get("/metrics")
	for _, want := range []string{
		`build_info`, `request_duration_seconds_count{export="disk",op="read"}`, `request_duration_seconds_sum{export="disk",op="write"}`,
		`request_duration_seconds_count{export="disk",op="flush"}`, `request_duration_seconds_count{export="disk",op="trim"}`,
		`request_duration_seconds_count{export="disk",op="write_zeroes"}`, `request_duration_seconds_count{export="disk",op="block_status"}`,
		`request_bytes_total{export="disk",op="read"}`, `request_bytes_total{export="disk",op="write"}`, `request_bytes_total{export="disk",op="trim"}`,
		`request_errors_total{export="disk",op="read"}`, `request_errors_by_code_total{code="22",export="disk"}`,
		`request_wait_seconds_count{export="disk"}`, `connections_opened_total{export="disk"}`, `handshake_failures_total{reason="unknown_export"}`,
		`export_open{export="disk"}`, `export_opens_total{export="disk",result="ok"}`, `export_opens_total{export="wrong",result="error"}`,
		`export_open_seconds_total{export="disk"}`, `key_fetches_total{export="disk",result="ok"}`, `key_fetches_total{export="keyless",result="error"}`,
		`key_fetch_seconds_total{export="disk"}`, `unlocks_total{export="disk",result="ok"}`, `unlocks_total{export="wrong",result="error"}`,
		`unlock_seconds_total{export="disk"}`, `crypto_bytes_total{direction="encrypt",export="disk"}`,
		`crypto_bytes_total{direction="decrypt",export="disk"}`, `crypto_seconds_total{direction="encrypt",export="disk"}`,
		`crypto_seconds_total{direction="decrypt",export="disk"}`, `rbd_lock_acquisitions_total{export="disk"}`,
		`rbd_lock_losses_total{export="disk"}`, `rbd_errors_total{errno="EINVAL",export="disk",op="read"}`, `server_connections`, `connections{export="disk"}`,
		`buffer_budget_bytes`, `crypto_workers`, `config_reloads_total{result="ok"}`,
	} {
		if v := sample(text, "luksgate_"+want); v <= 0 {
			t.Errorf("luksgate_%s is %v", want, v)
		}
	}
	if alone, shared := sample(text, `luksgate_crypto_tasks_total{help="alone"}`), sample(text, `luksgate_crypto_tasks_total{help="shared"}`); alone+shared < 2 {
		t.Errorf("tasks: %v alone, %v shared", alone, shared)
	}
	checkMetricNames(t, text)
	cmd := exec.Command(testenv.Tool(t, "promtool"), "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if r := testenv.RunCmd(t, cmd); r.ExitCode != 0 {
		t.Errorf("promtool check metrics: %s", r)
	}
	// What limits the number of series: 150 for each export, 60 for the daemon.
	series := map[string]int{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "luksgate_") {
			_, name, _ := strings.Cut(line, `export="`)
			name, _, _ = strings.Cut(name, `"`)
			series[name]++
		}
	}
	t.Logf("series: %v", series)
	for name, n := range series {
		if n > 250 {
			t.Errorf("%d series for export %q", n, name)
		}
	}
	d.stop()
}

// sample is the value of a series, -1 if there is none.
func sample(text, series string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, series)
		if i := strings.LastIndexByte(rest, ' '); ok && i >= 0 && (i == 0 || rest[0] == '{') {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[i:]), 64)
			if err != nil {
				return -1
			}
			return v
		}
	}
	return -1
}

// loseLock has another client write to the image.
func loseLock(t *testing.T, d *server, m *rbdImage) {
	t.Helper()
	testenv.Run(t, "qemu-io", "-f", "raw", d.uri("disk", "disk.sock"), "-c", "write 0 4k")
	d.wait("the lock is seen", func() bool { return d.metric("luksgate_rbd_lock_acquisitions_total", "disk") != "" })
	testenv.Run(t, "qemu-io", append(m.librbd(m.spec), "-c", "write 1M 4k")...)
	d.wait("the lock is lost", func() bool { return d.metric("luksgate_rbd_lock_losses_total", "disk") != "" })
}

// failRead has a client read where the image no longer is. It stays connected.
func failRead(t *testing.T, d *server, m *rbdImage) {
	t.Helper()
	c := dial(t, d.socket("disk.sock"))
	testenv.RBD(t, "resize", "--no-progress", "--allow-shrink", "--size", "32M", m.spec)
	d.wait("a read beyond the end fails", func() bool {
		_, err := c.doRead(1, 48<<20, 4096)
		return err != nil
	})
}

// checkMetricNames holds the alerts and the dashboard against what a daemon has, and has Prometheus read the dashboard's
// queries.
func checkMetricNames(t *testing.T, text string) {
	t.Helper()
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+)[{ ]`).FindAllStringSubmatch(text, -1) {
		have[m[1]] = true
	}
	root := testenv.Root(t)
	for _, name := range []string{"deploy/prometheus/luksgate.rules.yml", "deploy/grafana/luksgate.json"} {
		file, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range regexp.MustCompile(`\bluksgate_[a-z_]+`).FindAllString(string(file), -1) {
			if !have[n] {
				t.Errorf("%s names %s, which the daemon does not have", name, n)
			}
		}
	}
}

// TestSlowClusterIsCounted pauses the OSD below a request for longer than a request may take.
func TestSlowClusterIsCounted(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	c := newTroubled(t)
	c.rbd("create", "--size", "16M", "rbd/disk")
	d := serveDaemon(t, fmt.Sprintf(`
exports:
  - {name: disk, image: "rbd:rbd/disk", plain: true, socket: DIR/disk.sock, ceph: {conf: %s}}
`, c.conf))
	client := dial(t, d.socket("disk.sock"))
	if err := client.doWrite(1, 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	c.signalOSD(syscall.SIGSTOP)
	defer c.signalOSD(syscall.SIGCONT)
	client.writeHeader(2, 0, 4)
	client.write([]byte("abcd"))
	d.wait("the request counts as slow", func() bool { return d.metric("luksgate_rbd_slow_requests", "disk") != "" })
	_, text := d.get("/metrics")
	if oldest := sample(text, `luksgate_rbd_oldest_request_seconds{export="disk"}`); oldest < (9 * time.Second).Seconds() {
		t.Errorf("the oldest request has waited %v seconds", oldest)
	}
	c.signalOSD(syscall.SIGCONT)
	if _, errno := client.reply(); errno != 0 {
		t.Errorf("error %d", errno)
	}
	d.wait("nothing is slow any more", func() bool { return d.metric("luksgate_rbd_slow_requests", "disk") == "" })
	d.stop()
}
