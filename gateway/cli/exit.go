// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/image"
)

// Exit codes. They are a contract (luksgate(1), EXIT STATUS): a number is never given another meaning.
const (
	exitOK              = 0
	exitGeneral         = 1
	exitUsage           = 2
	exitWrongPassphrase = 3
	exitNotLUKS         = 4
	exitUnreachable     = 5
	exitBusy            = 6
)

// exitCode is the code for the error of a command.
func exitCode(err error) int {
	var usage *gateway.UsageError
	var mistakes *config.Errors
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), errors.As(err, &mistakes), errors.Is(err, api.ErrInvalid), errors.Is(err, image.ErrRef):
		return exitUsage
	case errors.Is(err, luks.ErrWrongPassphrase):
		return exitWrongPassphrase
	case errors.Is(err, luks.ErrNotLUKS), errors.Is(err, luks.ErrUnsupported), errors.Is(err, luks.ErrDamaged),
		errors.Is(err, luks.ErrLimit):
		return exitNotLUKS
	case errors.Is(err, image.ErrUnreachable), errors.Is(err, api.ErrNotRunning):
		return exitUnreachable
	case errors.Is(err, image.ErrBusy), errors.Is(err, api.ErrConflict):
		return exitBusy
	default:
		return exitGeneral
	}
}
