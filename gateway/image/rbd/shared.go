// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// How many images share a connection where Config does not say: so many while there are few connections of the same
// configuration, and then more. Each connection has its own librados threads and sockets: with processors to spare more of
// them are faster, with few they displace each other, and hundreds of images would have thousands of threads (docs/tuning.md
// has figures).
const (
	defaultImagesPerConnection = 4
	fewConnections             = 16
	crowdedImagesPerConnection = 16
)

// imagesPerConnection is how many images may share one of so many connections.
func imagesPerConnection(connections int) int {
	if connections < fewConnections {
		return defaultImagesPerConnection
	}
	return crowdedImagesPerConnection
}

// connections are those that Acquire has given out.
var connections sharing[*Cluster]

// Acquire returns a connection for one more image. It is shared with up to Config.ImagesPerConnection images of the same
// configuration, and ends when the last of them gives it back. A cluster that does not answer blocks nobody but those
// who want it.
func Acquire(cfg Config) (c *Cluster, release func(), err error) { return acquire(cfg, cfg.identity()) }

// acquire is Acquire for connections that are told apart by name.
func acquire(cfg Config, name string) (c *Cluster, release func(), err error) {
	most := imagesPerConnection
	if n := cfg.ImagesPerConnection; n > 0 {
		most = func(int) int { return n }
	}
	s, err := connections.get(name, most, (*Cluster).usable, func() (*Cluster, error) { return Connect(cfg) })
	if err != nil {
		return nil, nil, err
	}
	return s.value, sync.OnceFunc(func() {
		if connections.put(s) {
			s.value.Close()
		}
	}), nil
}

// usable tells whether nothing is known that speaks against a connection.
func (c *Cluster) usable() bool { return !c.blocked.Load() }

// identity tells apart configurations that must not share a connection.
func (cfg Config) identity() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", cfg.ConfFile, strings.TrimPrefix(cfg.User, "client."))
	for _, name := range slices.Sorted(maps.Keys(cfg.Options)) {
		fmt.Fprintf(&b, " %q=%q", name, cfg.Options[name])
	}
	return b.String()
}
