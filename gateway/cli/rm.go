// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"
)

func newRm(_ std) *cobra.Command {
	var admin adminFlags
	var disconnect bool
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove an export from the running daemon",
		Long: `Remove an export from the running daemon. One that has clients is refused, unless --disconnect ends them, after the
requests that they wait for. An export of the configuration file is back at the next luksgate reload.`,
		Example: `  luksgate rm vm5`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return admin.client().Remove(background(cmd.Context()), args[0], disconnect)
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&disconnect, "disconnect", false, "end the clients that use it")
	return cmd
}
