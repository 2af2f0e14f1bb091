// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// Version is set by the linker (-X).
var Version = "unknown"

type versionInfo struct {
	Luksgate string `json:"luksgate"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Librbd   string `json:"librbd"`
	XTS      string `json:"xts_kernel"`
	// Usable are the kernels that this processor can run.
	Usable []string `json:"xts_kernels_usable"`
}

func newVersion(s std) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of luksgate, Go and librbd and the AES kernel in use",
		Example: `  luksgate version
  LUKSGATE_XTS=portable luksgate version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{
				Luksgate: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
				Librbd: rbd.Version(), XTS: xts.Kernel(), Usable: xts.Kernels(),
			}
			if asJSON {
				return printJSON(s, v)
			}
			fmt.Fprintf(s.out, "luksgate %s\ngo       %s %s\nlibrbd   %s\nxts      %s (usable: %s)\n",
				v.Luksgate, v.Go, v.Platform, v.Librbd, v.XTS, strings.Join(v.Usable, ", "))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printJSON(s std, v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
