// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
)

// Engine is who decrypts.
type Engine string

// The engines. Auto is native wherever native can.
const (
	EngineAuto   Engine = "auto"
	EngineNative Engine = "native"
	EngineLibrbd Engine = "librbd"
)

// Config says what to export and how.
type Config struct {
	Image image.Ref
	Key   key.Source // nil: there is none
	// ParentKeys are for the parents of a clone, nearest first; the last key of all serves for the further ones too.
	ParentKeys []key.Source
	// Header is the file of a detached header; "": the header is in the image.
	Header string
	// KDFMemoryLimitBytes is the most memory that a key derivation may use; 0 is kdf.DefaultMemoryLimitBytes.
	KDFMemoryLimitBytes uint64
	ReadOnly            bool
	// Plain serves the image's bytes as they are.
	Plain  bool
	Engine Engine
	Lock   rbd.LockMode
	// Takeover breaks another client's exclusive lock.
	Takeover bool
	// Standby opens the image beside the process that uses it: nothing is taken that Lock asks for, and nothing may be
	// written until Export.Hold has done that.
	Standby bool
	// ShareParents is for a process that has many images open: clones of one snapshot open it once for all, on a connection
	// of its own. Each needs the snapshot's key all the same.
	ShareParents bool
	Holes        volume.Holes
	Zeroes       volume.Zeroes
	Ceph         rbd.Config
	// Observer is told what opening and using the image takes; nil is nobody.
	Observer Observer
	// Logger gets warnings; nil discards them.
	Logger *slog.Logger
}

// check refuses what cannot go together, before anything is opened.
func (c *Config) check() error {
	switch c.Engine {
	case EngineAuto, EngineNative:
	case EngineLibrbd:
		if c.Image.Scheme != image.RBD {
			return NewUsageError("%s: --engine librbd is for rbd: images only", c.Image)
		}
		if c.Plain {
			return NewUsageError("%s: --plain and --engine librbd exclude each other", c.Image)
		}
		if c.Holes != volume.HolesZero {
			return NewUsageError("%s: --holes decrypt is for the native engine only", c.Image)
		}
	default:
		return NewUsageError("engine %q: expected auto, native or librbd", c.Engine)
	}
	if c.Header != "" && (c.Plain || c.Engine == EngineLibrbd || c.Image.Scheme == image.Mem) {
		return NewUsageError("%s: a detached header is for images that luksgate decrypts: not with --plain, --engine librbd or mem:", c.Image)
	}
	if len(c.ParentKeys) > 0 && (c.Key == nil || c.Plain || c.Image.Scheme != image.RBD) {
		return NewUsageError("%s: further keys are for the parents of encrypted clones in RBD", c.Image)
	}
	if !slices.Contains(rbd.LockModes, c.Lock) {
		return NewUsageError("lock mode %q: expected cooperative, exclusive or none", c.Lock)
	}
	if c.Takeover && (c.ReadOnly || c.Image.Scheme != image.RBD) {
		return NewUsageError("%s: --takeover is for rbd: images that are opened for writing", c.Image)
	}
	return nil
}

// A UsageError is a mistake in what was asked for, not in what was found.
type UsageError struct{ text string }

func (e *UsageError) Error() string { return e.text }

// NewUsageError makes one.
func NewUsageError(format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...)}
}
