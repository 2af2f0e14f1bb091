// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestBenchRBD measures beside an image that must stay what it is, and looks at the scratch image meanwhile.
func TestBenchRBD(t *testing.T) {
	pool := testenv.NewPool(t)
	spec := pool + "/mine"
	content := bytes.Repeat([]byte("mine"), 1<<18)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "content"), content)
	testenv.RBD(t, "import", "--no-progress", "--object-size", "1M", "--image-feature", "layering,exclusive-lock", file, spec)
	json := filepath.Join(t.TempDir(), "r.json")
	p := testenv.StartCmd(t, command(append([]string{"bench", "rbd:" + spec, "--against", "librbd", "--workloads", "randread,randwrite",
		"--peers", "qemu-nbd", "--json", json}, quickBench...)...))
	waitFor(t, p, "Measuring")
	scratch := scratchOf(t, pool, "mine")
	if info := testenv.RBD(t, "info", pool+"/"+scratch); !strings.Contains(info, "1 MiB objects") || strings.Contains(info, "object-map") {
		t.Errorf("the scratch image is not like the one beside which it was made:\n%s", info)
	}
	secretsOfChildren(t, p.PID())
	if code := p.Wait(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, p.Output())
	}
	d := readBench(t, json)
	checkBench(t, d, "cipher", "plain", "native", "librbd", "nbd-native", "nbd-librbd", "qemu-nbd")
	if d.Settings.Against != "librbd" || d.Versions["librbd"] == "" {
		t.Errorf("settings %+v, versions %v", d.Settings, d.Versions)
	}
	onlyMine(t, pool, content)
}

// TestBenchInterrupted ends a run in each of its phases.
func TestBenchInterrupted(t *testing.T) {
	pool := testenv.NewPool(t)
	spec := pool + "/mine"
	content := []byte("mine")
	testenv.RBD(t, "import", "--no-progress", testenv.WriteFile(t, filepath.Join(t.TempDir(), "content"), content), spec)
	html := filepath.Join(t.TempDir(), "r.html")
	for _, phase := range []string{"filling", "measuring"} {
		args := []string{"bench", "rbd:" + spec, "--seconds", "1", "--rounds", "1", "--sizes", "4K", "--layers", "native,nbd-native", "--html", html}
		if phase == "filling" {
			args = append(args, "--size", "1G")
		} else {
			args = append(args, "--size", "4M", "--depths", "1,2,4,8,16")
		}
		p := testenv.StartCmd(t, command(args...))
		if phase == "filling" {
			scratchOf(t, pool, "mine")
		} else {
			waitFor(t, p, "Measuring")
			time.Sleep(3 * time.Second) // into the second workload
		}
		p.Signal(syscall.SIGINT)
		if code := p.Wait(); code != exitGeneral {
			t.Errorf("%s: exit code %d\n%s", phase, code, p.Output())
		}
		onlyMine(t, pool, content)
		_, err := os.Stat(html)
		if want := phase == "measuring"; want != (err == nil) || strings.Contains(p.Output(), "interrupted") != want {
			t.Errorf("%s: report %v\n%s", phase, err, p.Output())
		}
	}
}

// scratchOf waits for the scratch image beside an image.
func scratchOf(t *testing.T, pool, name string) string {
	t.Helper()
	for end := time.Now().Add(testenv.CommandTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, found := range strings.Fields(testenv.RBD(t, "ls", pool)) {
			if strings.HasPrefix(found, name+".luksgate-bench-") {
				return found
			}
		}
	}
	t.Fatal("there never was a scratch image")
	return ""
}

// onlyMine expects the pool as it was before.
func onlyMine(t *testing.T, pool string, content []byte) {
	t.Helper()
	if got := strings.TrimSpace(testenv.RBD(t, "ls", pool)); got != "mine" {
		t.Errorf("images left in the pool: %q", got)
	}
	exported := filepath.Join(t.TempDir(), "exported")
	testenv.RBD(t, "export", "--no-progress", pool+"/mine", exported)
	got, err := os.ReadFile(exported)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image was changed: %d bytes, %v", len(got), err)
	}
	if err := os.Remove(exported); err != nil {
		t.Error(err)
	}
}

// secretsOfChildren looks for what could be the scratch image's passphrase, 64 hexadecimal digits, in what everybody may
// see of the processes that luksgate started.
func secretsOfChildren(t *testing.T, parent int) {
	t.Helper()
	secret := regexp.MustCompile(`[0-9a-f]{64}`)
	children := childrenOf(t, parent)
	for _, pid := range children {
		for _, name := range []string{"cmdline", "environ"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			if text, err := os.ReadFile(path); err == nil && secret.Match(text) {
				t.Errorf("%s: %q", path, secret.Find(text))
			}
		}
	}
	if len(children) < 3 { // two gateways and qemu-nbd
		t.Errorf("%d children, expected 3", len(children))
	}
}
