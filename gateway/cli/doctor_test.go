// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/doctor"
)

func TestDoctor(t *testing.T) {
	root := t.TempDir()
	args := []string{"doctor", "--no-ceph", "--connect", "none", "--root", root, "--socket-dir", "/gate"}
	r := luksgate(t, args...)
	if r.ExitCode != exitGeneral || !strings.Contains(r.Stdout, "error    socket-dir /gate is missing.\n") ||
		!strings.Contains(r.Stdout, "     install -d -m 0750 -o root -g kvm /gate\n") || !strings.Contains(r.Stderr, "not ready") {
		t.Errorf("a host without the directory\n%s", r)
	}
	if err := os.Mkdir(filepath.Join(root, "gate"), 0o755); err != nil {
		t.Fatal(err)
	}
	r = luksgate(t, append(args, "--json")...)
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || r.ExitCode != exitOK || len(all) < 8 {
		t.Errorf("%v, %d findings\n%s", err, len(all), r)
	}
	for _, wrong := range [][]string{{"--image", "rbd:a/b"}, {"--image", "file:x"}, {"extra"}} {
		if r := luksgate(t, append(args, wrong...)...); r.ExitCode != exitUsage {
			t.Errorf("%v: want exit code %d\n%s", wrong, exitUsage, r)
		}
	}
}

// TestDoctorInSentences looks at what people read: whole sentences, lines that fit, commands that can be copied, a sum.
func TestDoctorInSentences(t *testing.T) {
	r := luksgate(t, "doctor", "--no-ceph", "--connect", "none", "--root", t.TempDir(), "--tls")
	lines := strings.Split(strings.TrimSuffix(r.Stdout, "\n"), "\n")
	for _, line := range lines {
		isCommand := strings.HasPrefix(line, strings.Repeat(" ", 25))
		if len(line) > 105 && !isCommand && strings.Contains(strings.TrimSpace(line[20:]), " ") {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, "2 errors, 0 warnings.") && !strings.HasSuffix(last, "warnings.") {
		t.Errorf("no sum at the end: %q", last)
	}
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(luksgate(t, "doctor", "--no-ceph", "--connect", "none", "--root", t.TempDir(), "--tls", "--json").Stdout), &all); err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, text := range []string{f.Found, f.Advice} {
			if text != "" && !strings.HasSuffix(text, ".") {
				t.Errorf("%s: no sentence: %q", f.Check, text)
			}
		}
	}
}

// TestDoctorAsksLibvirt looks at a host whose libvirt runs.
func TestDoctorAsksLibvirt(t *testing.T) {
	d := testenv.NewLibvirtd(t)
	r := luksgate(t, "doctor", "--no-ceph", "--connect", d.URI, "--root", t.TempDir())
	if !strings.Contains(r.Stdout, "ok       libvirt    This host has libvirt ") {
		t.Errorf("%s", r)
	}
}
