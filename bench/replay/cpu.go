// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"time"

	"github.com/luksgate/luksgate/bench/proc"
)

// cpu is the processor time of everybody so far.
func (p *player) cpu() (map[string]time.Duration, error) {
	own, err := proc.CPU(0)
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{"client": own}
	for _, s := range p.o.Servers {
		d, err := proc.CPU(s.PID)
		if err != nil {
			return nil, err
		}
		used[s.Name] += d
	}
	return used, nil
}
