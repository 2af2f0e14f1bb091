// SPDX-License-Identifier: Apache-2.0

//go:build noceph

package rbd

import "errors"

// Features tells that there is no librbd.
func Features() ([]Feature, error) { return optionalFunctions, errors.ErrUnsupported }

// FSID is never reached.
func (*Cluster) FSID() (string, error) { panic("BUG: no cluster in this build") }

// Caps is never reached.
func (*Cluster) Caps(string) (map[string]string, error) { panic("BUG: no cluster in this build") }
