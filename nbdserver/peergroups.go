// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPeerGroups is what the kernel lets a process have (NGROUPS_MAX).
const maxPeerGroups = 65536

// peerGroups asks for the supplementary groups of a unix socket's client (SO_PEERGROUPS, Linux 4.13), for which package
// unix has no function. Where the kernel does not tell, there are none.
func peerGroups(fd uintptr) []uint32 {
	for n := 32; n <= maxPeerGroups; {
		groups := make([]uint32, n)
		size := uint32(4 * n)
		_, _, no := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case no == 0:
			return groups[:min(int(size)/4, n)]
		case no != unix.ERANGE:
			return nil
		}
		n = max(int(size)/4, 2*n) // the kernel says how many there are
	}
	return nil
}
