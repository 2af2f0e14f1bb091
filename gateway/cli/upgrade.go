// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newUpgrade(s std) *cobra.Command {
	var admin adminFlags
	var cut, asJSON bool
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Have the daemon hand over to a new process, below running clients",
		Long: `Have the daemon start the program that is at its path now, with the same arguments, and hand all sockets and connections
to it. Clients see a pause, no error and no end of their connection. The new process reads the configuration file anew.

If the new process cannot take over, the old one goes on as before. Clients with TLS cannot be handed over: without
--cut they are a reason not to begin.`,
		Example: `  apt-get install luksgate && luksgate upgrade`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := admin.client().Upgrade(background(cmd.Context()), cut)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, u)
			}
			fmt.Fprintf(s.out, "process %d serves %d connections after a pause of %v\n", u.PID, u.Connections, u.Pause)
			return nil
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&cut, "cut", false, "disconnect clients that cannot be handed over")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
