// SPDX-License-Identifier: Apache-2.0

// Command memserver serves a memory device over a unix socket with luksgate's NBD server, for bench/nbd.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // on -pprof only
	"os"
	"os/signal"
	"syscall"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

func main() {
	socket := flag.String("socket", "", "path of the unix socket")
	size := flag.Int64("size", 256<<20, "size in bytes")
	deferred := flag.Bool("deferred", false, "do not say that the device answers at once")
	profile := flag.String("pprof", "", "host:port for profiles")
	flag.Parse()
	if err := run(*socket, *size, *deferred, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "memserver:", err)
		os.Exit(1)
	}
}

func run(socket string, size int64, deferred bool, profile string) error {
	if profile != "" {
		go func() { _ = http.ListenAndServe(profile, nil) }()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	device := memdevice.New(size).With(func(p *nbdserver.Properties) { p.Immediate = !deferred })
	server := nbdserver.New(nbdserver.Options{Catalog: memdevice.Catalog{"": device}})
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Shutdown(context.Background()) })
	if err := server.Serve(context.Background(), listener); !errors.Is(err, nbdserver.ErrServerClosed) {
		return err
	}
	return nil
}
