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

// set reads a single value.
func set(v interface{ Set(string) error }, n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return errors.New("expected a single value")
	}
	return v.Set(n.Value)
}

// A Duration is written as 30s, 5m or 1h30m.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return set(d, n) }

// Set reads a duration; it makes Duration a flag's value, as Type does.
func (d *Duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: expected one such as 30s, 5m or 1h30m", text)
	}
	*d = Duration(v)
	return nil
}

// Type is what a flag's help calls the value.
func (d *Duration) Type() string { return "duration" }

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// String is the duration as it is written in the file.
func (d Duration) String() string { return time.Duration(d).String() }

// A Size is a number of bytes, written as 65536, 64K, 64KiB, 256M or 1GiB.
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error { return set(s, n) }

// Set reads a size; it makes Size a flag's value, as Type does.
func (s *Size) Set(text string) error {
	digits := strings.TrimRight(text, "KMGTiB")
	shift, known := map[string]uint{
		"": 0, "B": 0, "K": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40,
	}[text[len(digits):]]
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || v < 0 || v > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size: expected bytes, such as 65536, 64KiB, 256M or 1G", text)
	}
	*s = Size(v << shift)
	return nil
}

// String is the size in the largest unit of which it is a whole number.
func (s Size) String() string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if shift := 40 - 10*i; s > 0 && s&(1<<shift-1) == 0 {
			return strconv.FormatInt(int64(s>>shift), 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Type is what a flag's help calls the value.
func (s *Size) Type() string { return "size" }

// MarshalYAML implements yaml.Marshaler.
func (s Size) MarshalYAML() (any, error) { return int64(s), nil }

// A Mode is the permission bits of a socket in octal, such as 0660. Zero means that none are given.
type Mode fs.FileMode

// UnmarshalYAML implements yaml.Unmarshaler. It reads the text, because YAML takes 0660 for octal and 660 for decimal.
func (m *Mode) UnmarshalYAML(n *yaml.Node) error { return set(m, n) }

// Set reads a mode; it makes Mode a flag's value, as Type does.
func (m *Mode) Set(text string) error {
	v, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	if err != nil || v == 0 || v > 0o777 {
		return fmt.Errorf("%q is no mode: expected octal permissions such as 0660", text)
	}
	*m = Mode(v)
	return nil
}

// String is the mode as it is written in the file.
func (m Mode) String() string { return fmt.Sprintf("0%o", uint32(m)) }

// Type is what a flag's help calls the value.
func (m *Mode) Type() string { return "mode" }

// MarshalYAML implements yaml.Marshaler.
func (m Mode) MarshalYAML() (any, error) { return m.String(), nil }

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
