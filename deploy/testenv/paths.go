// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// EnvVectors is the environment variable that names the folder of other people's test vectors.
const EnvVectors = "LUKSGATE_VECTORS"

// SocketDir makes a folder with a path short enough for unix sockets (107 bytes on Linux), which the test's own
// TempDir often is not. It is removed when the test ends.
func SocketDir(tb testing.TB) string {
	tb.Helper()
	parent := ""
	if len(os.TempDir()) > 60 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "lg")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// FreePort returns a TCP port of 127.0.0.1 that was free a moment ago. Prefer port 0 where the program tells which it
// got.
func FreePort(tb testing.TB) int {
	tb.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

// Root is the folder of the repository.
func Root(tb testing.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	if ok && filepath.IsAbs(file) {
		return filepath.Dir(filepath.Dir(filepath.Dir(file)))
	}
	// Built with -trimpath: look upwards from the package's folder, where go test runs its binary.
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	tb.Fatal("cannot find the folder of the repository: run the tests inside it")
	return ""
}

// Vectors is a file or folder below the folder of third-party vectors: $LUKSGATE_VECTORS, or shared/vectors beside the
// repository. The vectors are not part of the repository; where they are not, the test is skipped, even where
// everything else is required.
func Vectors(tb testing.TB, elem ...string) string {
	tb.Helper()
	dir := os.Getenv(EnvVectors)
	if dir == "" {
		dir = filepath.Join(Root(tb), "..", "shared", "vectors")
		if _, err := os.Stat(dir); err != nil {
			tb.Skipf("no third-party vectors: set %s to their folder", EnvVectors)
		}
	}
	path := filepath.Join(append([]string{dir}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("third-party vectors: %v", err)
	}
	return path
}
