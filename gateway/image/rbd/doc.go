// SPDX-License-Identifier: Apache-2.0

// Package rbd is an image in a Ceph cluster.
//
// go-ceph gives the connection, the pools and every control operation. The data path is a small C shim on the same
// connection (shim.h): requests are submitted asynchronously, completions are collected in C and fetched in batches by
// one goroutine of ours, which wakes the callers. So an image has a blocking interface without a blocked thread per
// request.
//
// Built with the tag noceph the package has the same names and refuses every image.
package rbd

import (
	"errors"
	"log/slog"
	"syscall"
	"time"
)

// Config says how to reach a cluster.
type Config struct {
	// ConfFile is the path of ceph.conf; empty means Ceph's own search ($CEPH_CONF, /etc/ceph/ceph.conf, ...).
	ConfFile string
	// User is the cephx user, with or without "client."; empty means "admin".
	User string
	// Options are librados and librbd settings that go over those of the file and over our defaults.
	Options map[string]string
	// ImagesPerConnection is how many images share a connection to the cluster; 0 means 4, and 16 as soon as there are 16
	// connections.
	ImagesPerConnection int
}

// LockMode says how an image that is opened for writing is held against other clients.
type LockMode string

const (
	// LockCooperative takes the exclusive lock at the first write and hands it over when another client asks.
	LockCooperative LockMode = "cooperative"
	// LockExclusive takes the exclusive lock at the open and keeps it; when it is lost, writing ends.
	LockExclusive LockMode = "exclusive"
	// LockNone is for several writers on purpose: nothing is said about a lock that goes back and forth.
	LockNone LockMode = "none"
)

// LockModes are all of them.
var LockModes = []LockMode{LockCooperative, LockExclusive, LockNone}

// OpenOptions say what an image is opened for.
type OpenOptions struct {
	ReadOnly bool
	Lock     LockMode
	// Takeover breaks the lock of another client, which the cluster then blocks.
	Takeover bool
	// Standby leaves out what the lock mode asks for at the open. Nothing may be written until Image.Hold has done it.
	Standby bool
	// Logger is told of what happens to the image while it is open; nil discards it.
	Logger *slog.Logger
	// Resized is called, from a goroutine of the image, when the image has another size than before; nil is allowed.
	Resized func(sizeBytes int64)
}

// Why an image that was open can no longer be written or used. All requests fail from then on.
var (
	// ErrBlocked: the cluster blocks this client, because another one took over or an operator said so.
	ErrBlocked = errors.New("the cluster has blocked this client")
	// ErrLockLost: the exclusive lock, which was to be kept, is another client's.
	ErrLockLost = errors.New("the exclusive lock was lost")
)

// ErrNotOwnable says that objects cannot be created beside librbd; the error around it says why.
var ErrNotOwnable = errors.New("its objects cannot be written beside librbd")

// Stats are counters of an open image, since the open.
type Stats struct {
	// LockTaken and LockLost count how often the exclusive lock came and went.
	LockTaken, LockLost uint64
	// Waiting is the number of requests on the image's connection that have waited for the cluster longer than SlowAfter,
	// and Oldest how long the oldest one of any age has.
	Waiting int
	Oldest  time.Duration
	// Failures are the errors of librbd, before anything was made of them.
	Failures map[Failure]uint64
}

// A Failure is an operation of librbd and the error that it ended with.
type Failure struct {
	Op    string
	Errno syscall.Errno
}

// Progress is told how far an operation is, in units of its own, from the goroutine that waits for it.
type Progress func(done, total int64)

// Info describes an image without its passphrase.
type Info struct {
	Name string `json:"name"`
	// ID is the image's own, which stays when its name changes. SnapshotID is the number of a parent, which is a snapshot;
	// 0 for the first image of a chain.
	ID           string   `json:"id"`
	SnapshotID   uint64   `json:"snapshot_id,omitempty"`
	SizeBytes    int64    `json:"size"`
	ObjectBytes  int64    `json:"object_size"`
	StripeUnit   int64    `json:"stripe_unit"`
	StripeCount  int64    `json:"stripe_count"`
	Features     []string `json:"features"`
	OverlapBytes int64    `json:"overlap,omitempty"`
	Parent       *Info    `json:"parent,omitempty"`
}

// StripePeriodBytes is the unit to which librbd aligns the data of an encrypted image.
func (i *Info) StripePeriodBytes() int64 { return i.ObjectBytes * max(i.StripeCount, 1) }
