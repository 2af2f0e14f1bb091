// SPDX-License-Identifier: Apache-2.0

// Package devcluster_test tries the devcluster script, which other tests lean on.
package devcluster_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// script runs devcluster.
func script(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return testenv.RunCmd(t, exec.Command(testenv.Tool(t, "./devcluster"), args...))
}

// folder is a new folder whose cluster, if any, is ended with the test.
func folder(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"ceph-mon", "ceph-mgr", "ceph-osd", "rbd"} {
		testenv.Tool(t, program)
	}
	dir := filepath.Join(testenv.SocketDir(t), "c")
	t.Cleanup(func() { script(t, "stop", dir, "--wipe") })
	return dir
}

func mustStart(t *testing.T, dir string, options ...string) {
	t.Helper()
	if got := script(t, append([]string{"start", dir}, options...)...); got.ExitCode != 0 {
		t.Fatalf("start failed:\n%s", got)
	}
}

func rbd(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return testenv.Run(t, "rbd", append([]string{"--conf", dir + "/ceph.conf"}, args...)...)
}

func pid(t *testing.T, dir, daemon string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, daemon+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestStartIsIdempotentAndStopEndsAll(t *testing.T) {
	dir := folder(t)
	mustStart(t, dir)
	rbd(t, dir, "create", "--size", "4M", "image")
	before := pid(t, dir, "osd.0")
	mustStart(t, dir)
	if after := pid(t, dir, "osd.0"); after != before {
		t.Errorf("a second start replaced osd %d by %d", before, after)
	}
	if got := rbd(t, dir, "ls"); got != "image\n" {
		t.Errorf("images are %q", got)
	}
	if got := script(t, "status", dir); got.ExitCode != 0 || !strings.Contains(got.Stdout, "osd.0 runs") {
		t.Errorf("status of a running cluster:\n%s", got)
	}
	pids := []int{before, pid(t, dir, "mon.a"), pid(t, dir, "mgr.x")}
	for range 2 {
		if got := script(t, "stop", dir); got.ExitCode != 0 {
			t.Errorf("stop failed:\n%s", got)
		}
	}
	for _, id := range pids {
		if text, err := os.ReadFile("/proc/" + strconv.Itoa(id) + "/cmdline"); err == nil && strings.Contains(string(text), dir) {
			t.Errorf("process %d survived: %s", id, text)
		}
	}
	if got := script(t, "status", dir); got.ExitCode != 3 {
		t.Errorf("status of a stopped cluster:\n%s", got)
	}
}

func TestClustersSideBySide(t *testing.T) {
	dirs := []string{folder(t), folder(t)}
	results := make([]testenv.Result, len(dirs))
	var group sync.WaitGroup
	for i, dir := range dirs {
		group.Go(func() { results[i] = script(t, "start", dir) })
	}
	group.Wait()
	for i, dir := range dirs {
		if results[i].ExitCode != 0 {
			t.Fatalf("start failed:\n%s", results[i])
		}
		rbd(t, dir, "create", "--size", "4M", "image"+strconv.Itoa(i))
	}
	script(t, "stop", dirs[0])
	if got := rbd(t, dirs[1], "ls"); got != "image1\n" {
		t.Errorf("the second cluster has %q", got)
	}
}

func TestStopSparesProcessesOfOthers(t *testing.T) {
	dir := folder(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// What a pid file names after a reboot: a live process that has nothing to do with the cluster.
	stranger := testenv.Start(t, "sh", "-c", "echo up; exec sleep 600")
	stranger.WaitLine("up")
	for _, daemon := range []string{"mon.a", "mgr.x", "osd.0"} {
		testenv.WriteFile(t, filepath.Join(dir, daemon+".pid"), []byte(strconv.Itoa(stranger.PID())))
	}
	if err := os.Mkdir(filepath.Join(dir, "osd.0"), 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, filepath.Join(dir, "ceph.conf"), []byte("[osd]\nosd_objectstore = memstore\n"))
	if got := script(t, "stop", dir); got.ExitCode != 0 {
		t.Errorf("stop failed:\n%s", got)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(stranger.PID()) + "/exe"); err != nil {
		t.Errorf("stop ended a process that is not the cluster's: %v", err)
	}
}

func TestBluestoreKeepsItsDataAndErasureCodedPoolTakesWrites(t *testing.T) {
	dir := folder(t)
	mustStart(t, dir, "--store", "bluestore", "--size", "2G", "--ec-pool", "ec", "--pool", "second")
	rbd(t, dir, "create", "--size", "8M", "--data-pool", "ec", "second/image")
	rbd(t, dir, "bench", "--io-type", "write", "--io-size", "4K", "--io-total", "64K", "second/image")
	script(t, "stop", dir)
	mustStart(t, dir)
	if got := rbd(t, dir, "ls", "second"); got != "image\n" {
		t.Errorf("after a restart the pool has %q", got)
	}
}

func TestWhatCannotWorkIsSaid(t *testing.T) {
	dir := folder(t)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"long folder", []string{"start", dir + strings.Repeat("x", 100)}, "at most 90 bytes"},
		{"folder with a space", []string{"start", dir + "/a b"}, "cannot hold this name"},
		{"unknown store", []string{"start", dir, "--store", "disk"}, "memstore or bluestore"},
		{"unknown option", []string{"stop", dir, "--size", "1G"}, "does not know --size"},
		{"missing value", []string{"start", dir, "--size"}, "wants a value"},
		{"no cluster", []string{"env", dir}, "no cluster in"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := script(t, test.args...)
			if got.ExitCode != 1 || !strings.Contains(got.Stderr, test.want) {
				t.Errorf("want exit code 1 and %q:\n%s", test.want, got)
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	first, second := folder(t), folder(t)
	mustStart(t, first)
	conf, err := os.ReadFile(first + "/ceph.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(conf), "v2:127.0.0.1:")
	port, _, _ := strings.Cut(rest, "/")
	got := script(t, "start", second, "--port", port)
	if got.ExitCode != 1 || !strings.Contains(got.Stderr, "port "+port+" or the next one is in use") {
		t.Errorf("start on a used port:\n%s", got)
	}
	if got := script(t, "status", first); got.ExitCode != 0 {
		t.Errorf("the first cluster suffered:\n%s", got)
	}
}

func TestMissingDaemonNamesThePackage(t *testing.T) {
	dir := folder(t)
	bin := t.TempDir()
	for _, tool := range strings.Fields("bash realpath grep sed cat dirname basename mkdir flock numfmt tac rm head") {
		if err := os.Symlink(testenv.Tool(t, tool), filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(testenv.Tool(t, "./devcluster"), "start", dir)
	cmd.Env = append(os.Environ(), "PATH="+bin)
	if got := testenv.RunCmd(t, cmd); got.ExitCode != 1 || !strings.Contains(got.Stderr, "package ceph-mon") {
		t.Errorf("start without Ceph's programs:\n%s", got)
	}
}

func TestWithClusterCleansUp(t *testing.T) {
	folder(t) // for what it requires
	cmd := exec.Command(testenv.Tool(t, "./with-cluster"), "--", "sh", "-c",
		`echo "$CEPH_CONF"; setsid sleep 600 & echo $!; rbd ls && exit 5`)
	cmd.Env = append(os.Environ(), testenv.EnvCephConf+"=")
	got := testenv.RunCmd(t, cmd)
	lines := strings.Fields(got.Stdout)
	if got.ExitCode != 5 || len(lines) != 2 {
		t.Fatalf("want the command's exit code 5 and two lines:\n%s", got)
	}
	if _, err := os.Stat(filepath.Dir(lines[0])); !os.IsNotExist(err) {
		t.Errorf("%s is left over", filepath.Dir(lines[0]))
	}
	if text, err := os.ReadFile("/proc/" + lines[1] + "/cmdline"); err == nil && strings.HasPrefix(string(text), "sleep\x00600") {
		t.Errorf("process %s is left over", lines[1])
	}
}
