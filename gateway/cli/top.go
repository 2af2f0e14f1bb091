// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/luksgate/luksgate/gateway/daemon/api"
)

func newTop(s std) *cobra.Command {
	var admin adminFlags
	var every time.Duration
	var rounds int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the exports do, as it happens",
		Long: `Show what the exports do, as it happens: requests and bytes per second, how long half and 99 of 100 requests took at
most, how many are in flight, errors since it was started, and who decrypts. The busiest are on top. A narrow terminal shows
fewer columns. q or Ctrl-C ends it. Without a terminal the tables come one after the other.`,
		Example: `  luksgate top
  luksgate top --every 5s --rounds 1    # one table over five seconds, for a script`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usage("--every %v: expected at least 100ms", every)
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			return (&topView{out: s.out, in: s.in, every: every, rounds: rounds}).run(ctx, admin.client())
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "time between two tables")
	cmd.Flags().IntVar(&rounds, "rounds", 0, "how many tables to show (0: until Ctrl-C)")
	return cmd
}

// Control sequences of terminals (ECMA-48, and xterm's for the other screen).
const (
	screenBegin = "\x1b[?1049h\x1b[?25l" // another screen, without a cursor
	screenEnd   = "\x1b[?25h\x1b[?1049l" // the one before, as it was
	screenHome  = "\x1b[H"
	screenRest  = "\x1b[J" // to its end: nothing
	lineRest    = "\x1b[K"
	reversed    = "\x1b[7m"
	red         = "\x1b[31m"
	plainText   = "\x1b[0m"
)

// A topView shows tables: on a terminal in place, and one after the other elsewhere.
type topView struct {
	out    io.Writer
	in     io.Reader
	every  time.Duration
	rounds int

	tty                  *os.File // nil without a terminal
	colours              bool
	first, before, after api.Stats // what is shown
}

func (v *topView) run(ctx context.Context, c *api.Client) error {
	var err error
	if v.after, err = c.Stats(ctx); err != nil {
		return err
	}
	v.first = v.after
	if tty, live := isTerminal(v.out); live && os.Getenv("TERM") != "dumb" {
		v.tty, v.colours = tty, os.Getenv("NO_COLOR") == ""
		fmt.Fprintf(v.out, "%sthe first table comes after %v  (q quits)", screenBegin+screenHome+screenRest, v.every)
		defer v.leave()
		defer v.quiet()()
	}
	keys, resized := v.keys(), make(chan os.Signal, 1)
	if v.tty != nil {
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
	}
	tick := time.NewTicker(v.every)
	defer tick.Stop()
	for round := 1; v.rounds == 0 || round <= v.rounds; {
		select {
		case <-ctx.Done():
			return nil
		case key, ok := <-keys:
			if !ok {
				keys = nil // no keyboard, or its end
			}
			if key == 'q' || key == 'Q' {
				return nil
			}
		case <-resized:
			v.show()
		case <-tick.C:
			now, err := c.Stats(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			v.before, v.after = v.after, now
			v.show()
			round++
		}
	}
	return nil
}

// leave goes back to the screen before, where the last table stays if a number of them was asked for.
func (v *topView) leave() {
	fmt.Fprint(v.out, screenEnd)
	if v.rounds > 0 && !v.before.At.IsZero() {
		v.tty = nil
		v.show()
	}
}

// show shows what is known now.
func (v *topView) show() {
	if v.before.At.IsZero() {
		return
	}
	width, height := 0, 0
	if tty, ok := isTerminal(v.out); ok {
		var err error
		if width, height, err = term.GetSize(int(tty.Fd())); err != nil {
			width, height = 80, 24
		}
	}
	if v.tty == nil {
		fmt.Fprintln(v.out, strings.Join(topTable(v.first, v.before, v.after, width, 0), "\n"))
		return
	}
	lines := topTable(v.first, v.before, v.after, width, height)
	for i := range lines {
		lines[i] = v.coloured(i, lines[i]) + lineRest
	}
	fmt.Fprint(v.out, screenHome+strings.Join(lines, "\r\n")+screenRest)
}

// coloured is a line of the table: the second one is its head, and what failed is red.
func (v *topView) coloured(i int, line string) string {
	switch {
	case !v.colours:
		return line
	case i == 1:
		return reversed + line + plainText
	case strings.Contains(line, failedMark):
		return red + line + plainText
	}
	return line
}

// quiet has the terminal pass keys on at once and show none of them. It returns the way back.
func (v *topView) quiet() (restore func()) {
	in, ok := isTerminal(v.in)
	if !ok {
		return func() {}
	}
	was, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return func() {}
	}
	now := *was
	now.Lflag &^= unix.ICANON | unix.ECHO // ISIG stays: Ctrl-C is a signal
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	now.Cc[unix.VSUSP] = 0 // Ctrl-Z would leave the shell at the other screen, without a cursor
	_ = unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &now)
	return func() { _ = unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, was) }
}

// keys are those that are pressed. The goroutine ends with the process, since a read at a terminal cannot be taken back.
func (v *topView) keys() <-chan byte {
	if _, ok := isTerminal(v.in); v.tty == nil || !ok {
		return nil
	}
	keys := make(chan byte)
	go func() {
		defer close(keys)
		b := make([]byte, 1)
		for {
			if n, err := v.in.Read(b); err != nil || n == 0 {
				return
			}
			keys <- b[0]
		}
	}()
	return keys
}
