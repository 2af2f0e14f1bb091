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

// Config says how to reach a cluster.
type Config struct {
	// ConfFile is the path of ceph.conf; empty means Ceph's own search ($CEPH_CONF, /etc/ceph/ceph.conf, ...).
	ConfFile string
	// User is the cephx user, with or without "client."; empty means "admin".
	User string
	// Options are librados and librbd settings that go over those of the file.
	Options map[string]string
}

// LockMode says how an image that is opened for writing is held against other clients.
type LockMode string

const (
	// LockCooperative takes the exclusive lock at the first write and hands it over when another client asks.
	LockCooperative LockMode = "cooperative"
	// LockExclusive takes the exclusive lock at the open and keeps it.
	LockExclusive LockMode = "exclusive"
)

// OpenOptions say what an image is opened for.
type OpenOptions struct {
	ReadOnly bool
	Lock     LockMode
}

// Info describes an image without its passphrase.
type Info struct {
	Name         string   `json:"name"`
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
