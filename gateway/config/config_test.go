// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/luksgate/luksgate/gateway/config"
)

func TestExampleIsValid(t *testing.T) {
	c, err := config.Parse("example", []byte(config.Example))
	if err != nil {
		t.Fatal(err)
	}
	// The limits of the example are said to be the defaults, so an empty file must come to the same.
	if len(c.Exports) != 7 || c.Exports[0].Ceph.User != "libvirt" || c.Exports[0].CloseDelay() != 30*time.Second {
		t.Errorf("unexpected: %+v", c.Exports[0])
	}
	if c.Exports[0].Access.Mode != 0o660 || c.Exports[0].Access.Group != "libvirt-qemu" {
		t.Errorf("socket access: %+v", c.Exports[0].Access)
	}
}

func TestEmptyIsAllDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "exports:\n", "{}"} {
		c, err := config.Parse("empty", []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if c.Admin.Socket != config.DefaultAdminSocket || c.Log.Level != "info" {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

// TestKeyTimeouts are those of the key, of its server, of every key.
func TestKeyTimeouts(t *testing.T) {
	c, err := config.Parse("f", []byte("vault: {address: https://v, token_file: /t, timeout: 3s}\nexports:\n"+
		"  - {name: a, image: file:/a, socket: /a, key: {vault: {path: a}}}\n"+
		"  - {name: b, image: file:/b, socket: /b, key: {vault: {path: b}, timeout: 5s}}\n"+
		"  - {name: c, image: file:/c, socket: /c, key: {file: /k}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Duration{3 * time.Second, 5 * time.Second, config.DefaultKeyTimeout} {
		if got := time.Duration(c.Exports[i].Keys[0].Timeout); got != want {
			t.Errorf("%s: %v, expected %v", c.Exports[i].Name, got, want)
		}
	}
}

// TestMistakes holds messages against what a person needs: the line, the key, what to do.
func TestMistakes(t *testing.T) {
	export := "exports:\n  - name: a\n    image: file:/a\n    socket: /s\n    key: {file: /k}\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "admin:\n  sokcet: /x\n", `line 2: admin: unknown key "sokcet"; did you mean "socket"?`},
		{"dash", "exports:\n  - name: a\n    read-only: true\n", `line 3: exports[0]: unknown key "read-only"; did you mean "read_only"?`},
		{"nothing near", "zzz: 1\n", `line 1: unknown key "zzz"; expected one of: admin,`},
		{"twice", "log:\n  level: info\n  level: warn\n", `line 3: log: key "level" for the second time; the first is on line 2`},
		{"kind", "limits:\n  connections: many\n", `line 2: limits.connections: expected a number, found "many"`},
		{"bool", export + "    read_only: perhaps\n", `line 6: exports[0].read_only: expected true or false`},
		{"number for text", "exports:\n  - name: 12\n", "line 2: exports[0].name: expected a text, found 12; put it in quotes"},
		{"list", "exports:\n  name: a\n", "line 2: exports: expected a list"},
		{"duration", "limits:\n  stall: 5\n", `line 2: limits.stall: "5" is no duration`},
		{"poll", "limits:\n  poll: 2ms\n", "line 2: limits.poll: 2ms: expected 0s (not at all) to 1ms"},
		{"size", "limits:\n  buffers: 5 GB\n", `line 2: limits.buffers: "5 GB" is no size`},
		{"mode", "admin:\n  mode: 0888\n", `line 2: admin.mode: "0888" is no mode`},
		{"syntax", "log:\n  level: [\n", "not YAML"},
		{"two documents", "log: {}\n---\nlog: {}\n", "a second document begins"},
		{"alias", "log: &a {}\nadmin: *a\n", "anchors and aliases"},
		{"no socket", "exports:\n  - name: a\n    image: mem:1M\n", "line 2: exports[0]: nobody can reach this export"},
		{"no key", "exports:\n  - name: a\n    image: file:/a\n    socket: /s\n", "line 2: exports[0]: key is missing"},
		{"two sources", "exports:\n  - name: a\n    image: file:/a\n    socket: /s\n    key: {file: /k, fd: 3}\n", "line 5: exports[0].key: file and fd exclude each other"},
		{"no source", "exports:\n  - name: a\n    image: file:/a\n    socket: /s\n    key: {trim_newline: true}\n", "expected one of file, fd,"},
		{"same name", export + "  - name: a\n    image: mem:1M\n    socket: /t\n", `line 6: exports[1].name: there is an export "a" already`},
		{"same socket", export + "  - name: b\n    image: mem:1M\n    socket: /s\n", "line 8: exports[1].socket: the socket /s is that of exports[0].socket already"},
		{"relative", "exports:\n  - name: a\n    image: mem:1M\n    socket: s\n", "is no absolute path"},
		{"image", "exports:\n  - name: a\n    image: volumes/vm1\n    socket: /s\n", "line 3: exports[0].image:"},
		{"relative header", export + "    header: h\n", `line 6: exports[0].header: "h" is no absolute path`},
		{"header and engine", export + "    header: /h\n    engine: librbd\n", "line 6: exports[0].header: librbd's engine knows no detached headers"},
		{"kdf memory", export + "    kdf_memory_limit: 5G\n", "line 6: exports[0].kdf_memory_limit: 5368709120: expected 0"},
		{"images per connection", "defaults:\n  ceph: {images_per_connection: -1}\n" + export, "images_per_connection: -1: expected 0"},
		{"engine", export + "    engine: magic\n", `line 6: exports[0].engine: "magic": expected auto, native, librbd`},
		{"vault with two tokens", "vault: {address: https://v, token: {credential: c}, token_file: /t}\n", "give one of token, token_file and approle"},
		{"vault's token in vault", "vault:\n  address: https://v\n  token: {vault: {path: a}}\n", "cannot be in Vault itself"},
		{"vault without server", "exports:\n  - name: a\n    image: file:/a\n    socket: /s\n    key: {vault: {path: a}}\n", "no Vault server is configured"},
		{"vault in the clear", "vault: {address: \"http://vault.example.com\", token_file: /t}\n", "expected https://"},
		{"TLS on unix", "listen:\n  - socket: /s\n    tls: {certificate: /c, key: /k}\n", "line 3: listen[0].tls: TLS on a unix socket"},
		{"address", "metrics: {address: localhost}\n", "expected HOST:PORT"},
		{"long name", "exports:\n  - name: " + strings.Repeat("x", 300) + "\n    image: mem:1M\n    socket: /s\n", "300 bytes"},
	} {
		_, err := config.Parse("f", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), "f: "+c.want) && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := config.Parse("f", []byte("a: 1\nb: 2\nlog:\n  c: 3\n"))
	var errs *config.Errors
	if !errors.As(err, &errs) || len(errs.All) != 3 || errs.All[2].Line != 4 {
		t.Errorf("got %v", err)
	}
}

func TestParseExport(t *testing.T) {
	c, err := config.Parse("f", []byte("defaults: {close_after: 5s}\nexports:\n  - {name: a, image: 'mem:1M', socket: /s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.ParseExport([]byte(`{"name": "b", "image": "file:/x", "socket": "/t", "key": {"file": "/k"}}`))
	if err != nil || e.CloseDelay() != 5*time.Second || len(e.Keys) != 1 || e.Keys[0].File != "/k" {
		t.Errorf("got %+v, %v", e, err)
	}
	for text, want := range map[string]string{
		`{"name": "a", "image": "mem:1M", "socket": "/t"}`: `name: there is an export "a" already`,
		`{"name": "b", "image": "mem:1M", "socket": "/s"}`: "socket: the socket /s is that of",
		`{"names": "b"}`: `did you mean "name"`,
	} {
		if _, err := c.ParseExport([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	if len(c.Exports) != 1 {
		t.Error("ParseExport changed the configuration")
	}
}

// TestBridgeOutput reads what `luksgate xml to-gateway` writes.
func TestBridgeOutput(t *testing.T) {
	files, err := filepath.Glob("../../attach/bridge/testdata/golden/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files of the bridge: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := config.Parse(name, text); err != nil || len(c.Exports) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWritten makes sure that what is written by us can be read by us, with the same meaning.
func TestWritten(t *testing.T) {
	c, err := config.Parse("f", []byte(config.Example))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Exports {
		text, err := yaml.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		without := *c
		without.Exports = nil
		back, err := without.ParseExport(text)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		if again, _ := yaml.Marshal(back); string(again) != string(text) {
			t.Errorf("wrote\n%s\nread\n%s", text, again)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(config.Example))
	f.Add([]byte("exports:\n- name: a\n  key: {file: /k}\n"))
	f.Add([]byte("admin: &a\n  mode: *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse("f", text)
		var errs *config.Errors
		if err == nil && c == nil || err != nil && !errors.As(err, &errs) {
			t.Fatalf("%v, %v", c, err)
		}
		if errs != nil {
			for _, e := range errs.All {
				if e.Line < 0 || e.Line > strings.Count(string(text), "\n")+2+strings.Count(string(text), "\r")+strings.Count(string(text), "\u0085")+strings.Count(string(text), "\u2028")+strings.Count(string(text), "\u2029") {
					t.Errorf("line %d of a text with fewer: %v", e.Line, e)
				}
			}
		}
	})
}
