// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// metric is the lines of a metric for an export.
func (d *server) metric(name, export string) string {
	d.t.Helper()
	_, text := d.get("/metrics")
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `export="`+export+`"`) && !strings.HasSuffix(line, " 0\n") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// A fioLoad is a fio that reads and writes until it is ended.
type fioLoad struct {
	t *testing.T
	p *testenv.Process
}

func startFio(t *testing.T, uri string) *fioLoad {
	t.Helper()
	return &fioLoad{t, testenv.StartCmd(t, exec.Command(testenv.Tool(t, "fio"), "--name=load", "--ioengine=nbd", "--uri="+uri,
		"--rw=randrw", "--bs=4k", "--iodepth=16", "--time_based", "--runtime="+strconv.Itoa(int((20*time.Minute).Seconds())),
		"--output-format=json"))}
}

// end ends fio, and fails the test unless all went well. It says what fio measured.
func (l *fioLoad) end() string {
	l.t.Helper()
	l.p.Signal(syscall.SIGINT)
	l.p.Wait()
	out := l.p.Output()
	var report struct {
		Jobs []struct {
			Error       int
			Read, Write struct {
				TotalIOs int `json:"total_ios"`
				Latency  struct {
					Max        float64
					Percentile map[string]float64
				} `json:"clat_ns"`
			}
		}
	}
	i := strings.Index(out, "{\n")
	if i < 0 || json.NewDecoder(strings.NewReader(out[i:])).Decode(&report) != nil || len(report.Jobs) != 1 {
		l.t.Fatalf("fio has no report:\n%s", out)
	}
	j := report.Jobs[0]
	if j.Error != 0 || j.Read.TotalIOs == 0 || j.Write.TotalIOs == 0 {
		l.t.Errorf("fio: error %d, %d reads, %d writes\n%s", j.Error, j.Read.TotalIOs, j.Write.TotalIOs, out)
	}
	ms := func(nanos float64) string { return fmt.Sprintf("%.1f ms", nanos/1e6) }
	return fmt.Sprintf("fio: %d reads, p99 %s, max %s; %d writes, p99 %s, max %s", j.Read.TotalIOs, ms(j.Read.Latency.Percentile["99.000000"]),
		ms(j.Read.Latency.Max), j.Write.TotalIOs, ms(j.Write.Latency.Percentile["99.000000"]), ms(j.Write.Latency.Max))
}
