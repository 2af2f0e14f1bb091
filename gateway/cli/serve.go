// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/metrics"
)

const defaultConfig = "/etc/luksgate/luksgate.conf"

func newServe(s std) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve [--config FILE]",
		Short: "Serve many images over NBD, as a configuration file says",
		Long: `Serve all exports of a configuration file, luksgate.conf(5), until SIGTERM or SIGINT.

An image is opened when its first client comes, unless the file says that it is to be open from the start, and closed
some time after the last one has left. SIGHUP, or luksgate reload, applies a changed file without touching exports that
did not change. luksgate ls, add, rm, drain, stats, top and upgrade talk to the running daemon.

It is ready when it logs "serving", and tells systemd so. SIGTERM finishes the requests under way, closes the images and
exits 0.`,
		Example: `  luksgate config example > /etc/luksgate/luksgate.conf
  luksgate config check --config /etc/luksgate/luksgate.conf
  luksgate serve --config /etc/luksgate/luksgate.conf`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), s, path) },
	}
	cmd.Flags().StringVar(&path, "config", defaultConfig, "configuration file")
	return cmd
}

func serve(ctx context.Context, s std, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	log, level, err := daemonLogger(s.err, cfg.Log)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	d, err := daemon.New(daemon.Options{
		Path: path, Config: cfg, Logger: log, Level: level, Handover: predecessor(),
		Build: metrics.Build{Version: Version, Go: runtime.Version(), Librbd: rbd.Version(), Kernel: xts.Kernel()},
	})
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for range hup {
			_, _ = d.Reload() // it has logged how that went
		}
	}()
	return d.Run(ctx)
}

// predecessor is the connection to the process whose work this one takes over, or nil.
func predecessor() *os.File {
	fd, err := strconv.Atoi(os.Getenv(daemon.EnvHandover))
	_ = os.Unsetenv(daemon.EnvHandover)
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "predecessor")
}

// daemonLogger logs as the configuration says. The level may be changed later.
func daemonLogger(w io.Writer, c config.Log) (*slog.Logger, *slog.LevelVar, error) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, nil, fmt.Errorf("log level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), level, nil
	}
	return slog.New(slog.NewTextHandler(w, options)), level, nil
}
