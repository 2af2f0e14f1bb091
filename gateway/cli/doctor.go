// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway/doctor"
	"github.com/luksgate/luksgate/gateway/image"
)

// doctorTimeout bounds how long the cluster is waited for.
const doctorTimeout = 45 * time.Second

type doctorFlags struct {
	opts    doctor.Options
	ceph    cephFlags
	images  []string
	connect string
	asJSON  bool
}

func newDoctor(s std) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps guests on this host from using the gateway, and say what to do",
		Long: `Look at this host: the versions of libvirt and qemu, the directory of the sockets, AppArmor, certificates, the
processor's AES, limits, librbd, the cluster and the caps of the ceph user. Nothing is changed. Run it as the user and on the
host that the gateway runs on, or as root to see everything. Exits 1 if there is an error.`,
		Example: `  luksgate doctor --ceph-user luksgate --image rbd:vms/web1
  luksgate doctor --no-ceph --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), s) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.opts.SocketDir, "socket-dir", doctor.DefaultSocketDir, "directory of the gateway's sockets")
	fs.BoolVar(&f.opts.TLS, "tls", false, "guests use TLS over TCP: look at their certificates")
	fs.StringArrayVar(&f.images, "image", nil, "rbd:POOL/IMAGE that must be readable; several times for several")
	fs.StringVar(&f.connect, "connect", "", "URI of libvirt, or none (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)")
	fs.BoolVar(&f.opts.NoCeph, "no-ceph", false, "leave the cluster out")
	fs.StringVar(&f.opts.Root, "root", "/", "directory that stands for /, where the host's files are seen from a container")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON")
	f.ceph.add(fs)
	return cmd
}

func (f *doctorFlags) run(ctx context.Context, s std) error {
	for _, text := range f.images {
		ref, err := image.ParseRef(text)
		if err != nil {
			return err
		}
		if ref.Scheme != image.RBD || f.opts.NoCeph {
			return usage("--image %s: only images in RBD are looked for, and not with --no-ceph", text)
		}
		f.opts.Images = append(f.opts.Images, ref)
	}
	f.opts.Ceph = f.ceph.config()
	if f.connect != "none" {
		f.opts.Versions = func(ctx context.Context) (attach.Version, attach.Version, error) { return askVersions(ctx, f.connect) }
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	found := doctor.Run(ctx, f.opts)
	if err := f.print(s, found); err != nil {
		return err
	}
	if !doctor.Healthy(found) {
		return errors.New("this host is not ready: see the errors above")
	}
	return nil
}

func (f *doctorFlags) print(s std, found []doctor.Finding) error {
	if f.asJSON {
		return printJSON(s, found)
	}
	count := map[doctor.Status]int{}
	for _, finding := range found {
		count[finding.Status]++
		if err := printFinding(s.out, finding); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(s.out, "%s: %s, %s.\n", plural(len(found), "finding"), plural(count[doctor.Error], "error"),
		plural(count[doctor.Warning], "warning"))
	return err
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

// doctorColumns is how wide the sentences of findings are.
const doctorColumns = 80

// printFinding prints what was found beside the check's name, the advice below it, and commands as lines of their own, which
// are never broken.
func printFinding(w io.Writer, f doctor.Finding) error {
	var out strings.Builder
	head := fmt.Sprintf("%-8s %-10s ", f.Status, f.Check)
	indent := strings.Repeat(" ", len(head))
	for _, line := range wrap(f.Found, doctorColumns) {
		out.WriteString(head + line + "\n")
		head = indent
	}
	if f.Advice != "" {
		for i, line := range wrap(f.Advice, doctorColumns-3) {
			mark := "   "
			if i == 0 {
				mark = "-> "
			}
			out.WriteString(indent + mark + line + "\n")
		}
	}
	for _, command := range f.Commands {
		out.WriteString(indent + "     " + command + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// wrap breaks text into lines of at most so many bytes, at spaces. A longer word has a line for itself.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
