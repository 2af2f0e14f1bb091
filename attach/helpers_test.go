// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

const schemas = "/usr/share/libvirt/schemas"

// validate runs documents through libvirt's schema, all in one run of xmllint, which compiles the schema first.
func validate(t *testing.T, schema string, documents map[string]string) {
	t.Helper()
	xmllint := testenv.Tool(t, "xmllint")
	rng := filepath.Join(schemas, schema)
	if _, err := os.Stat(rng); err != nil {
		testenv.Missing(t, "no libvirt schema: %v (it comes with libvirt-daemon-system or libvirt0)", err)
	}
	dir := t.TempDir()
	args := []string{"--noout", "--relaxng", rng}
	for name, document := range documents {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_")+".xml")
		if err := os.WriteFile(path, []byte(document), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(xmllint, args...).CombinedOutput()
	if err != nil || strings.Count(string(out), " validates\n") != len(documents) {
		t.Errorf("xmllint: %v\n%s", err, out)
	}
}

// domainWith wraps disks in the smallest domain that the schema accepts.
func domainWith(disks string) string {
	return `<domain type="kvm"><name>t</name><memory>1048576</memory><os><type arch="x86_64">hvm</type></os><devices>` +
		disks + `</devices></domain>`
}
