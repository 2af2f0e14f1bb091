// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// TestNothingPrintsAKey runs a daemon at its most talkative through opens that succeed and opens that fail in every key
// source, and looks for the passphrase, in every form that it had, in all that can be read of the daemon.
func TestNothingPrintsAKey(t *testing.T) {
	const passphrase = "tr0ub4dor-and-3-unusual"
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20), Passphrase: []byte(passphrase)})
	other := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20), Passphrase: []byte("something else")})
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			w.WriteHeader(500)
			fmt.Fprintf(w, `{"errors": [], "data": {"data": {"passphrase": %q}}}`, passphrase)
			return
		}
		fmt.Fprintf(w, `{"data": {"data": {"passphrase": %q}, "metadata": {"created_time": "2026-01-02T03:04:05Z", "version": 1}}}`, passphrase)
	}))
	defer fake.Close()
	token := testenv.WriteFile(t, filepath.Join(t.TempDir(), "token"), []byte("s.token-"+passphrase))
	keys := map[string]string{
		"file":    "{file: " + luks.PassphrasePath + "}",
		"command": `{command: [/bin/cat, ` + luks.PassphrasePath + `]}`,
		"fails":   `{command: [/bin/sh, -c, "cat ` + luks.PassphrasePath + `; cat ` + luks.PassphrasePath + ` >&2; exit 1"]}`,
		"vault":   "{vault: {path: a}}",
		"broken":  "{vault: {path: broken}, timeout: 2s}",
		"libvirt": "{libvirt_secret: {usage: x}}",
	}
	conf := fmt.Sprintf("log: {level: debug, format: json}\nlibvirt: {socket: DIR/none}\nvault: {address: %q, token_file: %s}\nexports:\n", fake.URL, token)
	for name, key := range keys {
		for kind, path := range map[string]string{"good": luks.Path, "wrong": other.Path} {
			conf += fmt.Sprintf("  - {name: %s-%s, image: \"file:%s\", socket: DIR/%s-%s.sock, key: %s, close_after: 0s}\n",
				name, kind, path, name, kind, key)
		}
	}
	d := serveDaemon(t, conf)
	nbdinfo := testenv.Tool(t, "nbdinfo")
	var seen strings.Builder
	for name := range keys {
		good := testenv.Try(t, nbdinfo, d.uri(name+"-good", name+"-good.sock"))
		wrong := testenv.Try(t, nbdinfo, d.uri(name+"-wrong", name+"-wrong.sock"))
		works := name == "file" || name == "command" || name == "vault"
		if (good.ExitCode == 0) != works || wrong.ExitCode == 0 {
			t.Errorf("%s: works is %v\n%s\n%s", name, works, good, wrong)
		}
		fmt.Fprintln(&seen, good, wrong)
	}
	if e := d.export("file-wrong"); e.State != api.StateFailed || !strings.Contains(e.Error, "no keyslot") {
		t.Errorf("file-wrong: %+v", e)
	}
	for _, verb := range [][]string{{"ls"}, {"ls", "--json"}, {"stats"}, {"stats", "--json"}, {"reload", "--json"}} {
		fmt.Fprintln(&seen, d.must(verb...))
	}
	_, metrics := d.get("/metrics")
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(d.PID()) + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	d.stop()
	seen.WriteString(metrics + string(cmdline) + d.Output())
	for form, text := range map[string]string{
		"itself": passphrase, "hex": hex.EncodeToString([]byte(passphrase)), "base64": base64.StdEncoding.EncodeToString([]byte(passphrase)),
		"quoted": strconv.Quote(passphrase)[1:10], "bytes": fmt.Sprintf("%d", []byte(passphrase))[1:30],
	} {
		if i := strings.Index(seen.String(), text); i >= 0 {
			t.Errorf("the passphrase (%s) is printed: ...%s", form, seen.String()[max(0, i-200):i])
		}
	}
}
