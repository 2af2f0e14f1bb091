// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"

	"github.com/luksgate/luksgate/bench/result"
)

// HTML writes one self-contained page.
func HTML(w io.Writer, d *result.Document) error { return nil }
