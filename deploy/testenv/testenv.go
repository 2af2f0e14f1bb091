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

// EnvLong is the environment variable that has the long tests run too, those with guests and further clusters, as
// `make test-long` does.
const EnvLong = "LUKSGATE_TEST_LONG"

// Long skips a test that takes minutes, except where the long ones are wanted.
func Long(tb testing.TB) {
	tb.Helper()
	if os.Getenv(EnvLong) == "" {
		tb.Skipf("NOT RUN: it takes minutes; make test-long runs it")
	}
}
