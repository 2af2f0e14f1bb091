// SPDX-License-Identifier: Apache-2.0

// Package peers are other programs that are measured beside luksgate where they are installed. `luksgate bench` starts them
// with --peers only.
package peers

import (
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/gateway/image"
)

// For are the programs that can be measured on images of a scheme.
func For(scheme image.Scheme) []lab.Peer {
	return nil
}
