// SPDX-License-Identifier: Apache-2.0

package rbd

// A Feature is something that only newer librbds can do.
type Feature struct {
	// What it is, in words; Function is the symbol that tells.
	What, Function string
	Present        bool
}

// optionalFunctions are looked up at run time, so that one binary runs on every librbd.
var optionalFunctions = []Feature{
	{What: "its own LUKS engine", Function: "rbd_encryption_load"},
	{What: "layered encryption", Function: "rbd_encryption_load2"},
	{What: "write zeroes", Function: "rbd_aio_write_zeroes"},
	{What: "compare and write vectors", Function: "rbd_aio_compare_and_writev"},
}
