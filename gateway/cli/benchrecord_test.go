// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestBenchRecord records an export of a running daemon, again and again, below a client that notices nothing.
func TestBenchRecord(t *testing.T) {
	image := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 8<<20)})
	d := serveDaemon(t, "exports:\n  - {name: vm, image: 'file:"+image.Path+"', key: {file: "+image.PassphrasePath+"}, socket: DIR/vm.sock}\n"+
		"  - {name: other, image: 'mem:8M', socket: DIR/other.sock}\n")
	trace := func(name string) string { return filepath.Join(d.dir, name) }
	client := testenv.StartCmd(t, command("bench", d.uri("vm", "vm.sock"), "--overwrite", "--workloads", "randrw", "--sizes", "4K",
		"--depths", "4", "--rounds", "1", "--seconds", "60"))
	waitFor(t, client, "Measuring")

	// By itself, at its time or its size.
	said := d.must("bench", "record", "vm", trace("time"), "--for", "300ms")
	if !regexp.MustCompile(`: [1-9]\d+ requests within `).MatchString(said) {
		t.Errorf("it says %q", said)
	}
	d.must("bench", "record", "vm", trace("size"), "--size", "100K", "--for", "1h")
	if st, err := os.Stat(trace("size")); err != nil || st.Size() < 100<<10 || st.Size() > 101<<10 {
		t.Errorf("%v, %v", st, err)
	}

	// By ^C; meanwhile nobody else can record it.
	p := testenv.StartCmd(t, command("bench", "record", "vm", trace("key"), "--for", "1h", "--admin", d.socket("admin.sock")))
	waitFor(t, p, "recording vm")
	want(t, "a second one", d.run("bench", "record", "vm", trace("second")), exitBusy, "being recorded already")
	if _, err := os.Stat(trace("second")); err == nil {
		t.Error("a recording that did not begin has left a file")
	}
	p.Signal(syscall.SIGINT)
	if code := p.Wait(); code != 0 || !strings.Contains(p.Output(), "requests within") {
		t.Errorf("exit code %d: %s", code, p.Output())
	}

	// The daemon's end is one too.
	p = testenv.StartCmd(t, command("bench", "record", "vm", trace("end"), "--for", "1h", "--admin", d.socket("admin.sock")))
	waitFor(t, p, "recording vm")
	client.Signal(syscall.SIGINT)
	client.Wait()
	begin := time.Now()
	d.Signal(syscall.SIGTERM)
	if code := d.Wait(); code != 0 || time.Since(begin) > 10*time.Second {
		t.Errorf("the daemon waits for a recording: exit code %d after %v", code, time.Since(begin))
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.Output())
	}
	key, err := os.ReadFile(image.PassphrasePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"time", "size", "key", "end"} {
		content, err := os.ReadFile(trace(name))
		if err != nil || bytes.Contains(content, key) {
			t.Errorf("%s: %v, or it holds the passphrase", name, err)
		}
	}
	if got := luksgate(t, "bench", "replay", trace("time"), "mem:8M", "--layers", "nbd-native"); got.ExitCode != 0 {
		t.Error(got)
	}
}

// TestBenchRecordRefuses is what cannot be recorded.
func TestBenchRecordRefuses(t *testing.T) {
	d := serveDaemon(t, "exports:\n  - {name: vm, image: 'mem:1M', socket: DIR/vm.sock}\n")
	there := testenv.WriteFile(t, filepath.Join(d.dir, "there"), []byte("mine"))
	trace := filepath.Join(d.dir, "trace")
	want(t, "no export", d.run("bench", "record", "vm2", trace), exitGeneral, "no such export")
	want(t, "over a file", d.run("bench", "record", "vm", there), exitGeneral, "file exists")
	want(t, "for nothing", d.run("bench", "record", "vm", trace, "--for", "0s"), exitUsage, "--for")
	want(t, "for years", d.run("bench", "record", "vm", trace, "--for", "9000h"), exitUsage, "seconds")
	want(t, "no size", d.run("bench", "record", "vm", trace, "--size", "large"), exitUsage, "--size")
	if _, err := os.Stat(trace); err == nil {
		t.Error("a recording that did not begin has left a file")
	}
	want(t, "no daemon", luksgate(t, "bench", "record", "vm", trace, "--admin", "/nonexistent"), exitUnreachable, "luksgate serve")
}
