// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// envAdmin names the admin socket where the flag does not.
const envAdmin = "LUKSGATE_ADMIN"

// adminFlags say which daemon is meant.
type adminFlags struct{ socket string }

func (f *adminFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.socket, "admin", "", "admin socket of the daemon (default $"+envAdmin+", "+config.DefaultAdminSocket+")")
}

func (f *adminFlags) client() *api.Client {
	return api.NewClient(cmp.Or(f.socket, os.Getenv(envAdmin), config.DefaultAdminSocket))
}

// background is a command's context, which cobra leaves out where there is none.
func background(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

// daemonCommands are the verbs about a daemon.
func daemonCommands(s std) []*cobra.Command {
	return []*cobra.Command{
		newServe(s), newConfig(s), newLs(s), newAdd(s), newRm(s), newDrain(s), newStats(s), newReload(s), newTop(s), newUpgrade(s),
	}
}

// sizeText is a size for people.
func sizeText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}
