// SPDX-License-Identifier: Apache-2.0

// Command gonbdserver serves memory over a unix socket with go-nbd's server, for bench/nbd.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/pojntfx/go-nbd/pkg/server"
)

func main() {
	socket := flag.String("socket", "", "path of the unix socket")
	size := flag.Int64("size", 256<<20, "size in bytes")
	flag.Parse()
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gonbdserver:", err)
		os.Exit(1)
	}
	exports := []*server.Export{{Backend: backend.NewMemoryBackend(make([]byte, *size))}}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			_ = server.Handle(conn, exports, nil)
			_ = conn.Close() // Handle does not, and clients wait for it after a disconnect
		}()
	}
}
