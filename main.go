// SPDX-License-Identifier: Apache-2.0

// Command luksgate serves LUKS-encrypted Ceph RBD images as plaintext over NBD.
package main

import (
	"os"

	"github.com/luksgate/luksgate/gateway/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
