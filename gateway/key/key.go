// SPDX-License-Identifier: Apache-2.0

// Package key gets passphrases from where the operator keeps them.
package key

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/luksgate/luksgate/crypt/secret"
)

// maxBytes is the longest passphrase: cryptsetup's limit for key files.
const maxBytes = 8 << 20

// A Source has one passphrase.
type Source interface {
	// Passphrase fetches it. The caller releases it. The error names the source and never its content.
	Passphrase(ctx context.Context) (*secret.Bytes, error)
	// String names the source for messages.
	String() string
}

// File is a passphrase in a file: all its bytes, as they are.
type File string

// String implements Source.
func (f File) String() string { return "key file " + string(f) }

// Passphrase implements Source.
func (f File) Passphrase(context.Context) (*secret.Bytes, error) {
	r, err := os.Open(string(f))
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	defer func() { _ = r.Close() }()
	return read(f, r)
}

// FD is a passphrase on an inherited file descriptor, read to its end once.
type FD int

// String implements Source.
func (f FD) String() string { return fmt.Sprintf("key file descriptor %d", int(f)) }

// Passphrase implements Source.
func (f FD) Passphrase(context.Context) (*secret.Bytes, error) {
	r := os.NewFile(uintptr(f), f.String())
	if r == nil {
		return nil, fmt.Errorf("%s: not a file descriptor", f)
	}
	defer func() { _ = r.Close() }()
	return read(f, r)
}

func read(s Source, r io.Reader) (*secret.Bytes, error) {
	b, err := secret.ReadAll(r, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	if b.Len() == 0 {
		b.Release()
		return nil, fmt.Errorf("%s: it is empty", s)
	}
	return b, nil
}

// TrimNewline is a source without one newline at its end: for files made for rbd tools older than Reef, which ignored it.
type TrimNewline struct{ Source }

// Passphrase implements Source.
func (t TrimNewline) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	b, err := t.Source.Passphrase(ctx)
	if err != nil || !EndsInNewline(b) {
		return b, err
	}
	defer b.Release()
	if b.Len() == 1 {
		return nil, fmt.Errorf("%s: it is empty but for a newline", t.Source)
	}
	return secret.Copy(b.Bytes()[:b.Len()-1])
}

// EndsInNewline tells whether a wrong passphrase may be one with a newline too many.
func EndsInNewline(b *secret.Bytes) bool { return b.Len() > 0 && b.Bytes()[b.Len()-1] == '\n' }
