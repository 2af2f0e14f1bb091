// SPDX-License-Identifier: Apache-2.0

//go:build noceph

package rbd

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
)

// Cluster cannot be had in this build.
type Cluster struct{}

// Image cannot be had in this build.
type Image struct{ volume.Store }

// Connect refuses.
func Connect(Config) (*Cluster, error) {
	return nil, fmt.Errorf("%w: this luksgate was built without Ceph (tag noceph); it serves file: and mem: images only",
		image.ErrUnreachable)
}

// Acquire refuses.
func Acquire(cfg Config) (*Cluster, func(), error) {
	_, err := Connect(cfg)
	return nil, nil, err
}

// Version tells that there is no librbd.
func Version() string { return "none (built without Ceph)" }

// Missing has nothing to say about a librbd that is not there.
func Missing() []string { return nil }

// Open is never reached.
func (*Cluster) Open(image.Ref, OpenOptions) (*Image, error) { panic("BUG: no cluster in this build") }

// OpenDescribed is never reached.
func (*Cluster) OpenDescribed(*Info, *slog.Logger) (*Image, error) {
	panic("BUG: no cluster in this build")
}

// ShareParent is never reached.
func ShareParent(Config, *Info, *slog.Logger) (*Image, func() error, error) {
	panic("BUG: no image in this build")
}

// Describe is never reached.
func (*Cluster) Describe(image.Ref) (*Info, error) { panic("BUG: no cluster in this build") }

// Close does nothing.
func (*Cluster) Close() {}

// Hold is never reached.
func (*Image) Hold() error { panic("BUG: no image in this build") }

// Describe is never reached.
func (*Image) Describe() (*Info, error) { panic("BUG: no image in this build") }

// Shared is never reached.
func (*Image) Shared() bool { panic("BUG: no image in this build") }

// OnErasureCode is never reached.
func (*Image) OnErasureCode() bool { panic("BUG: no image in this build") }

// Stats is never reached.
func (*Image) Stats() Stats { panic("BUG: no image in this build") }

// Dead is never reached.
func (*Image) Dead() <-chan struct{} { panic("BUG: no image in this build") }

// Err is never reached.
func (*Image) Err() error { panic("BUG: no image in this build") }

// LoadEncryption is never reached.
func (*Image) LoadEncryption(int, *secret.Bytes) error { panic("BUG: no image in this build") }

// HasLayeredEncryption is false: there is no librbd.
func HasLayeredEncryption() bool { return false }

// LoadLayeredEncryption is never reached.
func (*Image) LoadLayeredEncryption([]*secret.Bytes) error { panic("BUG: no image in this build") }

// Resize is never reached.
func (*Image) Resize(context.Context, int64, bool, Progress) error {
	panic("BUG: no image in this build")
}

// Flatten is never reached.
func (*Image) Flatten(context.Context, Progress) error { panic("BUG: no image in this build") }

// RebuildObjectMap is never reached.
func (*Image) RebuildObjectMap(context.Context, Progress) error { panic("BUG: no image in this build") }

// OverlapBytes is never reached.
func (*Image) OverlapBytes() (int64, error) { panic("BUG: no image in this build") }

// OwnsData is never reached.
func (*Image) OwnsData() (bool, error) { panic("BUG: no image in this build") }

// ClusterID is never reached.
func (*Image) ClusterID() (string, error) { panic("BUG: no image in this build") }

// Objects cannot be had in this build.
type Objects struct{}

// Objects is never reached.
func (*Image) Objects() (*Objects, error) { panic("BUG: no image in this build") }

// ObjectBytes is never reached.
func (*Objects) ObjectBytes() int64 { panic("BUG: no image in this build") }

// Stat is never reached.
func (*Objects) Stat(int64) (bool, int64, error) { panic("BUG: no image in this build") }

// Read is never reached.
func (*Objects) Read(int64, [][]byte, int64) (bool, error) { panic("BUG: no image in this build") }

// Own is never reached.
func (*Objects) Own() error { panic("BUG: no image in this build") }

// Lock is never reached.
func (*Objects) Lock() (uint64, error) { panic("BUG: no image in this build") }

// HasSnapshots is never reached.
func (*Objects) HasSnapshots() (bool, error) { panic("BUG: no image in this build") }

// Create is never reached.
func (*Objects) Create(int64, []byte, int64) error { panic("BUG: no image in this build") }

// OverlapBytes is never reached.
func (*Objects) OverlapBytes() (int64, error) { panic("BUG: no image in this build") }

// Epoch is never reached.
func (*Objects) Epoch() (uint64, bool) { panic("BUG: no image in this build") }

// CheckChain is never reached.
func (*Info) CheckChain() error { panic("BUG: no image in this build") }

// Close is never reached.
func (*Objects) Close() error { panic("BUG: no image in this build") }

// Close is never reached.
func (*Image) Close() error { panic("BUG: no image in this build") }
