// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// UserID is the number of a user, given by name or number. A number needs no user of that number: containers have theirs.
func UserID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err == nil {
		name = u.Uid
	}
	return id(name, "user", err, user.UnknownUserError(name))
}

// GroupID is the number of a group, given by name or number.
func GroupID(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		name = g.Gid
	}
	return id(name, "group", err, user.UnknownGroupError(name))
}

// id reads a number. failure is what the system's database said, unknown what it says of a name that it does not have.
func id(text, kind string, failure, unknown error) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err == nil && n < 1<<32-1: // the last one means "none" to the kernel
		return uint32(n), nil
	case failure != nil && !errors.Is(failure, unknown):
		return 0, fmt.Errorf("cannot look up the %s %q: %w", kind, text, failure)
	}
	return 0, fmt.Errorf("there is no %s %q on this machine", kind, text)
}
