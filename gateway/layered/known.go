// SPDX-License-Identifier: Apache-2.0

package layered

import "sync"

// known is what has been learnt of the objects of a level: two bits for each, in pages for what has been touched. It all
// belongs to one epoch, and is forgotten when a later one begins. The zero value is ready to use.
type known struct {
	mu    sync.Mutex
	epoch uint64
	off   bool // nothing is remembered in this epoch
	pages map[int64]*[pageObjects / objectsPerWord]uint64
}

const (
	pageObjects    = 4096
	objectsPerWord = 32

	bitsAbsent, bitsPresent = 1, 3 // what is present stays so, whoever says absent later
)

// get tells what is known in an epoch.
func (k *known) get(epoch uint64, number int64) (exists, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch != epoch {
		return false, false
	}
	page := k.pages[number/pageObjects]
	if page == nil {
		return false, false
	}
	bits := page[number%pageObjects/objectsPerWord] >> (number % objectsPerWord * 2) & bitsPresent
	return bits == bitsPresent, bits != 0
}

// set notes what was learnt in an epoch. What is told of an epoch that has passed is lost.
func (k *known) set(epoch uint64, number int64, exists bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case epoch < k.epoch:
		return
	case epoch > k.epoch || k.pages == nil:
		k.epoch, k.off, k.pages = epoch, false, make(map[int64]*[pageObjects / objectsPerWord]uint64)
	case k.off:
		return
	}
	page := k.pages[number/pageObjects]
	if page == nil {
		page = new([pageObjects / objectsPerWord]uint64)
		k.pages[number/pageObjects] = page
	}
	bits := uint64(bitsAbsent)
	if exists {
		bits = bitsPresent
	}
	page[number%pageObjects/objectsPerWord] |= bits << (number % objectsPerWord * 2)
}

// distrust forgets everything, and remembers nothing until the next epoch: objects went away in this one.
func (k *known) distrust() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.off = true
	clear(k.pages)
}
