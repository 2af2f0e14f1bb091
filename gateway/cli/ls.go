// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway/daemon/api"
)

func newLs(s std) *cobra.Command {
	var admin adminFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [NAME]",
		Short: "List the exports of the daemon and how they are",
		Example: `  luksgate ls
  luksgate ls vm1-vda --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := background(cmd.Context())
			if len(args) == 1 {
				e, err := admin.client().Export(ctx, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(s, e)
				}
				return printExports(s, []api.Export{e})
			}
			all, err := admin.client().Exports(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, all)
			}
			return printExports(s, all)
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printExports(s std, all []api.Export) error {
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tCLIENTS\tSIZE\tIMAGE\tADDRESS")
	for _, e := range all {
		size, state := "-", e.State
		if e.SizeBytes > 0 {
			size = sizeText(float64(e.SizeBytes))
		}
		switch {
		case e.Removed:
			state += ", removed"
		case e.Pending:
			state += ", changed"
		}
		address := "-"
		if len(e.URIs) > 0 {
			address = e.URIs[0]
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", e.Name, state, e.Clients, size, e.Image, address)
		for _, more := range e.URIs[min(1, len(e.URIs)):] {
			fmt.Fprintf(w, "\t\t\t\t\t%s\n", more)
		}
		if e.Error != "" {
			fmt.Fprintf(w, "\t  %s\n", e.Error)
		}
	}
	return w.Flush()
}
