// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"

	"github.com/luksgate/luksgate/crypt/secret"
)

// Verify is verify, for tests that have the volume key and no passphrase.
func (h *Header) Verify(ctx context.Context, key *secret.Bytes) (bool, error) {
	return h.verify(ctx, key)
}
