// SPDX-License-Identifier: Apache-2.0

package key

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/luksgate/luksgate/crypt/secret"
)

// ErrUnavailable says that a source does not answer now and may later.
var ErrUnavailable = errors.New("the key source does not answer")

// SharedFD is a passphrase in a file that was inherited open and is read from its start each time. A pipe has it once.
type SharedFD int

// String implements Source.
func (f SharedFD) String() string { return fmt.Sprintf("key file descriptor %d", int(f)) }

// Passphrase implements Source.
func (f SharedFD) Passphrase(context.Context) (*secret.Bytes, error) {
	// Opened anew, it has an offset of its own. A pipe that nobody writes to any more must not block.
	fd, err := syscall.Open(fmt.Sprintf("/proc/self/fd/%d", int(f)), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, syscall.ENOENT) {
		err = syscall.EBADF
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	r := os.NewFile(uintptr(fd), f.String())
	defer func() { _ = r.Close() }()
	b, err := read(f, r)
	if err != nil {
		return nil, fmt.Errorf("%w; a pipe can be read only once", err)
	}
	return b, nil
}

// Credential is a passphrase in a credential that systemd passed to the service (LoadCredential=).
type Credential string

// String implements Source.
func (c Credential) String() string { return "credential " + string(c) }

// Passphrase implements Source.
func (c Credential) Passphrase(context.Context) (*secret.Bytes, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fmt.Errorf("%s: systemd passed no credentials: add LoadCredential=%s:PATH to the unit", c, string(c))
	}
	if string(c) != filepath.Base(string(c)) || c == ".." || c == "." {
		return nil, fmt.Errorf("%s: not the name of a credential", c)
	}
	r, err := os.Open(filepath.Join(dir, string(c)))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: systemd passed no such one: add LoadCredential=%s:PATH to the unit", c, string(c))
		}
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	defer func() { _ = r.Close() }()
	return read(c, r)
}
