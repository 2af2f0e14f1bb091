// SPDX-License-Identifier: Apache-2.0

// Package doctor looks at a host and says what keeps guests on it from using the gateway, and what to do about it.
//
// It only looks: nothing is changed, and no image is opened for writing. Every check gives at least one Finding.
package doctor

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// Status is how bad a finding is.
type Status string

// Error means that guests cannot use the gateway, or that somebody else could; Warning that it works worse than it could;
// Skipped that there was nothing to look at.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Error   Status = "error"
	Skipped Status = "skipped"
)

// A Finding is the result of one check.
type Finding struct {
	// Check is a name that stays the same between versions, such as "socket-dir".
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Found is what there is, in one or more sentences.
	Found string `json:"found"`
	// Advice is what to do, in sentences; empty if nothing is to be done.
	Advice string `json:"advice,omitempty"`
	// Commands are shell lines that do it, with words in capitals to be replaced.
	Commands []string `json:"commands,omitempty"`
}

// Options say what is looked at.
type Options struct {
	// Root is the directory that stands for /, for all files of the host but devices and sockets; default "/".
	Root string
	// SocketDir is where the gateway's sockets are; default DefaultSocketDir.
	SocketDir string
	// TLS says that guests connect over TCP with TLS.
	TLS bool
	// Ceph says how the gateway reaches the cluster.
	Ceph rbd.Config
	// NoCeph leaves the cluster out, for a gateway of files.
	NoCeph bool
	// Images, all in RBD, are looked for in the cluster.
	Images []image.Ref
	// Versions asks the libvirt of the host; nil where it is not to be asked.
	Versions func(context.Context) (libvirt, qemu attach.Version, err error)
}

// DefaultSocketDir is where the gateway's sockets are unless something else is said.
const DefaultSocketDir = "/run/luksgate"

// Run runs all checks, in the order of a request's way from the guest to the cluster.
func Run(ctx context.Context, opts Options) []Finding {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.SocketDir == "" {
		opts.SocketDir = DefaultSocketDir
	}
	opts.SocketDir = filepath.Clean(opts.SocketDir)
	h := newHost(opts.Root)
	var all []Finding
	all = append(all, checkVersions(ctx, opts)...)
	all = append(all, h.checkSocketDir(opts.SocketDir)...)
	all = append(all, h.checkAppArmor(opts.SocketDir)...)
	all = append(all, h.checkTLS(opts.TLS)...)
	all = append(all, h.checkProcess()...)
	all = append(all, checkLibrbd(opts)...)
	return append(all, checkCluster(ctx, opts)...)
}

// A checkName makes the findings of one check.
type checkName string

func (c checkName) ok(format string, args ...any) Finding {
	return Finding{Check: string(c), Status: OK, Found: fmt.Sprintf(format, args...)}
}

func (c checkName) skipped(format string, args ...any) Finding {
	return Finding{Check: string(c), Status: Skipped, Found: fmt.Sprintf(format, args...)}
}

func (c checkName) warning(format string, args ...any) Finding {
	return Finding{Check: string(c), Status: Warning, Found: fmt.Sprintf(format, args...)}
}

func (c checkName) bad(format string, args ...any) Finding {
	return Finding{Check: string(c), Status: Error, Found: fmt.Sprintf(format, args...)}
}

// do adds what to do about it.
func (f Finding) do(advice string, commands ...string) Finding {
	f.Advice, f.Commands = advice, commands
	return f
}

// Healthy says whether no finding is an Error.
func Healthy(all []Finding) bool {
	for _, f := range all {
		if f.Status == Error {
			return false
		}
	}
	return true
}
