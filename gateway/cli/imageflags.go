// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
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

// keyFlags say where a passphrase is.
type keyFlags struct {
	prefix string // of the flags' names
	files  []string
	chain  bool // several files are the keys of a chain of clones
	fd     int
	trim   bool
}

func (f *keyFlags) add(fs *pflag.FlagSet) { f.addAs(fs, "", "the passphrase") }

// addAs adds the flags with a prefix to their names, for the passphrase that is called what.
func (f *keyFlags) addAs(fs *pflag.FlagSet, prefix, what string) {
	f.prefix = "--" + prefix
	text := "file with " + what + ", all its bytes as they are"
	if f.chain {
		text += "; given several times: for a clone, then its parent and so on, the last for all further ones"
	}
	fs.StringArrayVar(&f.files, prefix+"key-file", nil, text)
	fs.IntVar(&f.fd, prefix+"key-fd", -1, "inherited file descriptor to read "+what+" from")
	fs.BoolVar(&f.trim, prefix+"key-trim-newline", false,
		"drop one newline at the end of "+what+", as rbd tools before Ceph 18 did")
}

// given tells whether there is a flag that names a source.
func (f *keyFlags) given() bool { return len(f.files) > 0 || f.fd >= 0 }

// source returns where the passphrase comes from: the flags, else a person at the terminal, else nowhere (nil).
func (f *keyFlags) source(s std, ref image.Ref) (key.Source, error) {
	return f.ask(s, fmt.Sprintf("Passphrase of %s", ref), false)
}

// newSource is source for a passphrase that there will be.
func (f *keyFlags) newSource(s std, ref image.Ref) (key.Source, error) {
	source, err := f.ask(s, fmt.Sprintf("New passphrase of %s", ref), true)
	if err == nil && source == nil {
		err = usage("name the new passphrase with %[1]skey-file or %[1]skey-fd", f.prefix)
	}
	return source, err
}

// ask puts a question where no flag is the answer.
func (f *keyFlags) ask(s std, question string, twice bool) (key.Source, error) {
	if len(f.files) > 0 && f.fd >= 0 {
		return nil, usage("%[1]skey-file and %[1]skey-fd exclude each other", f.prefix)
	}
	if len(f.files) > 1 && !f.chain {
		return nil, usage("%skey-file: one is enough here", f.prefix)
	}
	var source key.Source
	switch in, ok := isTerminal(s.in); {
	case len(f.files) > 0:
		source = key.File(f.files[0])
	case f.fd >= 0:
		source = key.FD(f.fd)
	case ok:
		return key.Terminal{In: in, Out: s.err, Question: question, Twice: twice}, nil
	default:
		return nil, nil
	}
	return f.trimmed(source), nil
}

func (f *keyFlags) trimmed(source key.Source) key.Source {
	if f.trim {
		return key.TrimNewline{Source: source}
	}
	return source
}

// parents are the sources of the passphrases of a clone's parents.
func (f *keyFlags) parents() []key.Source {
	var all []key.Source
	for i, file := range f.files {
		if i > 0 {
			all = append(all, f.trimmed(key.File(file)))
		}
	}
	return all
}

// headerFlags say where a header is and what it may cost to open.
type headerFlags struct {
	file   string
	memory string
}

func (f *headerFlags) addFile(fs *pflag.FlagSet) {
	fs.StringVar(&f.file, "header", "", "file of a detached header; without it the header is in the image")
}

func (f *headerFlags) addMemory(fs *pflag.FlagSet) {
	fs.StringVar(&f.memory, "kdf-memory-limit", "1G",
		"refuse keyslots whose key derivation takes more memory than this, at most 4G")
}

// set puts the flags into cfg.
func (f *headerFlags) set(cfg *gateway.Config) error {
	cfg.Header = f.file
	if f.memory == "" { // the verb does not unlock
		return nil
	}
	n, err := image.ParseSize(f.memory)
	if err != nil || n == 0 || n > kdf.MaxMemoryLimitBytes {
		return usage("--kdf-memory-limit %q: expected a size from 1 to 4G", f.memory)
	}
	cfg.KDFMemoryLimitBytes = uint64(n)
	return nil
}

// imageFlags say which image is opened how.
type imageFlags struct {
	ceph     cephFlags
	key      keyFlags
	header   headerFlags
	readOnly bool
	plain    bool
	engine   string
	lock     string
	takeover bool
	holes    string
	zeroes   string
}

func (f *imageFlags) add(fs *pflag.FlagSet) {
	f.key.chain = true
	f.key.add(fs)
	f.header.addFile(fs)
	f.header.addMemory(fs)
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
	if err := f.header.set(&cfg); err != nil {
		return cfg, err
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
	cfg.ParentKeys = f.key.parents()
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
