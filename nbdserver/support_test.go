// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// testsIn are the tests of a folder.
func testsIn(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
			tests[string(m[1])] = true
		}
	}
	return tests
}

// TestSupportTableNamesTestsThatExist keeps docs/nbd-support.md honest, in both directions: it names no test that exists
// neither here nor where the program is tested, and every test of the protocol is in it.
func TestSupportTableNamesTestsThatExist(t *testing.T) {
	table, err := os.ReadFile("../docs/nbd-support.md")
	if err != nil {
		t.Fatal(err)
	}
	here, elsewhere := testsIn(t, "."), map[string]bool{}
	for _, folder := range []string{"../gateway", "../gateway/access", "../gateway/cli", "../gateway/image/file", "../gateway/layered"} {
		maps.Copy(elsewhere, testsIn(t, folder))
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAll(table, -1) {
		named[string(m)] = true
		if !here[string(m)] && !elsewhere[string(m)] {
			t.Errorf("docs/nbd-support.md names %s, which does not exist", m)
		}
	}
	if len(named) < 50 {
		t.Errorf("only %d tests are named", len(named))
	}
	for name := range here {
		if !named[name] && !aboutTheTable[name] {
			t.Errorf("%s proves something that docs/nbd-support.md does not tell", name)
		}
	}
}

// aboutTheTable are tests that prove no feature.
var aboutTheTable = map[string]bool{
	"TestSupportTableNamesTestsThatExist": true,
	"TestExportIsOpenedOnceForItsOptions": true,
}
