// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// lockedBytesPerImage is what an image takes of locked memory: a page for the key schedule, and while it opens one each for
// the passphrase, the key derived from it and the volume key.
const lockedBytesPerImage = 4 * 4096

// checkProcess looks at what the kernel and the processor give to this process, and so to a gateway started the same way.
func (h *host) checkProcess() []Finding {
	return []Finding{checkCipher(), checkMemlock(unix.RLIMIT_MEMLOCK), h.checkHugePages()}
}

func checkCipher() Finding {
	const check = checkName("aes")
	found := fmt.Sprintf("AES-XTS runs with %s. This processor can: %s.", xts.Kernel(), strings.Join(xts.Kernels(), ", "))
	if xts.Kernel() == "portable" {
		return check.warning("%s", found).do("Without the processor's AES instructions encryption is the bottleneck. Give a virtual machine a " +
			"CPU model that has aes. If LUKSGATE_XTS is set, unset it.")
	}
	return check.ok("%s", found)
}

func checkMemlock(resource int) Finding {
	const check = checkName("memlock")
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return check.warning("The limit of locked memory cannot be read: %v.", err)
	}
	if limit.Cur == unix.RLIM_INFINITY {
		return check.ok("Locked memory is not limited.")
	}
	images := limit.Cur / lockedBytesPerImage
	found := fmt.Sprintf("This process may lock %d KiB of memory, for the keys of about %d open images.", limit.Cur>>10, images)
	if images < 500 {
		return check.warning("%s", found).do("Raise the limit, so that keys never reach swap: a service has LimitMEMLOCK=256M for that, a shell this.",
			"ulimit -l 65536")
	}
	return check.ok("%s", found)
}

func (h *host) checkHugePages() Finding {
	const check = checkName("hugepages")
	setting := strings.TrimSpace(h.text("/sys/kernel/mm/transparent_hugepage/enabled"))
	switch {
	case setting == "":
		return check.skipped("This kernel has no transparent huge pages.")
	case strings.Contains(setting, "[never]"):
		return check.warning("Transparent huge pages are off.").do("Let programs ask for them: large buffers take fewer page faults then.",
			"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
	}
	return check.ok("Transparent huge pages are on: %s.", setting)
}

// checkLibrbd says what the librbd that was found at run time can do.
func checkLibrbd(opts Options) []Finding {
	const check = checkName("librbd")
	if opts.NoCeph {
		return []Finding{check.skipped("Ceph is left out.")}
	}
	features, err := rbd.Features()
	if errors.Is(err, errors.ErrUnsupported) {
		return []Finding{check.bad("This luksgate was built without Ceph.").do("Build it where librbd-dev is installed. For a gateway of files "+
			"only pass --no-ceph.", "make build")}
	}
	var can, cannot []string
	for _, f := range features {
		if f.Present {
			can = append(can, f.What)
		} else {
			cannot = append(cannot, f.What)
		}
	}
	found := fmt.Sprintf("librbd %s has %s.", rbd.Version(), list(can))
	if len(cannot) > 0 {
		found += fmt.Sprintf(" It lacks %s, which the gateway can do without.", list(cannot))
	}
	return []Finding{check.ok("%s", found)}
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing beyond reading and writing"
	}
	return strings.Join(names, ", ")
}
