// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway/image"
)

type addFlags struct {
	admin         adminFlags
	file          string
	name, socket  string
	keyFile       string
	trim          bool
	readOnly      bool
	plain         bool
	engine, conf  string
	user, descr   string
	openFromStart bool
}

func newAdd(s std) *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add (IMAGE --socket PATH [--key-file FILE] | --file FILE)",
		Short: "Add an export to the running daemon",
		Long: `Add an export to the running daemon. It stays until luksgate rm or the daemon's end, also over luksgate reload and
luksgate upgrade, but it is not written to the configuration file.

--file takes all that an entry of the section exports of luksgate.conf(5) can say, in YAML or JSON; - is standard input.
Adding what is there already with the same configuration is no error.`,
		Example: `  luksgate add rbd:volumes/vm5 --socket /run/luksgate/vm5.sock --key-file /etc/luksgate/keys/vm5
  luksgate add --file export.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := f.export(s, args)
			if err != nil {
				return err
			}
			e, err := f.admin.client().Add(background(cmd.Context()), text)
			if err != nil {
				return err
			}
			for _, uri := range e.URIs {
				fmt.Fprintln(s.out, uri)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	f.admin.add(fs)
	fs.StringVar(&f.file, "file", "", "file with the export's configuration (- is standard input)")
	fs.StringVar(&f.name, "name", "", "name of the export (default: the image's name)")
	fs.StringVar(&f.descr, "description", "", "text that clients can read")
	fs.StringVar(&f.socket, "socket", "", "unix socket to serve on")
	fs.StringVar(&f.keyFile, "key-file", "", "file with the passphrase, which the daemon reads")
	fs.BoolVar(&f.trim, "key-trim-newline", false, "drop one newline at the end of the passphrase")
	fs.BoolVarP(&f.readOnly, "read-only", "r", false, "serve it read-only")
	fs.BoolVar(&f.plain, "plain", false, "serve the image's bytes as they are, without decrypting")
	fs.StringVar(&f.engine, "engine", "", "who decrypts: auto, native or librbd (default: the daemon's)")
	fs.StringVar(&f.conf, "ceph-conf", "", "ceph.conf of the cluster (default: the daemon's)")
	fs.StringVar(&f.user, "ceph-user", "", "cephx user (default: the daemon's)")
	fs.BoolVar(&f.openFromStart, "open", false, "open the image at once and keep it open")
	return cmd
}

// export is what the daemon gets: a file as it is, or a mapping made of the flags.
func (f *addFlags) export(s std, args []string) ([]byte, error) {
	if (f.file == "") == (len(args) == 0) {
		return nil, usage("give one of IMAGE and --file")
	}
	if f.file == "-" {
		return io.ReadAll(s.in)
	}
	if f.file != "" {
		text, err := os.ReadFile(f.file)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		return text, nil
	}
	ref, err := image.ParseRef(args[0])
	if err != nil {
		return nil, err
	}
	if f.name == "" {
		f.name = ref.BaseName()
	}
	e := map[string]any{"name": f.name, "image": ref.String()}
	var errs []error
	put := func(key, value string, path bool) {
		if value == "" {
			return
		}
		if path { // the daemon is in another folder
			absolute, err := filepath.Abs(value)
			errs = append(errs, err)
			value = absolute
		}
		e[key] = value
	}
	if ref.Scheme == image.File {
		path, err := filepath.Abs(ref.Path)
		errs = append(errs, err)
		e["image"] = "file:" + path
	}
	put("socket", f.socket, true)
	put("engine", f.engine, false)
	put("description", f.descr, false)
	if f.keyFile != "" {
		path, err := filepath.Abs(f.keyFile)
		errs = append(errs, err)
		e["key"] = map[string]any{"file": path, "trim_newline": f.trim}
	}
	if f.conf != "" || f.user != "" {
		e["ceph"] = map[string]any{"conf": f.conf, "user": f.user}
	}
	if f.openFromStart {
		e["open"] = "start"
	}
	e["read_only"], e["plain"] = f.readOnly, f.plain
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}
