// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// SecretOptions describe a libvirt secret. It never holds the value: that goes to libvirt by a command of its own.
type SecretOptions struct {
	// Kind is "ceph" for the key of a ceph user, or "passphrase" for that of an image (--kind). Required.
	Kind string
	// Usage is the name by which XML may refer to the secret (--usage): for ceph any name without a slash, such as
	// "client.libvirt secret"; for a passphrase an absolute path, such as /rbd/POOL/IMAGE. Required.
	Usage string
	// UUID is the secret's identity (--uuid). Required, so that the commands can name it and every host has the same.
	UUID string
	// Description is for people (--description).
	Description string
	// Ephemeral secrets are lost when libvirtd ends (--ephemeral).
	Ephemeral bool
	// Private values never leave libvirtd (--private): then the gateway cannot read them either, only a qemu that
	// libvirt starts.
	Private bool
	// Libvirt is the version that the commands are for (--libvirt); default 6.0.
	Libvirt Version
}

var uuidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// SecretXML returns the <secret> element for `virsh secret-define`, with a newline at its end.
func SecretXML(opts SecretOptions) (string, error) {
	if err := opts.check(); err != nil {
		return "", fmt.Errorf("attach: secret: %w", err)
	}
	secret := libvirtxml.Secret{
		Ephemeral: yesNo(opts.Ephemeral), Private: yesNo(opts.Private),
		Description: opts.Description, UUID: strings.ToLower(opts.UUID),
		Usage: &libvirtxml.SecretUsage{Type: "ceph", Name: opts.Usage},
	}
	if opts.Kind == "passphrase" {
		secret.Usage = &libvirtxml.SecretUsage{Type: "volume", Volume: opts.Usage}
	}
	text, err := secret.Marshal()
	if err != nil {
		return "", fmt.Errorf("attach: secret: %w", err)
	}
	return selfClose(text) + "\n", nil
}

// SecretCommands returns the shell lines that define the secret from xmlFile and set its value from valueFile. For a
// ceph secret valueFile holds the key as `ceph auth get-key` prints it, for a passphrase its bytes as they are.
//
// The virsh of libvirt 6.0 takes a value only as an argument, which every user of the host can read in the process
// list; there the line hands it to virsh's standard input, by a shell builtin, and turns off virsh's history file and the
// echo of its input, both of which would keep the value.
func SecretCommands(opts SecretOptions, xmlFile, valueFile string) ([]string, error) {
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("attach: secret: %w", err)
	}
	for _, file := range []string{xmlFile, valueFile} {
		if file == "" || !printable(file) {
			return nil, fmt.Errorf("attach: secret: file name %q: want UTF-8 text without control characters", file)
		}
	}
	uuid := strings.ToLower(opts.UUID)
	// A ceph key is base64 already; libvirt decodes it and encodes it again for qemu.
	encoded := "base64 -w0 < " + shellQuote(valueFile)
	if opts.Kind == "ceph" {
		encoded = "tr -d '\\n' < " + shellQuote(valueFile)
	}
	set := fmt.Sprintf(`printf 'secret-set-value --secret %s --base64 %%s\n' "$(%s)" | VIRSH_HISTSIZE=0 virsh -q > /dev/null`, uuid, encoded)
	if opts.Libvirt.or(OldestLibvirt).AtLeast(libvirtSecretFile) {
		plain := ""
		if opts.Kind == "passphrase" {
			plain = "--plain "
		}
		set = fmt.Sprintf("virsh secret-set-value --secret %s %s--file %s", uuid, plain, shellQuote(valueFile))
	}
	return []string{"virsh secret-define --file " + shellQuote(xmlFile), set}, nil
}

// libvirtSecretFile is the oldest libvirt on which virsh was seen to read secret values from files.
var libvirtSecretFile = Version{9, 0, 0}

func (o *SecretOptions) check() error {
	switch {
	case o.Kind != "ceph" && o.Kind != "passphrase":
		return fmt.Errorf("--kind %q: want ceph or passphrase", o.Kind)
	case !uuidText.MatchString(o.UUID):
		return fmt.Errorf("--uuid %q: want a UUID such as `uuidgen` prints", o.UUID)
	case o.Usage == "" || !printable(o.Usage) || len(o.Usage) > 4096:
		return fmt.Errorf("--usage %q: want UTF-8 text without control characters", o.Usage)
	case o.Kind == "ceph" && strings.Contains(o.Usage, "/"):
		return fmt.Errorf("--usage %q: the name of a ceph secret has no slash", o.Usage)
	case o.Kind == "passphrase" && (!strings.HasPrefix(o.Usage, "/") || o.Usage == "/"):
		return fmt.Errorf("--usage %q: a passphrase is used by an absolute path, such as /rbd/POOL/IMAGE", o.Usage)
	case !printable(o.Description):
		return errors.New("--description: want UTF-8 text without control characters")
	}
	return nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
