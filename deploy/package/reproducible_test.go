// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestReproducible builds everything once more, of a clone elsewhere, with nothing that the first build left, in another
// time zone and by another umask: the bytes must be the same.
func TestReproducible(t *testing.T) {
	d := disttest.Find(t)
	dir := t.TempDir()
	clone := filepath.Join(dir, "somewhere", "else")
	testenv.Run(t, "git", "clone", "--quiet", "file://"+testenv.Root(t), clone)
	cmd := exec.Command("sh", "-c", `umask 077 && exec "$0" "$@"`, filepath.Join(clone, "deploy/package/build"), "--out", filepath.Join(dir, "out"))
	cmd.Env = append(os.Environ(), "TZ=Asia/Tokyo", "LC_ALL=C", "LUKSGATE_DIST_GOCACHE=")
	// Two minutes are usual.
	if r := testenv.RunWithin(t, 15*time.Minute, cmd); r.ExitCode != 0 {
		t.Fatalf("the second build has failed:\n%s", r)
	}
	again, err := os.ReadFile(filepath.Join(dir, "out", "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(d.Dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if string(first) != string(again) {
		t.Errorf("the same commit gave other bytes (or %s is of another commit)\nfirst\n%s\nthen\n%s", d.Dir, first, again)
	}
}
