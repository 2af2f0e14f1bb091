// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

const allocationsTitle = "allocations"

// allocations prints how much the server allocates for an exchange of requests in steady state. A process does not tell
// that of itself, so nbdserver's own benchmark does, which has server and client in one.
func allocations(ctx context.Context, o *options) error {
	if !o.only.MatchString(allocationsTitle) {
		return nil
	}
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkExchange$", "-benchtime", "2000x",
		"./nbdserver").CombinedOutput()
	if err != nil {
		return fmt.Errorf("allocations: %w\n%s", err, out)
	}
	fmt.Printf("\n%s: device, request, bytes, depth\n", allocationsTitle)
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), " ")
		fields := strings.Fields(rest)
		if !ok || !strings.HasPrefix(name, "Benchmark") || len(fields) < 4 {
			continue
		}
		fmt.Printf("  %-40s %s %s, %s %s\n", strings.TrimPrefix(name, "BenchmarkExchange/"),
			fields[len(fields)-4], fields[len(fields)-3], fields[len(fields)-2], fields[len(fields)-1])
	}
	return nil
}
