// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	benchreport "github.com/luksgate/luksgate/bench/report"
	"github.com/luksgate/luksgate/bench/result"
)

func newBenchCompare(s std) *cobra.Command {
	var by string
	var percent float64
	cmd := &cobra.Command{
		Use:   "compare OLD.json NEW.json",
		Short: "Tell whether a newer run is slower than an older one",
		Long: `Compare what two runs of luksgate bench with --json have in common. The exit code is 1 if anything is worse by more
than --threshold: not by its median alone, but by the whole interval that holds the true change with 95 % confidence. So
noise does not fail, and a change smaller than the noise is not found: more --rounds find smaller ones. Of fewer than five
rounds nothing can be told.

Runs on different machines, or beside different load, are compared with --by ratio: by the ratio of each contestant to its
reference in the same run.`,
		Example: `  luksgate bench compare before.json after.json
  luksgate bench compare --by ratio --threshold 5 before.json after.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if !slices.Contains(result.Metrics, result.Metric(by)) {
				return usage("--by %q: expected one of %v", by, result.Metrics)
			}
			if percent <= 0 || percent >= 100 {
				return usage("--threshold %v: expected more than 0 and less than 100 percent", percent)
			}
			return benchCompare(s.out, args[0], args[1], result.Metric(by), percent/100)
		},
	}
	cmd.Flags().StringVar(&by, "by", string(result.ByRate), "what is compared: rate, latency (median), cpu (time for a request) or ratio")
	cmd.Flags().Float64Var(&percent, "threshold", 10, "percent by which something may be worse")
	return cmd
}

// errRegression is why compare exits with 1.
var errRegression = errors.New("the newer run is worse")

func benchCompare(w io.Writer, oldName, newName string, by result.Metric, threshold float64) error {
	older, err := readResult(oldName)
	if err != nil {
		return err
	}
	newer, err := readResult(newName)
	if err != nil {
		return err
	}
	changes, err := result.Compare(older, newer, by, threshold)
	if err != nil {
		return err
	}
	if worse := benchreport.Changes(w, changes, by); worse > 0 {
		return fmt.Errorf("%w: %d of %d results by more than %g %%", errRegression, worse, len(changes), threshold*100)
	}
	return nil
}

func readResult(name string) (*result.Document, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	d, err := result.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}
