// SPDX-License-Identifier: Apache-2.0

package rbd

// MissingEngine is what Missing says where librbd has no encryption of its own, which came with Ceph 16.
const MissingEngine = "the librbd engine"
