// SPDX-License-Identifier: Apache-2.0

// Package systemd_test has systemd judge the unit.
package systemd_test

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// mostExposed is the score that the unit must stay below (0 is best, 10 worst).
const mostExposed = 2.0

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
