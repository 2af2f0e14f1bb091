// SPDX-License-Identifier: Apache-2.0

// Package deploy_test tries deploy/vulncheck on a database of its own.
package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// The database as https://go.dev/doc/security/vuln/database describes it, with one entry: a function that luksgate calls.
var database = map[string]string{
	"index/db.json":        `{"modified":"2099-01-01T00:00:00Z"}`,
	"index/modules.json":   `[{"path":"golang.org/x/sys","vulns":[{"id":"GO-2099-0001","modified":"2099-01-01T00:00:00Z"}]}]`,
	"index/vulns.json":     `[{"id":"GO-2099-0001","modified":"2099-01-01T00:00:00Z"}]`,
	"ID/GO-2099-0001.json": `{"schema_version":"1.3.1","id":"GO-2099-0001","modified":"2099-01-01T00:00:00Z","published":"2099-01-01T00:00:00Z","summary":"mlock is bad","details":"mlock is bad","affected":[{"package":{"name":"golang.org/x/sys","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"ecosystem_specific":{"imports":[{"path":"golang.org/x/sys/unix","symbols":["Mlock"]}]}}],"database_specific":{"url":"https://example.com","review_status":"REVIEWED"}}`,
}

// vulncheck runs it as "make vulncheck" does.
func vulncheck(t *testing.T, environment ...string) testenv.Result {
	t.Helper()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^VULN_VERSION := (\S+)$`).FindStringSubmatch(string(makefile))
	if version == nil {
		t.Fatal("no VULN_VERSION in the Makefile")
	}
	cmd := exec.Command("./vulncheck", testenv.Tool(t, "go"), version[1])
	cmd.Env = append(os.Environ(), environment...)
	return testenv.RunCmd(t, cmd)
}

// TestVulnerabilityIsFound has a vulnerability in what the program calls fail the check, with the way to the call.
func TestVulnerabilityIsFound(t *testing.T) {
	testenv.Long(t)
	dir := t.TempDir()
	for name, content := range database {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		testenv.WriteFile(t, path, []byte(content))
	}
	r := vulncheck(t, "GOVULNDB=file://"+dir)
	if r.ExitCode != 3 || !strings.Contains(r.Stdout, "GO-2099-0001") || !strings.Contains(r.Stdout, "secret.New calls unix.Mlock") {
		t.Errorf("%s", r)
	}
}

// TestNoVulnerabilityDatabase has the check say that it knows nothing, and fail only where it must not.
func TestNoVulnerabilityDatabase(t *testing.T) {
	testenv.Long(t)
	nowhere := "GOVULNDB=http://127.0.0.1:1"
	if r := vulncheck(t, nowhere, "LUKSGATE_VULNCHECK_REQUIRE="); r.ExitCode != 0 || !strings.Contains(r.Stderr, "NOT RUN") {
		t.Errorf("%s", r)
	}
	if r := vulncheck(t, nowhere, "LUKSGATE_VULNCHECK_REQUIRE=1"); r.ExitCode != 4 || !strings.Contains(r.Stderr, "NOT RUN") {
		t.Errorf("%s", r)
	}
}
