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
to it. The new process reads the configuration file anew, fetches the keys, unlocks and opens the images while the old one
still serves; then clients see a pause, no error and no end of their connection.

If the new process cannot take over, the old one goes on as before. The keys of TLS sessions cannot be handed over: the old
process passes their bytes on to the new one until these clients leave, and ends then. --cut disconnects them instead.`,
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
			if u.Relayed > 0 {
				fmt.Fprintf(s.out, "%d of them use TLS: the old process relays them until they leave\n", u.Relayed)
			}
			return nil
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&cut, "cut", false, "disconnect clients with TLS instead of relaying them")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
