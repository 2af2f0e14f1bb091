// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
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
	// Missing are the features that this librbd does not have.
	Missing []string `json:"librbd_missing"`
	XTS     string   `json:"xts_kernel"`
	// XTSError is why there is no kernel, so that no image can be opened.
	XTSError string `json:"xts_error,omitempty"`
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
				Librbd: rbd.Version(), Missing: append([]string{}, rbd.Missing()...), XTS: xts.Kernel(), Usable: xts.Kernels(),
			}
			if err := xts.KernelError(); err != nil {
				v.XTSError = err.Error()
			}
			if asJSON {
				return printJSON(s, v)
			}
			v.print(s.out)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (v *versionInfo) print(out io.Writer) {
	fmt.Fprintf(out, "luksgate %s\ngo       %s %s\nlibrbd   %s\n", v.Luksgate, v.Go, v.Platform, v.Librbd)
	for _, m := range v.Missing {
		fmt.Fprintf(out, "         without %s\n", m)
	}
	kernel := v.XTS
	if v.XTSError != "" {
		kernel = "none: " + v.XTSError
	}
	fmt.Fprintf(out, "xts      %s (usable: %s)\n", kernel, strings.Join(v.Usable, ", "))
}

func printJSON(s std, v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
