// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newStats(s std) *cobra.Command {
	var admin adminFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Print what the exports have done since the daemon's start",
		Long: `Print what the exports have done since the daemon's start: requests, bytes, errors, and how long half and 99 of
100 requests took at most. luksgate top shows the same as it happens; /metrics has it for Prometheus.`,
		Example: `  luksgate stats
  luksgate stats --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := admin.client().Stats(background(cmd.Context()))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, st)
			}
			w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "EXPORT\tOPERATION\tREQUESTS\tBYTES\tERRORS\tP50\tP99")
			for _, e := range st.Exports {
				for _, op := range []string{"read", "write", "flush", "trim", "write_zeroes", "cache", "block_status", "other"} {
					if o, ok := e.Ops[op]; ok {
						fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%v\t%v\n", e.Export, op, o.Requests, sizeText(float64(o.Bytes)),
							o.Errors, o.Took.Quantile(0.5), o.Took.Quantile(0.99))
					}
				}
			}
			return w.Flush()
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
