// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HardenProcess forbids core dumps of this process and its attachment by other processes of the same user: it clears the
// dumpable flag (prctl(2), PR_SET_DUMPABLE) and sets RLIMIT_CORE to 0. It cannot be undone; call it first in main. A side
// effect of the flag: /proc/self belongs to root afterwards.
func HardenProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("secret: clear the dumpable flag: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("secret: set RLIMIT_CORE to 0: %w", err)
	}
	return nil
}
