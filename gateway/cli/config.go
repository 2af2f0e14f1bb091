// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway/config"
)

func newConfig(s std) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration file, or print an example of one",
		Example: `  luksgate config check --config /etc/luksgate/luksgate.conf
  luksgate config example`,
	}
	var path string
	check := &cobra.Command{
		Use:   "check [--config FILE]",
		Short: "Read a configuration file as the daemon does and say what is wrong with it",
		Long: `Read a configuration file as the daemon does. Each mistake is a line with the file's line and what to do. No image
is opened and no key is fetched.`,
		Example: `  luksgate config check --config luksgate.conf && luksgate reload`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := config.Load(path)
			if err == nil {
				fmt.Fprintf(s.out, "%s: %d exports, no mistakes\n", path, len(c.Exports))
			}
			return err
		},
	}
	check.Flags().StringVar(&path, "config", defaultConfig, "configuration file")
	example := &cobra.Command{
		Use:     "example",
		Short:   "Print a configuration with every section",
		Example: `  luksgate config example > luksgate.conf`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(s.out, config.Example)
			return err
		},
	}
	cmd.AddCommand(check, example)
	return cmd
}
