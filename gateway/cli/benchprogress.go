// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// benchProgress is a bar on the terminal, and nothing where there is none. It may be used by several goroutines.
type benchProgress struct {
	out *os.File // nil: no terminal

	mu    sync.Mutex
	what  string
	total int64
	bar   *progressbar.ProgressBar
}

func newBenchProgress(s std) *benchProgress {
	f, ok := isTerminal(s.err)
	if !ok {
		return &benchProgress{}
	}
	return &benchProgress{out: f}
}

// bytes shows how much of something is done.
func (p *benchProgress) bytes(what string, done, total int64) { p.show(what, done, total, true) }

// steps shows how many measurements are done.
func (p *benchProgress) steps(what string, done, total int) {
	p.show(what, int64(done), int64(total), false)
}

// text shows what is done that has no measure.
func (p *benchProgress) text(what string) { p.show(what, 0, -1, false) }

func (p *benchProgress) show(what string, done, total int64, inBytes bool) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || p.total != total {
		p.end()
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.out), progressbar.OptionShowBytes(inBytes), progressbar.OptionSetWidth(24),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetDescription(what), progressbar.OptionClearOnFinish())
		p.total, p.what = total, what
	}
	if p.what != what {
		p.what = what
		p.bar.Describe(what)
	}
	_ = p.bar.Set64(done) // a bar that cannot be drawn is no reason to stop
}

// clear removes the bar.
func (p *benchProgress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

func (p *benchProgress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
