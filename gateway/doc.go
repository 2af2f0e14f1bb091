// SPDX-License-Identifier: Apache-2.0

// Package gateway joins an image, a key, a volume and an export: it is the only package that knows all of them.
//
// Open goes through these steps, each of which can end it with an error that says why:
//
//  1. open the image as it is (sub-packages of image)
//  2. read its LUKS header, or make sure that there is none to be read
//  3. make sure that its parents, if any, are encrypted with the same volume key
//  4. get the passphrase (sub-package key) and unlock the volume key
//  5. put a volume over the image, or hand the image over to librbd's own engine
package gateway
