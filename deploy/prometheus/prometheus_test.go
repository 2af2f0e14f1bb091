// SPDX-License-Identifier: Apache-2.0

// Package prometheus_test has promtool judge the alerts, and the queries of the dashboard.
package prometheus_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestRules(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	testenv.Run(t, promtool, "check", "rules", "luksgate.rules.yml")
	testenv.Run(t, promtool, "test", "rules", "luksgate.rules.test.yml")
}

// TestEveryAlertIsTested has each alert fire in one test at least, and stay silent in one.
func TestEveryAlertIsTested(t *testing.T) {
	rules, tests := read(t, "luksgate.rules.yml"), read(t, "luksgate.rules.test.yml")
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(names) < 10 {
		t.Errorf("only %d alerts", len(names))
	}
	for _, m := range names {
		silent := strings.Contains(tests, "alertname: "+m[1]+"}")
		fires := strings.Contains(tests, "alertname: "+m[1]+"\n        exp_alerts:")
		if !silent || !fires {
			t.Errorf("%s: a test where it stays silent: %v, where it fires: %v", m[1], silent, fires)
		}
	}
}

// TestDashboardQueries has Prometheus read each query of the dashboard, with Grafana's variables filled in.
func TestDashboardQueries(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../grafana/luksgate.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", "h1", "$export", "vm1|vm2")
	queries, ids, taken := 0, map[int]bool{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have number %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies over %q, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			queries++
			expr, _ := json.Marshal(fill.Replace(target.Expr))
			fmt.Fprintf(&rules, "      - {record: \"dashboard:query%d\", expr: %s}\n", queries, expr)
		}
	}
	if queries < 15 {
		t.Errorf("only %d queries", queries)
	}
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "rules.yml"), []byte(rules.String()))
	testenv.Run(t, promtool, "check", "rules", file)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
