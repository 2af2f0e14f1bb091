// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestAlertsAndDashboardNameMetricsThatExist holds deploy/prometheus and deploy/grafana against a running daemon.
func TestAlertsAndDashboardNameMetricsThatExist(t *testing.T) {
	d := serveDaemon(t, "exports:\n  - {name: a, image: \"mem:4M\", socket: DIR/a.sock}\n")
	c := dial(t, d.socket("a.sock"))
	c.writeHeader(1, 0, 4)
	c.write([]byte("abcd"))
	c.reply()
	_, metrics := d.get("/metrics")
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+)[{ ]`).FindAllStringSubmatch(metrics, -1) {
		have[m[1]] = true
	}
	root := testenv.Root(t)
	var dashboard any
	for _, name := range []string{"deploy/prometheus/luksgate.rules.yml", "deploy/grafana/luksgate.json"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(name) == ".json" {
			if err := json.Unmarshal(text, &dashboard); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		names := regexp.MustCompile(`\bluksgate_[a-z_]+`).FindAllString(string(text), -1)
		if len(names) < 9 {
			t.Errorf("%s names only %d metrics", name, len(names))
		}
		for _, n := range names {
			if !have[n] && !strings.HasPrefix(n, "luksgate_rbd_") { // those TestMetricsAreFed looks for
				t.Errorf("%s names %s, which the daemon does not have", name, n)
			}
		}
	}
	d.stop()
}
