// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
)

// Limits of what can be asked for.
const (
	maxBlockBytes = 32 << 20
	minBlockBytes = 512
	maxDepth      = 256
	maxClients    = 64
	maxImages     = 64
)

// A Matrix is a choice of workloads: all combinations of what its lists hold.
type Matrix struct {
	Kinds       []Kind `json:"workloads"`
	BlocksBytes []int  `json:"block_bytes"`
	Depths      []int  `json:"depths"`
	Clients     []int  `json:"clients"`
	Images      []int  `json:"images"`
}

// Quick is what is measured where nothing else is asked for; Full is everything that this package is meant for.
var (
	Quick = Matrix{
		[]Kind{RandomRead, RandomWrite}, []int{4 << 10, 16 << 10, 64 << 10, 1 << 20}, []int{16}, []int{1}, []int{1},
	}
	Full = Matrix{
		Kinds, []int{4 << 10, 16 << 10, 64 << 10, 1 << 20}, []int{1, 4, 16}, []int{1, 2, 4, 8}, []int{1, 4, 16},
	}
)

// Check refuses what makes no sense, naming the flag of the command line.
func (m Matrix) Check() error {
	for _, k := range m.Kinds {
		if !slices.Contains(Kinds, k) {
			return fmt.Errorf("--workloads %q: expected some of %v", k, Kinds)
		}
	}
	for _, c := range []struct {
		flag              string
		list              []int
		smallest, largest int
	}{
		{"--sizes", m.BlocksBytes, minBlockBytes, maxBlockBytes},
		{"--depths", m.Depths, 1, maxDepth},
		{"--clients", m.Clients, 1, maxClients},
		{"--images", m.Images, 1, maxImages},
	} {
		for _, n := range c.list {
			if n < c.smallest || n > c.largest {
				return fmt.Errorf("%s %d: expected %d to %d", c.flag, n, c.smallest, c.largest)
			}
		}
	}
	for _, n := range m.BlocksBytes {
		if n%minBlockBytes != 0 {
			return fmt.Errorf("--sizes %d: expected a multiple of %d bytes", n, minBlockBytes)
		}
	}
	if len(m.Workloads()) == 0 {
		return fmt.Errorf("no workload is left: each of --workloads, --sizes, --depths, --clients and --images needs a value")
	}
	return nil
}

// Workloads are the combinations. Numbers of clients and images beyond the first are tried with the first size and the last
// depth that the lists hold and one of the other, not with everything: what they show is how it scales.
func (m Matrix) Workloads() []Workload {
	var all []Workload
	add := func(w Workload) {
		if !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	for _, k := range m.Kinds {
		for i, block := range m.BlocksBytes {
			for j, depth := range m.Depths {
				for c, clients := range m.Clients {
					for n, images := range m.Images {
						if beyond := c > 0 || n > 0; beyond && (i > 0 || j < len(m.Depths)-1 || c > 0 && n > 0) {
							continue
						}
						add(Workload{k, block, depth, clients, images})
					}
				}
			}
		}
	}
	return all
}

// MostImages is how many images the largest workload needs.
func (m Matrix) MostImages() int { return slices.Max(m.Images) }

// Writes tells whether there are workloads that write.
func (m Matrix) Writes() bool { return slices.ContainsFunc(m.Kinds, Kind.Writes) }
