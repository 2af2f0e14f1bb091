// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// maxKDFMemoryBytes is the most that a key derivation can be allowed (kdf.MaxMemoryLimitBytes).
const maxKDFMemoryBytes = 4 << 30

// header checks where the header is and what opening it may take.
func (k *checker) header(key string, e *Export) {
	if n := e.KDFMemoryLimit; n < 0 || n > maxKDFMemoryBytes {
		k.fail(key+".kdf_memory_limit", "", "%d: expected 0 (the default, 1G) to 4G", n)
	}
	k.file(key+".header", e.Header)
	switch {
	case e.Header == "":
	case e.Plain:
		k.fail(key+".header", "", "an export that is plain has no header")
	case e.Engine == "librbd":
		k.fail(key+".header", "engine: native opens it", "librbd's engine knows no detached headers")
	case strings.HasPrefix(e.Image, "mem:"):
		k.fail(key+".header", "", "memory is plaintext, without a header")
	}
}
