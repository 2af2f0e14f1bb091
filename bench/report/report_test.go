// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

// document is a run whose names try to be markup.
func document() *result.Document {
	d := &result.Document{
		Target: `rbd:pool/<b>"image"</b>`, Started: time.Unix(0, 0).UTC(), Complete: true,
		Machine: result.Machine{Processor: "Z80", Processors: 1}, Versions: map[string]string{"luksgate": "<i>1</i>"},
		Contestants: []result.Contestant{{Name: "cipher"}, {Name: "<u>native</u>", Text: "it & us", Reference: "librbd"}, {Name: "librbd"}},
		Skipped:     []result.Skipped{{Name: "qemu-nbd", Why: "not measured: <nothing>"}},
	}
	for _, w := range workload.Full.Workloads() {
		for i, c := range d.Contestants {
			r := result.Result{Workload: w, Contestant: c.Name}
			for n := range 5 {
				iops := float64(1000*(i+1) + 10*n)
				r.Rounds = append(r.Rounds, result.Round{
					Requests: 1, IOPS: iops, Latency: result.Latency{P50: 1, P90: 2, P99: 3, P999: 4}, CPU: []result.CPU{{Process: "<client>", Micros: 2}, {Process: "server", Micros: 3}},
				})
			}
			d.Results = append(d.Results, r)
		}
	}
	d.Summarize()
	return d
}

func TestPageEscapesWhatOthersNamed(t *testing.T) {
	d := document()
	var page bytes.Buffer
	if err := HTML(&page, d); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<b>", "<i>1", "<u>", "<nothing>", "<client>"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page holds %s", bad)
		}
	}
	for _, want := range []string{"Random write", "1 MiB", "images", "clients of each image", "requests in flight", "0.67", "All figures", "Z80"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	Table(&out, document())
	for _, want := range []string{"randread 4k depth 16 images 16", "<client> 2.00, server 3.00", "0.67 (0.67 to 0.67) of librbd", "Note: 1 processors", "<nothing>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%.3000s", want, out.String())
		}
	}
}

func TestNothing(t *testing.T) {
	var out bytes.Buffer
	d := &result.Document{}
	d.Summarize()
	Table(&out, d)
	if err := HTML(&out, d); err != nil {
		t.Error(err)
	}
}
