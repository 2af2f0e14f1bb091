// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// DefaultImagesPerConnection is how many images share a connection where Config does not say. Each connection has its
// own librados threads and sockets: with processors to spare more of them are faster, with few they displace each other
// (docs/tuning.md has figures).
const DefaultImagesPerConnection = 4

// connections are those that Acquire has given out.
var connections struct {
	mu     sync.Mutex
	byName map[string][]*connection
}

// A connection is a Cluster that several images use.
type connection struct {
	name    string
	ready   chan struct{} // closed when cluster and err are set
	cluster *Cluster
	err     error
	users   int // under connections.mu
}

// Acquire returns a connection for one more image. It is shared with up to Config.ImagesPerConnection images of the same
// configuration, and ends when the last of them gives it back. A cluster that does not answer blocks nobody but those
// who want it.
func Acquire(cfg Config) (c *Cluster, release func(), err error) {
	conn, first := reserve(cfg)
	if first {
		conn.cluster, conn.err = Connect(cfg)
		close(conn.ready)
	}
	<-conn.ready
	release = sync.OnceFunc(func() { conn.release() })
	if conn.err != nil {
		release()
		return nil, nil, conn.err
	}
	return conn.cluster, release, nil
}

// reserve finds a connection with a free place, or makes one that the caller, the first, must connect.
func reserve(cfg Config) (conn *connection, first bool) {
	name, most := cfg.identity(), cmp.Or(cfg.ImagesPerConnection, DefaultImagesPerConnection)
	connections.mu.Lock()
	defer connections.mu.Unlock()
	for _, conn := range connections.byName[name] {
		if conn.users < most {
			conn.users++
			return conn, false
		}
	}
	if connections.byName == nil {
		connections.byName = make(map[string][]*connection)
	}
	conn = &connection{name: name, ready: make(chan struct{}), users: 1}
	connections.byName[name] = append(connections.byName[name], conn)
	return conn, true
}

func (c *connection) release() {
	connections.mu.Lock()
	c.users--
	last := c.users == 0
	if last || c.err != nil {
		// Nobody new may get it, even if others still wait for it in vain.
		same := slices.DeleteFunc(connections.byName[c.name], func(o *connection) bool { return o == c })
		connections.byName[c.name] = same
		if len(same) == 0 {
			delete(connections.byName, c.name)
		}
	}
	connections.mu.Unlock()
	if last && c.cluster != nil {
		c.cluster.Close()
	}
}

// identity tells apart configurations that must not share a connection.
func (cfg Config) identity() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", cfg.ConfFile, strings.TrimPrefix(cfg.User, "client."))
	for _, name := range slices.Sorted(maps.Keys(cfg.Options)) {
		fmt.Fprintf(&b, " %q=%q", name, cfg.Options[name])
	}
	return b.String()
}
