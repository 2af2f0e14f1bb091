// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"strings"
	"testing"
)

func TestParseFio(t *testing.T) {
	const out = `fio: a warning
{"jobs":[{"error":0,"read":{"iops":700,"total_ios":1400,"lat_ns":{"mean":5000,"max":90000,
"percentile":{"50.000000":2000,"90.000000":3000,"99.000000":4000,"99.900000":5000}}},
"write":{"iops":300,"total_ios":600,"lat_ns":{"percentile":{"50.000000":9000}}}}]}`
	r, err := parseFio([]byte(out), 2)
	if err != nil || r.IOPS != 1000 || r.Requests != 2000 || r.Seconds != 2 || r.Latency.P50 != 2 || r.Latency.P999 != 5 || r.Latency.Mean != 5 ||
		r.Latency.Max != 90 || len(r.CPU) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for name, text := range map[string]string{
		"no JSON": "fio: died", "no job": `{"jobs":[]}`, "an error": strings.Replace(out, `"error":0`, `"error":5`, 1),
		"no request": `{"jobs":[{"error":0}]}`,
	} {
		if _, err := parseFio([]byte(text), 1); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
