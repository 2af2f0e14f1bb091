// SPDX-License-Identifier: Apache-2.0

// Package fio reads what fio prints with --output-format=json.
package fio

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A Job is one group of fio's jobs.
type Job struct {
	Read  Side `json:"read"`
	Write Side `json:"write"`
	// Percent of the time that a job's thread used a processor.
	UserPercent   float64 `json:"usr_cpu"`
	SystemPercent float64 `json:"sys_cpu"`
}

// A Side is what fio reports of reads, or of writes.
type Side struct {
	IOPS    float64 `json:"iops"`
	Total   float64 `json:"total_ios"`
	Latency struct {
		Mean       float64            `json:"mean"`
		Max        float64            `json:"max"`
		Percentile map[string]float64 `json:"percentile"`
	} `json:"lat_ns"`
}

// Micros is a percentile of the latency in microseconds, by fio's name for it: "50.000000".
func (s *Side) Micros(percentile string) float64 { return s.Latency.Percentile[percentile] / 1e3 }

// Parse takes the only group out of fio's output, which may begin with warnings.
func Parse(out []byte) (Job, error) {
	var doc struct {
		Jobs []struct {
			Error int `json:"error"`
			Job
		} `json:"jobs"`
	}
	start := max(bytes.IndexByte(out, '{'), 0)
	if err := json.Unmarshal(out[start:], &doc); err != nil {
		return Job{}, fmt.Errorf("fio: its output is no JSON: %w\n%s", err, out)
	}
	if len(doc.Jobs) != 1 || doc.Jobs[0].Error != 0 {
		return Job{}, fmt.Errorf("fio: %d groups of jobs, expected 1 without an error\n%s", len(doc.Jobs), out)
	}
	return doc.Jobs[0].Job, nil
}
