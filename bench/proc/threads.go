// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ThreadCPU is the processor time of the threads that a process has now, by their name; those of one name, but for a number
// at its end, are one. It needs a kernel that keeps schedstat.
func ThreadCPU(pid int) (map[string]time.Duration, error) {
	folder := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for _, task := range tasks {
		dir := folder + "/" + task.Name()
		name, err := os.ReadFile(dir + "/comm")
		var used time.Duration
		if err == nil {
			used, err = readSchedstat(dir + "/schedstat")
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		out[strings.TrimRight(strings.TrimSpace(string(name)), "-0123456789")] += used
	}
	return out, nil
}

// readSchedstat reads the first number, nanoseconds on a processor.
func readSchedstat(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return time.Duration(n), nil
}
