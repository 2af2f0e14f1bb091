// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Duration is written as 30s, 5m or 1h30m.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: expected one such as 30s, 5m or 1h30m", n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// String is the duration as it is written in the file.
func (d Duration) String() string { return time.Duration(d).String() }

// A Size is a number of bytes, written as 65536, 64K, 64KiB, 256M or 1GiB.
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	digits := strings.TrimRight(n.Value, "KMGTiB")
	shift, known := map[string]uint{
		"": 0, "B": 0, "K": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40,
	}[n.Value[len(digits):]]
	v, err := strconv.ParseInt(digits, 10, 64)
	if n.Kind != yaml.ScalarNode || err != nil || !known || v < 0 || v > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size: expected bytes, such as 65536, 64KiB, 256M or 1G", n.Value)
	}
	*s = Size(v << shift)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (s Size) MarshalYAML() (any, error) { return int64(s), nil }

// A Mode is the permission bits of a socket in octal, such as 0660. Zero means that none are given.
type Mode fs.FileMode

// UnmarshalYAML implements yaml.Unmarshaler. It reads the text, because YAML takes 0660 for octal and 660 for decimal.
func (m *Mode) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(strings.TrimPrefix(n.Value, "0o"), 8, 32)
	if n.Kind != yaml.ScalarNode || err != nil || v == 0 || v > 0o777 {
		return fmt.Errorf("%q is no mode: expected octal permissions such as 0660", n.Value)
	}
	*m = Mode(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (m Mode) MarshalYAML() (any, error) { return fmt.Sprintf("0%o", uint32(m)), nil }

// An ID is a user or group by name or number; quotes around a number make no difference.
type ID string

// UnmarshalYAML implements yaml.Unmarshaler.
func (id *ID) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		return errors.New("expected a name or a number")
	}
	*id = ID(n.Value)
	return nil
}
