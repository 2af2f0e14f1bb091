// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
)

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// cephFlags say how to reach a cluster.
type cephFlags struct {
	conf, user string
	options    map[string]string
}

func (f *cephFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.conf, "ceph-conf", "", "ceph.conf of the cluster (default: $CEPH_CONF, /etc/ceph/ceph.conf, ...)")
	fs.StringVar(&f.user, "ceph-user", "", `cephx user, with or without "client." (default admin)`)
	fs.StringToStringVar(&f.options, "ceph-option", nil, "librados or librbd settings, NAME=VALUE,... (docs/tuning.md)")
}

func (f *cephFlags) config() rbd.Config {
	return rbd.Config{ConfFile: f.conf, User: f.user, Options: f.options}
}

// keyFlags say where the passphrase is.
type keyFlags struct {
	file string
	fd   int
	trim bool
}

func (f *keyFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.file, "key-file", "", "file with the passphrase, all its bytes as they are")
	fs.IntVar(&f.fd, "key-fd", -1, "inherited file descriptor to read the passphrase from")
	fs.BoolVar(&f.trim, "key-trim-newline", false,
		"drop one newline at the end of the passphrase, as rbd tools before Ceph 18 did")
}

// source returns where the passphrase comes from: the flags, else a person at the terminal, else nowhere (nil).
func (f *keyFlags) source(s std, ref image.Ref) (key.Source, error) {
	if f.file != "" && f.fd >= 0 {
		return nil, usage("--key-file and --key-fd exclude each other")
	}
	var source key.Source
	switch in, ok := isTerminal(s.in); {
	case f.file != "":
		source = key.File(f.file)
	case f.fd >= 0:
		source = key.FD(f.fd)
	case ok:
		return key.Terminal{In: in, Out: s.err, Question: fmt.Sprintf("Passphrase of %s", ref)}, nil
	default:
		return nil, nil
	}
	if f.trim {
		source = key.TrimNewline{Source: source}
	}
	return source, nil
}

// imageFlags say which image is opened how.
type imageFlags struct {
	ceph     cephFlags
	key      keyFlags
	readOnly bool
	plain    bool
	engine   string
	lock     string
	takeover bool
	holes    string
	zeroes   string
}

func (f *imageFlags) add(fs *pflag.FlagSet) {
	f.key.add(fs)
	fs.BoolVarP(&f.readOnly, "read-only", "r", false, "serve it read-only; a snapshot always is")
	fs.BoolVar(&f.plain, "plain", false, "serve the image's bytes as they are, without decrypting")
	fs.StringVar(&f.engine, "engine", "auto", "who decrypts: auto, native or librbd")
	fs.StringVar(&f.lock, "lock", string(rbd.LockCooperative),
		"exclusive lock of an RBD image: cooperative (taken at the first write, handed over on request), exclusive (kept) or none")
	fs.BoolVar(&f.takeover, "takeover", false, "break the exclusive lock of another client, which the cluster then blocks")
	fs.StringVar(&f.zeroes, "zeroes", "object",
		"how WRITE_ZEROES makes zeros: object (free whole objects), encrypt (as any data) or punch (free everything; "+
			"other engines read noise there)")
	fs.StringVar(&f.holes, "holes", "zero",
		"what never-written sectors read as: zero (as librbd has them) or decrypt (as dm-crypt and qemu have them)")
	f.ceph.add(fs)
}

// config joins the flags and the image's name.
func (f *imageFlags) config(s std, arg string, log *slog.Logger) (gateway.Config, error) {
	ref, err := image.ParseRef(arg)
	if err != nil {
		return gateway.Config{}, err
	}
	cfg := gateway.Config{
		Image: ref, ReadOnly: f.readOnly, Plain: f.plain, Engine: gateway.Engine(f.engine),
		Lock: rbd.LockMode(f.lock), Takeover: f.takeover, Ceph: f.ceph.config(), Logger: log,
	}
	switch f.holes {
	case "zero":
		cfg.Holes = volume.HolesZero
	case "decrypt":
		cfg.Holes = volume.HolesDecrypt
	default:
		return cfg, usage("--holes %q: expected zero or decrypt", f.holes)
	}
	switch f.zeroes {
	case "object":
		cfg.Zeroes = volume.ZeroesObject
	case "encrypt":
		cfg.Zeroes = volume.ZeroesEncrypt
	case "punch":
		cfg.Zeroes = volume.ZeroesPunch
	default:
		return cfg, usage("--zeroes %q: expected object, encrypt or punch", f.zeroes)
	}
	cfg.Key, err = f.key.source(s, ref)
	return cfg, err
}

// newLogger logs to a person or a journal.
func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
