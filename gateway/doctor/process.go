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
	const check = "aes"
	found := fmt.Sprintf("AES-XTS runs with %s (this processor can: %s)", xts.Kernel(), strings.Join(xts.Kernels(), ", "))
	if xts.Kernel() == "portable" {
		return Finding{check, Warning, found, "without the processor's AES instructions encryption is the bottleneck: in a virtual " +
			"machine give it a CPU model with aes; if LUKSGATE_XTS is set, unset it"}
	}
	return Finding{check, OK, found, ""}
}

func checkMemlock(resource int) Finding {
	const check = "memlock"
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return Finding{check, Warning, fmt.Sprintf("the limit of locked memory cannot be read: %v", err), ""}
	}
	if limit.Cur == unix.RLIM_INFINITY {
		return Finding{check, OK, "locked memory is not limited", ""}
	}
	images := limit.Cur / lockedBytesPerImage
	found := fmt.Sprintf("%d KiB of locked memory, for the keys of about %d open images", limit.Cur>>10, images)
	if images < 500 {
		return Finding{check, Warning, found, "raise it, so that keys never reach swap: LimitMEMLOCK=64M in the service, or " +
			"ulimit -l 65536"}
	}
	return Finding{check, OK, found, ""}
}

func (h *host) checkHugePages() Finding {
	const check = "hugepages"
	setting := strings.TrimSpace(h.text("/sys/kernel/mm/transparent_hugepage/enabled"))
	switch {
	case setting == "":
		return Finding{check, Skipped, "this kernel has no transparent huge pages", ""}
	case strings.Contains(setting, "[never]"):
		return Finding{check, Warning, "transparent huge pages are off", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: " +
			"large buffers take fewer page faults"}
	}
	return Finding{check, OK, "transparent huge pages: " + setting, ""}
}

// checkLibrbd says what the librbd that was found at run time can do.
func checkLibrbd(opts Options) []Finding {
	const check = "librbd"
	if opts.NoCeph {
		return []Finding{{check, Skipped, "Ceph is left out", ""}}
	}
	features, err := rbd.Features()
	if errors.Is(err, errors.ErrUnsupported) {
		return []Finding{{check, Error, "this luksgate was built without Ceph", "build it with make build, where librbd-dev is installed"}}
	}
	var can, cannot []string
	for _, f := range features {
		if f.Present {
			can = append(can, f.What)
		} else {
			cannot = append(cannot, f.What)
		}
	}
	found := fmt.Sprintf("librbd %s has: %s", rbd.Version(), list(can))
	if len(cannot) == 0 {
		return []Finding{{check, OK, found, ""}}
	}
	// Nothing of it is needed: the native engine does without.
	return []Finding{{check, OK, found + "; it lacks: " + list(cannot), ""}}
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing beyond reading and writing"
	}
	return strings.Join(names, ", ")
}
