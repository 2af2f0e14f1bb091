// SPDX-License-Identifier: Apache-2.0

//go:build noceph

package rbd

import "github.com/luksgate/luksgate/gateway/image"

// Create is never reached.
func (*Cluster) Create(image.Ref, int64, image.Ref) error { panic("BUG: no cluster in this build") }

// Remove is never reached.
func (*Cluster) Remove(image.Ref) error { panic("BUG: no cluster in this build") }
