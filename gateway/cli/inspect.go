// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
)

func newInspect(s std) *cobra.Command {
	var ceph cephFlags
	var header headerFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Describe an image: format, cipher, sizes, keyslots, parents; needs no passphrase",
		Example: `  luksgate inspect rbd:volumes/vm1
  luksgate inspect file:/srv/images/vm1.luks --json | jq .header.keyslots`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ref, err := image.ParseRef(args[0])
			if err != nil {
				return err
			}
			r, err := gateway.Inspect(gateway.Config{
				Image: ref, Header: header.file, Ceph: ceph.config(), Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s, r)
			}
			return printReport(s.out, r)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	header.addFile(cmd.Flags())
	ceph.add(cmd.Flags())
	return cmd
}

func printReport(out io.Writer, r *gateway.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("image", "%s", r.Image)
	line("format", "%s", r.Format)
	line("image size", "%s", bytesText(r.ImageBytes))
	line("data size", "%s", bytesText(r.DataBytes))
	if r.Header != nil {
		printHeader(line, r.Header)
	}
	if r.RBD != nil {
		line("object size", "%s", bytesText(r.RBD.ObjectBytes))
		if r.RBD.StripeCount > 1 {
			line("striping", "%s in each of %d objects", bytesText(r.RBD.StripeUnit), r.RBD.StripeCount)
		}
		line("features", "%s", strings.Join(r.RBD.Features, ", "))
	}
	for _, p := range r.Parents {
		line("parent", "%s (%s, %s)", p.Image, p.Format, bytesText(p.ImageBytes))
	}
	return w.Flush()
}

func printHeader(line func(name, format string, args ...any), h *luks.Info) {
	line("uuid", "%s", printable(h.UUID))
	if h.Label != "" {
		line("label", "%q", h.Label)
	}
	if h.Subsystem != "" {
		line("subsystem", "%q", h.Subsystem)
	}
	if h.Detached {
		line("header", "detached")
	}
	line("cipher", "%s, %d-bit key", printable(h.Cipher+"-"+h.Mode), h.KeyBytes*8)
	line("sector size", "%d bytes", h.SectorBytes)
	line("data offset", "%s", bytesText(h.DataOffsetBytes))
	for _, list := range []struct {
		name  string
		texts []string
	}{{"flags", h.Flags}, {"requirements", h.Requirements}} {
		if len(list.texts) > 0 {
			line(list.name, "%s", printable(strings.Join(list.texts, ", ")))
		}
	}
	if h.CloneMagic {
		line("clone", "formatted with a key of its own (librbd)")
	}
	for _, k := range h.Keyslots {
		line(fmt.Sprintf("keyslot %d", k.ID), "%s", keyslotText(k))
	}
	for _, t := range h.Tokens {
		line(fmt.Sprintf("token %d", t.ID), "%s", printable(t.Type))
	}
	for _, warning := range h.Warnings {
		line("warning", "%s", printable(warning))
	}
	if h.Unsupported != "" {
		line("cannot be opened", "%s", printable(h.Unsupported))
	}
}

// printable is a text that comes from an image, which anybody may have written: in quotes where it holds anything that a
// terminal could act on.
func printable(text string) string {
	for _, r := range text {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return strconv.Quote(text)
		}
	}
	return text
}

func keyslotText(k luks.Keyslot) string {
	text := printable(k.KDF.Type)
	switch k.KDF.Type {
	case "pbkdf2":
		text += fmt.Sprintf(" %s, %d iterations", printable(k.KDF.Hash), k.KDF.Iterations)
	default:
		text += fmt.Sprintf(", %d passes, %s, %d threads", k.KDF.TimeCost, bytesText(int64(k.KDF.MemoryKiB)<<10), k.KDF.Threads)
	}
	switch k.Priority {
	case luks.PriorityIgnore:
		text += ", used only by number"
	case luks.PriorityPrefer:
		text += ", preferred"
	}
	if !k.Bound {
		text += ", holds no key of the data"
	}
	return text
}

// bytesText is a number of bytes, also in the largest unit that it is a whole number of.
func bytesText(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i, v := 0, n
	for i < len(units)-1 && v >= 1024 && v%1024 == 0 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d %s (%d bytes)", v, units[i], n)
}
