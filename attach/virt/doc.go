// SPDX-License-Identifier: Apache-2.0

// Package virt talks to the libvirt of this host, over its unix socket, without libvirt's own library: it asks for
// versions, and plugs disks into domains.
//
// A Conn may be used by several goroutines. Every method ends when its context does; the connection is lost then, because
// libvirt's protocol has no way to take a call back.
package virt
