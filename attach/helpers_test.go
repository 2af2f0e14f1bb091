// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file under testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// systems are those whose programs judge what is printed: this machine's, and the oldest that a Debian has (libvirt 7.0 and
// qemu 5.2). A test runs as a subtest on each.
func systems(t *testing.T, test func(t *testing.T, s testenv.System)) {
	t.Run("here", func(t *testing.T) { test(t, testenv.Here(t)) })
	t.Run("bullseye", func(t *testing.T) { test(t, testenv.Chroot(t, "bullseye")) })
}

// domainWith wraps a disk in the smallest domain that the schema accepts. Its name is made of n.
func domainWith(n int, disks string) string {
	return fmt.Sprintf(`<domain type="kvm"><name>t%d</name>`, n) + `<memory>1048576</memory><os><type arch="x86_64">hvm</type></os><devices>` +
		disks + `</devices></domain>`
}
