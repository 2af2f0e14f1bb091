// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// TestServeHeaderAndKDFLimit serves an image whose header is a file of its own, with a key derivation that one of two
// exports does not allow.
func TestServeHeaderAndKDFLimit(t *testing.T) {
	dir := t.TempDir()
	data := testenv.WriteFile(t, filepath.Join(dir, "data"), make([]byte, 4<<20))
	key := testenv.WriteFile(t, filepath.Join(dir, "key"), []byte("passphrase"))
	header := filepath.Join(dir, "header")
	r := luksgate(t, "format", "file:"+data, "--type", "luks2", "--header", header, "--key-file", key, "--yes",
		"--kdf-memory", "64M", "--kdf-passes", "4", "--kdf-threads", "1")
	if r.ExitCode != 0 {
		t.Fatal(r)
	}
	const export = "  - {name: %s, image: \"file:%s\", header: %s, socket: DIR/%[1]s.sock, key: {file: %[4]s}, close_after: 0s, kdf_memory_limit: %[5]s}\n"
	d := serveDaemon(t, "exports:\n"+fmt.Sprintf(export, "enough", data, header, key, "64M")+fmt.Sprintf(export, "little", data, header, key, "63M"))
	if size := testenv.Run(t, "nbdinfo", "--size", d.uri("enough", "enough.sock")); strings.TrimSpace(size) != "4194304" {
		t.Errorf("size %s", size)
	}
	d.wait("its image is closed", func() bool { return d.export("enough").State == api.StateClosed })
	if r := testenv.Try(t, "nbdinfo", d.uri("little", "little.sock")); r.ExitCode == 0 {
		t.Errorf("a derivation beyond the limit was done: %s", r)
	}
	if e := d.export("little"); !strings.Contains(e.Error, "64 MiB") {
		t.Errorf("little: %+v", e)
	}
	d.stop()
}
