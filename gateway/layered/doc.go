// SPDX-License-Identifier: Apache-2.0

// Package layered puts the plaintext of a clone over that of its parent where the two are not encrypted with the same key,
// so that what librbd shows through the clone would be noise.
//
// A READ, at each level:
//
//  1. cut the range where the level's objects end;
//  2. read the object, unless it is known not to exist; if it exists, its bytes are the level's own, holes and all;
//  3. else cut off what lies beyond the overlap, which reads as zeros, and go on with the rest at the next level, at the
//     same offset of the plaintext.
//
// The last level has nothing below it that needs another key: a plaintext image, or a chain with one key.
//
// A WRITE, to the first level only, for each object:
//
//  1. take the image's lock, unless it is ours still;
//  2. if the object is known to exist, or lies beyond the raw overlap, go on with 6;
//  3. ask for it; if it does not exist, one writer copies it up while others of the same object wait:
//  4. read what the levels below show of it, leave out the zeros at the end, encrypt the rest with the image's key;
//  5. create the object with that content, unless it exists meanwhile, in one operation that snapshots see too;
//  6. write as to any image: the object exists, so that librbd has no reason to copy up the parent's ciphertext.
//
// After 5 the image reads exactly as before, also for other clients and in snapshots, whoever made the object. So it does
// no harm if the gateway dies there, if the lock goes to somebody else, or if a snapshot is made meanwhile.
//
// Nothing in this package knows Ceph, LUKS or NBD.
package layered
