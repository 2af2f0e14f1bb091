// SPDX-License-Identifier: Apache-2.0

package kdf

// Waiting is the length of the queue.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiters.Len()
}
