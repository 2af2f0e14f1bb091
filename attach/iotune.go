// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// maxThrottle is the largest limit that qemu takes (THROTTLE_VALUE_MAX), in bytes, operations or seconds.
const maxThrottle = 1_000_000_000_000_000

// IOTune limits a disk. Fields that are 0 set no limit. Names and meaning are libvirt's <iotune>.
type IOTune struct {
	Bytes, Ops Limits
	// OpSizeBytes is what counts as one operation: a larger request counts as several (size_iops_sec).
	OpSizeBytes uint64
	// Group is a name that several disks share, and with it their limits (group_name).
	Group string
}

// Limits of one resource: per second in all, or for reads and writes apart. Max is the burst rate and MaxSeconds how
// long a burst may last.
type Limits struct {
	Total, Read, Write                               uint64
	TotalMax, ReadMax, WriteMax                      uint64
	TotalMaxSeconds, ReadMaxSeconds, WriteMaxSeconds uint64
}

// ParseIOTune reads KEY=VALUE,..., where KEY is the name of an element of libvirt's <iotune>, such as
// total_iops_sec=2000,write_bytes_sec_max=100000000.
func ParseIOTune(s string) (IOTune, error) {
	var tune IOTune
	if s == "" {
		return tune, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		if seen[key] {
			return IOTune{}, fmt.Errorf("attach: --iotune %s: given twice", key)
		}
		seen[key] = true
		if key == "group_name" {
			tune.Group = value
			continue
		}
		field := tune.field(key)
		if field == nil {
			return IOTune{}, fmt.Errorf("attach: --iotune %q: want KEY=VALUE with a key of libvirt's <iotune>, "+
				"such as total_iops_sec", part)
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n == 0 {
			return IOTune{}, fmt.Errorf("attach: --iotune %s=%q: want a number from 1", key, value)
		}
		*field = n
	}
	if err := tune.check(); err != nil {
		return IOTune{}, fmt.Errorf("attach: %w", err)
	}
	return tune, nil
}

// A throttle is a limit with its burst; libvirt and qemu know six of them.
type throttle struct {
	scope, resource       string // read, bytes
	rate, max, maxSeconds *uint64
}

func (t *IOTune) throttles() [6]throttle {
	b, o := &t.Bytes, &t.Ops
	return [6]throttle{
		{"total", "bytes", &b.Total, &b.TotalMax, &b.TotalMaxSeconds},
		{"read", "bytes", &b.Read, &b.ReadMax, &b.ReadMaxSeconds},
		{"write", "bytes", &b.Write, &b.WriteMax, &b.WriteMaxSeconds},
		{"total", "iops", &o.Total, &o.TotalMax, &o.TotalMaxSeconds},
		{"read", "iops", &o.Read, &o.ReadMax, &o.ReadMaxSeconds},
		{"write", "iops", &o.Write, &o.WriteMax, &o.WriteMaxSeconds},
	}
}

func (t *IOTune) field(key string) *uint64 {
	for _, th := range t.throttles() {
		switch name := th.scope + "_" + th.resource + "_sec"; key {
		case name:
			return th.rate
		case name + "_max":
			return th.max
		case name + "_max_length":
			return th.maxSeconds
		}
	}
	if key == "size_iops_sec" {
		return &t.OpSizeBytes
	}
	return nil
}

// check refuses what qemu's throttle_is_valid and libvirt's qemu driver refuse.
func (t *IOTune) check() error {
	for _, th := range t.throttles() {
		name := th.scope + "_" + th.resource + "_sec"
		switch {
		case *th.rate > maxThrottle || *th.max > maxThrottle || *th.maxSeconds > maxThrottle:
			return fmt.Errorf("--iotune %s: larger than %d", name, int64(maxThrottle))
		case *th.max > 0 && *th.max < *th.rate:
			return fmt.Errorf("--iotune %s_max: smaller than %s", name, name)
		case *th.max > 0 && *th.rate == 0:
			return fmt.Errorf("--iotune %s_max: needs %s", name, name)
		case *th.maxSeconds > 0 && *th.max == 0:
			return fmt.Errorf("--iotune %s_max_length: needs %s_max", name, name)
		}
	}
	for resource, l := range map[string]*Limits{"bytes": &t.Bytes, "iops": &t.Ops} {
		if l.Total > 0 && (l.Read > 0 || l.Write > 0) {
			return fmt.Errorf("--iotune total_%s_sec: goes with neither read_%s_sec nor write_%s_sec", resource, resource, resource)
		}
	}
	if t.OpSizeBytes > 0 && t.Ops.Total == 0 && t.Ops.Read == 0 && t.Ops.Write == 0 {
		return fmt.Errorf("--iotune size_iops_sec: needs a limit of operations, such as total_iops_sec")
	}
	if t.OpSizeBytes > maxThrottle {
		return fmt.Errorf("--iotune size_iops_sec: larger than %d", int64(maxThrottle))
	}
	if t.Group != "" && (!serialText.MatchString(t.Group) || len(t.Group) > 64) {
		return fmt.Errorf("--iotune group_name=%q: want up to 64 letters, digits and _.+-", t.Group)
	}
	if without := *t; t.Group != "" {
		if without.Group = ""; without == (IOTune{}) {
			return fmt.Errorf("--iotune group_name: needs a limit")
		}
	}
	return nil
}

func (t *IOTune) element() *libvirtxml.DomainDiskIOTune {
	if *t == (IOTune{}) {
		return nil
	}
	return &libvirtxml.DomainDiskIOTune{
		TotalBytesSec: t.Bytes.Total, ReadBytesSec: t.Bytes.Read, WriteBytesSec: t.Bytes.Write,
		TotalIopsSec: t.Ops.Total, ReadIopsSec: t.Ops.Read, WriteIopsSec: t.Ops.Write,
		TotalBytesSecMax: t.Bytes.TotalMax, ReadBytesSecMax: t.Bytes.ReadMax, WriteBytesSecMax: t.Bytes.WriteMax,
		TotalIopsSecMax: t.Ops.TotalMax, ReadIopsSecMax: t.Ops.ReadMax, WriteIopsSecMax: t.Ops.WriteMax,
		TotalBytesSecMaxLength: t.Bytes.TotalMaxSeconds, ReadBytesSecMaxLength: t.Bytes.ReadMaxSeconds,
		WriteBytesSecMaxLength: t.Bytes.WriteMaxSeconds, TotalIopsSecMaxLength: t.Ops.TotalMaxSeconds,
		ReadIopsSecMaxLength: t.Ops.ReadMaxSeconds, WriteIopsSecMaxLength: t.Ops.WriteMaxSeconds,
		SizeIopsSec: t.OpSizeBytes, GroupName: t.Group,
	}
}
