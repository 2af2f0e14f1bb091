// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

var (
	cephSecret = SecretOptions{Kind: "ceph", Usage: "client.libvirt secret", UUID: "0A81F5B2-8403-4B23-A2DE-0E5B2D9B7F1C",
		Description: "key of client.libvirt"}
	passphraseSecret = SecretOptions{Kind: "passphrase", Usage: "/rbd/vms/web1", UUID: "7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c",
		Private: true, Ephemeral: true}
)

func TestSecret(t *testing.T) {
	documents := map[string]string{}
	for name, opts := range map[string]SecretOptions{"ceph": cephSecret, "passphrase": passphraseSecret} {
		text, err := SecretXML(opts)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "secret-"+name+".xml", text)
		documents[name] = text
		for version, v := range map[string]Version{"6.0": {}, "9.0": {9, 0, 0}} {
			opts.Libvirt = v
			lines, err := SecretCommands(opts, "secret.xml", "it's.key")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "secret-"+name+"-"+version+".sh", strings.Join(lines, "\n")+"\n")
		}
	}
	systems(t, func(t *testing.T, s testenv.System) { s.ValidateXML(t, "secret.rng", documents) })
}

// The lines give virsh the value without an argument, a history entry or an echo that holds it.
func TestSecretCommandsKeepTheValue(t *testing.T) {
	testenv.Tool(t, "sh")
	dir := t.TempDir()
	value := "correct horse\n"
	valueFile := filepath.Join(dir, "it's.key")
	if err := os.WriteFile(valueFile, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	// A virsh that keeps what it is given.
	virsh := `#!/bin/sh
echo "argv: $*" >> "$DIR/log"
echo "histsize: $VIRSH_HISTSIZE" >> "$DIR/log"
case "$1" in
secret-define) ;;
secret-set-value) for a; do last=$a; done; cat "$last" > "$DIR/stdin" ;;
*) cat > "$DIR/stdin"; cat "$DIR/stdin" ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "virsh"), []byte(virsh), 0o755); err != nil {
		t.Fatal(err)
	}
	for kind, opts := range map[string]SecretOptions{"ceph": cephSecret, "passphrase": passphraseSecret} {
		for _, version := range []Version{{}, {9, 0, 0}} {
			opts.Libvirt = version
			lines, err := SecretCommands(opts, "x.xml", valueFile)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-ec", strings.Join(lines, "\n"))
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "DIR="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil || len(out) != 0 {
				t.Fatalf("%s %v: %v\n%s", kind, version, err, out)
			}
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			got, _ := os.ReadFile(filepath.Join(dir, "stdin"))
			if strings.Contains(string(log), "correct") || strings.Contains(string(log), "Y29ycmVjd") {
				t.Errorf("%s %v: the value is among the arguments:\n%s", kind, version, log)
			}
			want := map[string]string{"ceph": "correct horse", "passphrase": "Y29ycmVjdCBob3JzZQo="}[kind]
			if version.Major == 9 {
				want = value
			}
			if !strings.Contains(string(got), want) {
				t.Errorf("%s %v: virsh got %q, want %q in it", kind, version, got, want)
			}
			if version.Major != 9 && !strings.Contains(string(log), "histsize: 0") {
				t.Errorf("%s %v: virsh would keep a history:\n%s", kind, version, log)
			}
			os.Remove(filepath.Join(dir, "log"))
		}
	}
}

func TestSecretRefuses(t *testing.T) {
	for want, change := range map[string]func(*SecretOptions){
		"--kind":        func(o *SecretOptions) { o.Kind = "tls" },
		"--uuid":        func(o *SecretOptions) { o.UUID = "x" },
		"--usage":       func(o *SecretOptions) { o.Usage = "" },
		"no slash":      func(o *SecretOptions) { o.Usage = "a/b" },
		"absolute":      func(o *SecretOptions) { o.Kind = "passphrase" },
		"--description": func(o *SecretOptions) { o.Description = "a\x01" },
	} {
		opts := cephSecret
		change(&opts)
		if _, err := SecretXML(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that names %s", err, want)
		}
		if _, err := SecretCommands(opts, "a", "b"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that names %s", err, want)
		}
	}
	if _, err := SecretCommands(cephSecret, "a\n", "b"); err == nil {
		t.Error("a file name with a newline was accepted")
	}
}
