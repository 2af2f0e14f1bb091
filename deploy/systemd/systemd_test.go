// SPDX-License-Identifier: Apache-2.0

// Package systemd_test has systemd judge the unit.
package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// mostExposed is the score that the unit must stay below (0 is best, 10 worst).
const mostExposed = 2.0

// TestUnitIsValid has systemd read the unit: a setting that it does not know, or a value that it cannot take, is an error.
func TestUnitIsValid(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	unit := regexp.MustCompile(`/usr/bin/luksgate`).ReplaceAllString(readUnit(t), "/bin/true") // which need not be installed
	path := testenv.WriteFile(t, filepath.Join(t.TempDir(), "luksgate.service"), []byte(unit))
	r := testenv.RunCmd(t, exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", path))
	for line := range strings.Lines(r.Stdout + r.Stderr) {
		if strings.Contains(line, "luksgate.service") {
			t.Errorf("%s", line)
		}
	}
	if r.ExitCode != 0 {
		t.Errorf("exit code %d: %s", r.ExitCode, r)
	}
}

// TestUnitKeepsClients holds the unit against what the daemon asks systemd for.
func TestUnitKeepsClients(t *testing.T) {
	unit := readUnit(t)
	for _, want := range []string{"Type=notify", "NotifyAccess=all", "FileDescriptorStoreMax=", "WatchdogSec=", "RuntimeDirectoryPreserve=yes",
		"LimitCORE=0", "LimitMEMLOCK=", "User=luksgate", "CapabilityBoundingSet=\n"} {
		if !strings.Contains(unit, "\n"+want) {
			t.Errorf("the unit has no %s", want)
		}
	}
}

func readUnit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("luksgate.service")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestUnitIsHardened(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	r := testenv.RunCmd(t, exec.Command(analyze, "security", "--offline=true", "--no-pager", "./luksgate.service"))
	m := regexp.MustCompile(`Overall exposure level for luksgate.service: ([0-9.]+)`).FindStringSubmatch(r.Stdout)
	if m == nil {
		t.Fatalf("systemd-analyze gives no score:\n%s", r)
	}
	if score, err := strconv.ParseFloat(m[1], 64); err != nil || score > mostExposed {
		t.Errorf("exposure %s, at most %v is allowed:\n%s", m[1], mostExposed, r)
	}
	t.Logf("exposure %s", m[1])
}
