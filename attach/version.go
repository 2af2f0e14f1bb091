// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"strconv"
	"strings"
)

// A Version of libvirt or qemu. The zero value stands for the oldest supported one.
type Version struct{ Major, Minor, Micro int }

// The versions that output is written for unless newer ones are named: those of Ubuntu 20.04.
var (
	OldestLibvirt = Version{6, 0, 0}
	OldestQemu    = Version{4, 2, 0}
)

// ParseVersion reads "6.0", "6.0.0" or "10".
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(s, ".")
	if len(parts) > 3 {
		return Version{}, versionError(s)
	}
	var n [3]int
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 16)
		if err != nil || part[0] == '+' {
			return Version{}, versionError(s)
		}
		n[i] = int(v)
	}
	return Version{n[0], n[1], n[2]}, nil
}

func versionError(s string) error {
	return fmt.Errorf("attach: version %q: want MAJOR.MINOR or MAJOR.MINOR.MICRO, such as 6.0", s)
}

// String is the form that ParseVersion reads.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// AtLeast says whether v is w or newer.
func (v Version) AtLeast(w Version) bool {
	if v.Major != w.Major {
		return v.Major > w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor > w.Minor
	}
	return v.Micro >= w.Micro
}

// or returns v, or oldest for the zero value.
func (v Version) or(oldest Version) Version {
	if v == (Version{}) {
		return oldest
	}
	return v
}

// The first versions that know what this package can print only for them.
var (
	libvirtTLSHostname = Version{8, 2, 0} // NBD disk: <source tlsHostname=...>
	libvirtReconnect   = Version{9, 2, 0} // NBD disk: <reconnect delay=...>
	qemuTLSOnUnix      = Version{7, 0, 0} // nbd driver: tls-creds with a unix socket, tls-hostname
	qemuSafeIOThread   = Version{6, 0, 0} // nbd driver: no abort when its AioContext changes while disconnected
)
