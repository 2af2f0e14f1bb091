// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A prometheus is a real one that looks at a daemon several times a second.
type prometheus struct {
	t           *testing.T
	url, target string
}

func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs: [{job_name: luksgate, static_configs: [{targets: [%q]}]}]
`, filepath.Join(testenv.Root(t), "deploy/prometheus/luksgate.rules.yml"), target)
	file := testenv.WriteFile(t, filepath.Join(dir, "prometheus.yml"), []byte(conf))
	listen := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	testenv.Start(t, "prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+listen, "--log.level=warn")
	return &prometheus{t, "http://" + listen, target}
}

// ask returns the data of an answer of Prometheus's API, nil if there is none.
func (p *prometheus) ask(path string, query url.Values, data any) error {
	res, err := http.Get(p.url + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return nil
}

// values are what a query has now, as texts.
func (p *prometheus) values(expr string) ([]string, error) {
	var data struct{ Result []struct{ Value [2]any } }
	err := p.ask("query", url.Values{"query": {expr}}, &data)
	var out []string
	for _, r := range data.Result {
		out = append(out, fmt.Sprint(r.Value[1]))
	}
	return out, err
}

// waitFor waits until a query has a value that is a number and not 0.
func (p *prometheus) waitFor(d *server, expr string) {
	p.t.Helper()
	d.wait("Prometheus has "+expr, func() bool {
		values, err := p.values(expr)
		return err == nil && len(values) > 0 && values[0] != "0" && values[0] != "NaN"
	})
}

// checkDashboard has each panel's queries answered for these exports, and the dashboard's variables. Each query has a
// series, and one that is a number.
func (p *prometheus) checkDashboard(exports ...string) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(p.t), "deploy/grafana/luksgate.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		p.t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", p.target, "$export", strings.Join(exports, "|"))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			values, err := p.values(fill.Replace(target.Expr))
			numbers := 0
			for _, v := range values {
				if v != "NaN" {
					numbers++
				}
			}
			if err != nil || numbers == 0 {
				p.t.Errorf("panel %q: %s: %v, %v", panel.Title, target.Expr, values, err)
			}
		}
	}
	for label, of := range map[string]string{"instance": "luksgate_build_info", "export": "luksgate_export_open"} {
		var values []string
		if err := p.ask("label/"+label+"/values", url.Values{"match[]": {of}}, &values); err != nil || len(values) == 0 {
			p.t.Errorf("variable %s: %v, %v", label, values, err)
		}
	}
}

// checkRules has every rule evaluated, and those of these alerts find something.
func (p *prometheus) checkRules(d *server, finds ...string) {
	p.t.Helper()
	type rule struct{ Name, Health, State, LastError string }
	rules := func() map[string]rule {
		var data struct{ Groups []struct{ Rules []rule } }
		if err := p.ask("rules", nil, &data); err != nil {
			p.t.Fatal(err)
		}
		all := map[string]rule{}
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				all[r.Name] = r
			}
		}
		return all
	}
	for _, name := range finds {
		d.wait("alert "+name, func() bool { return rules()[name].State != "inactive" })
	}
	time.Sleep(time.Second) // each is evaluated once more
	all := rules()
	if len(all) < 10 {
		p.t.Errorf("only %d rules", len(all))
	}
	for _, r := range all {
		if r.Health != "ok" {
			p.t.Errorf("rule %s: %+v", r.Name, r)
		}
	}
}
