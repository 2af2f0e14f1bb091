// SPDX-License-Identifier: Apache-2.0

// Package command is what the programs of the benchmark begin and end with.
package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Main runs a program until it is done or a signal tells its context to end, so that it removes what it has made. An error
// is printed behind the program's name, and the exit code is 1 then.
func Main(name string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
