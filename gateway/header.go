// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"log/slog"
	"sync"

	"github.com/luksgate/luksgate/crypt/secret"
)

// headerPlace is where the header of s is to be read: in the image, or in the file of a detached header, which done
// closes. The file is not held after the unlocking, so that its keyslots can be changed while the image is in use.
func (s *source) headerPlace(cfg Config) (at readerAt, done func(), err error) {
	if cfg.Header == "" {
		return readerAt{s.store}, func() {}, nil
	}
	f, err := openFile(cfg.Header, true)
	if err != nil {
		return readerAt{}, nil, err
	}
	return readerAt{f.store}, func() { _ = f.close() }, nil
}

var warnUnlockedOnce sync.Once

// warnUnlocked says once in the life of the process that memory for secrets could not be locked. It is called after the
// first secret.
func warnUnlocked(log *slog.Logger) {
	if err := secret.LockError(); err != nil {
		warnUnlockedOnce.Do(func() { log.Warn(err.Error()) })
	}
}
