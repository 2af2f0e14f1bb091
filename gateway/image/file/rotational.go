// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysfs is where the kernel tells about block devices.
const sysfs = "/sys"

// Rotational tells whether a file or block device is on a disk that turns, for which the order of requests matters. Where
// the kernel does not say, as with most network file systems, it is not.
func Rotational(path string) bool {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	return rotational(sysfs, unix.Major(dev), unix.Minor(dev))
}

// rotational asks for a disk, or for the one that a partition is on.
func rotational(sysfs string, major, minor uint32) bool {
	folder := filepath.Join(sysfs, "dev", "block", fmt.Sprintf("%d:%d", major, minor))
	for _, queue := range []string{"queue", "../queue"} {
		// Not joined: .. is the folder above the one that the link leads to.
		if text, err := os.ReadFile(folder + "/" + queue + "/rotational"); err == nil {
			return strings.TrimSpace(string(text)) == "1"
		}
	}
	return false
}
