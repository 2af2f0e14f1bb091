// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/fio"
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/bench/workload"
)

// fioRBD is fio's rbd engine, which does requests on the raw image in its own process. It opens the image anew each time,
// which costs more processor time than the requests of a short window: that is not told.
type fioRBD struct{}

// writeRamp is how long fio warms up at least where it writes: the exclusive lock comes from whoever wrote before.
const writeRamp = 1200 * time.Millisecond

// Name implements lab.Peer.
func (fioRBD) Name() string { return "fio-rbd" }

// Start implements lab.Peer.
func (f fioRBD) Start(ctx context.Context, setup *lab.Setup) (engine.Contestant, error) {
	out, err := exec.CommandContext(ctx, "fio", "--enghelp").Output()
	if err != nil || !strings.Contains(string(out), "rbd") {
		return nil, fmt.Errorf("%w: there is no fio with an rbd engine here", lab.ErrAbsent)
	}
	images, err := setup.NewImages(ctx)
	if err != nil {
		return nil, err
	}
	if images[0].Ref.Namespace != "" {
		return nil, fmt.Errorf("%w: fio's rbd engine knows no namespaces", lab.ErrAbsent)
	}
	what := result.Contestant{Name: f.Name(), Text: "fio's rbd engine on the raw image, in process, nothing encrypted", Reference: setup.Reference(false)}
	conf, err := withoutCache(setup)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lab.ErrAbsent, err)
	}
	return &fioJobs{what, setup, images, conf}, nil
}

// withoutCache writes a configuration for fio, which has no option for one and would use librbd's cache, as nobody else here.
func withoutCache(setup *lab.Setup) (string, error) {
	from := setup.Ceph.ConfFile
	for _, name := range []string{os.Getenv("CEPH_CONF"), "/etc/ceph/ceph.conf"} {
		if from == "" {
			from = name
		}
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	path := filepath.Join(setup.Dir, "fio.conf")
	return path, os.WriteFile(path, append(b, "\n[client]\nrbd_cache = false\n"...), 0o600)
}

type fioJobs struct {
	what   result.Contestant
	setup  *lab.Setup
	images []*scratch.Image
	conf   string // of the cluster
}

// Info implements engine.Contestant.
func (f *fioJobs) Info() result.Contestant { return f.what }

// Close implements engine.Contestant.
func (f *fioJobs) Close() error { return nil }

// Run implements engine.Contestant.
func (f *fioJobs) Run(ctx context.Context, w workload.Workload, seed uint64, win engine.Window) (result.Round, error) {
	user := strings.TrimPrefix(f.setup.Ceph.User, "client.")
	if user == "" {
		user = "admin"
	}
	ramp := max(time.Until(win.From), 0)
	if w.Kind.Writes() {
		ramp = max(ramp, writeRamp)
	}
	argv := []string{
		"--ioengine=rbd", "--clientname=" + user, "--pool=" + f.images[0].Ref.Pool, "--rw=" + string(w.Kind),
		fmt.Sprintf("--bs=%d", w.BlockBytes), fmt.Sprintf("--iodepth=%d", w.Depth), fmt.Sprintf("--numjobs=%d", w.Clients),
		fmt.Sprintf("--offset=%d", f.images[0].DataOffsetBytes), fmt.Sprintf("--size=%d", f.setup.SizeBytes),
		"--rwmixread=70", "--time_based", fmt.Sprintf("--randseed=%d", seed), "--group_reporting", "--refill_buffers",
		fmt.Sprintf("--ramp_time=%dms", ramp.Milliseconds()),
		fmt.Sprintf("--runtime=%dms", win.To.Sub(win.From).Milliseconds()),
		"--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:90:99:99.9", "--output-format=json",
	}
	for i, img := range f.images[:w.Images] {
		argv = append(argv, "--name="+strconv.Itoa(i), "--rbdname="+img.Ref.Image)
	}
	cmd := exec.CommandContext(ctx, "fio", argv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = stopTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "CEPH_CONF="+f.conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return result.Round{}, fmt.Errorf("fio: %w\n%s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parseFio(out, win.Seconds())
}

// parseFio takes the numbers out of fio's output. Percentiles of a mixed workload are those of its reads, of which there
// are more.
func parseFio(out []byte, seconds float64) (result.Round, error) {
	job, err := fio.Parse(out)
	if err != nil {
		return result.Round{}, err
	}
	side := job.Read
	if side.Total == 0 {
		side = job.Write
	}
	requests := job.Read.Total + job.Write.Total
	if requests == 0 {
		return result.Round{}, fmt.Errorf("fio: %w", engine.ErrNothing)
	}
	return result.Round{
		Requests: uint64(requests), Seconds: seconds, IOPS: job.Read.IOPS + job.Write.IOPS,
		Latency: result.Latency{
			Mean: side.Latency.Mean / 1e3, P50: side.Micros("50.000000"), P90: side.Micros("90.000000"),
			P99: side.Micros("99.000000"), P999: side.Micros("99.900000"), Max: side.Latency.Max / 1e3,
		},
	}, nil
}
