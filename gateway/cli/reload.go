// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newReload(s std) *cobra.Command {
	var admin adminFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon apply its changed configuration file",
		Long: `Have the daemon read its configuration file again. Exports that did not change notice nothing. One that changed has its
new configuration when its image is opened next; one that is gone from the file keeps its clients until they leave. A
file with a mistake changes nothing.`,
		Example: `  luksgate config check && luksgate reload`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := admin.client().Reload(background(cmd.Context()))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, c)
			}
			for _, part := range []struct {
				what  string
				names []string
			}{{"added", c.Added}, {"changed", c.Changed}, {"removed", c.Removed}} {
				if len(part.names) > 0 {
					fmt.Fprintf(s.out, "%s: %s\n", part.what, strings.Join(part.names, " "))
				}
			}
			fmt.Fprintf(s.out, "unchanged: %d\n", c.Unchanged)
			if len(c.Restart) > 0 {
				fmt.Fprintf(s.err, "luksgate: in force after luksgate upgrade only: %s\n", strings.Join(c.Restart, ", "))
			}
			if len(c.Problems) > 0 {
				return fmt.Errorf("applied, but: %s", strings.Join(c.Problems, "; "))
			}
			return nil
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
