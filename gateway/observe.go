// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"time"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/crypt/workers"
)

// An Observer is told what an image takes. Its methods are called by many goroutines at once and must not block.
type Observer interface {
	// Unlocked: trying the keyslots of one header with one passphrase ended after took.
	Unlocked(took time.Duration, err error)
	// Crypt: a processor has encrypted or decrypted bytes in took.
	Crypt(encrypt bool, bytes int, took time.Duration)
}

// observed is a cipher whose work is told.
type observed struct {
	cipher   volume.Cipher
	observer Observer
}

// Encrypt implements volume.Cipher.
func (c observed) Encrypt(dst, src []byte, iv uint64) {
	start := time.Now()
	c.cipher.Encrypt(dst, src, iv)
	c.observer.Crypt(true, len(src), time.Since(start))
}

// Decrypt implements volume.Cipher.
func (c observed) Decrypt(dst, src []byte, iv uint64) {
	start := time.Now()
	c.cipher.Decrypt(dst, src, iv)
	c.observer.Crypt(false, len(src), time.Since(start))
}

// Engine is who decrypts: native, librbd, or plain where nobody does.
func (e *Export) Engine() string {
	if d, ok := e.device.(*plainDevice); ok {
		if d.foreign {
			return string(EngineLibrbd)
		}
		return "plain"
	}
	return string(EngineNative)
}

// WorkerStats are the counters of the process's crypto workers.
func WorkerStats() workers.Stats { return pool().Stats() }
