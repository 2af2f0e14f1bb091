// SPDX-License-Identifier: Apache-2.0

// Package access decides who may connect to an export: by the owner and mode of its socket (Listen*), and by what is
// known of a client that has connected (Policy). Both are decided before an image is opened or a key is fetched.
package access
