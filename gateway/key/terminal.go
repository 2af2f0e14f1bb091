// SPDX-License-Identifier: Apache-2.0

package key

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/luksgate/luksgate/crypt/secret"
)

// Terminal asks a person.
type Terminal struct {
	// In is the terminal, Out where the question goes, Question what it is.
	In       *os.File
	Out      io.Writer
	Question string
	// Twice asks again and compares, for a new passphrase, which nobody could see being mistyped.
	Twice bool
}

// String implements Source.
func (t Terminal) String() string { return "the terminal" }

// Passphrase implements Source.
func (t Terminal) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	first, err := t.ask(ctx, t.Question)
	if err != nil || !t.Twice {
		return first, err
	}
	again, err := t.ask(ctx, t.Question+", again")
	if err == nil && !again.Equal(first) {
		err = fmt.Errorf("%s: the two passphrases differ", t)
	}
	again.Release()
	if err != nil {
		first.Release()
		return nil, err
	}
	return first, nil
}

// ask reads one line without showing it. If ctx ends first, the terminal shows again what is typed, and one goroutine is
// left reading: the program is about to end.
func (t Terminal) ask(ctx context.Context, question string) (*secret.Bytes, error) {
	fd := int(t.In.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	type answer struct {
		typed []byte
		err   error
	}
	done := make(chan answer, 1)
	fmt.Fprintf(t.Out, "%s: ", question)
	go func() {
		typed, err := term.ReadPassword(fd)
		done <- answer{typed, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		_ = term.Restore(fd, before)
		a.err = ctx.Err()
	}
	fmt.Fprintln(t.Out)
	if a.err != nil {
		return nil, fmt.Errorf("%s: %w", t, a.err)
	}
	defer secret.Wipe(a.typed)
	if len(a.typed) == 0 {
		return nil, fmt.Errorf("%s: no passphrase was typed", t)
	}
	return secret.Copy(a.typed)
}
