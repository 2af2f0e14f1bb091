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
	if r.ExitCode != exitGeneral || !strings.Contains(r.Stdout, "error    socket-dir /gate is missing") ||
		!strings.Contains(r.Stdout, "-> install -d") || !strings.Contains(r.Stderr, "not ready") {
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

// TestDoctorAsksLibvirt looks at a host whose libvirt runs.
func TestDoctorAsksLibvirt(t *testing.T) {
	d := testenv.NewLibvirtd(t)
	r := luksgate(t, "doctor", "--no-ceph", "--connect", d.URI, "--root", t.TempDir())
	if !strings.Contains(r.Stdout, "ok       libvirt    libvirt ") {
		t.Errorf("%s", r)
	}
}
