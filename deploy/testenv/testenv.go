// SPDX-License-Identifier: Apache-2.0

// Package testenv finds what tests need besides Go: other people's tools, a Ceph cluster, a chroot of another Debian.
//
// A test whose need is not met is skipped, except where LUKSGATE_TEST_REQUIRE is set, as `make test` does: there it
// fails, because a test that did not run proves nothing.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// EnvRequire is the environment variable that turns an unmet need into a failure.
const EnvRequire = "LUKSGATE_TEST_REQUIRE"

// EnvCephConf is the environment variable that names the ceph.conf of the cluster that tests may use as they like.
const EnvCephConf = "LUKSGATE_TEST_CEPH_CONF"

// Missing skips the test, or fails it where everything is required.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv(EnvRequire) != "" {
		tb.Fatalf("required here: "+format, args...)
	}
	tb.Skipf(format, args...)
}

// Tool returns the path of a program.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(tb, "%s is not installed (run deploy/install-deps)", name)
	}
	return path
}

// CephConf returns the ceph.conf of the test cluster.
func CephConf(tb testing.TB) string {
	tb.Helper()
	conf := os.Getenv(EnvCephConf)
	if conf == "" {
		Missing(tb, "no test cluster: start one with deploy/devcluster and set %s to its ceph.conf", EnvCephConf)
	}
	return conf
}
