// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
)

// openAPI is what the tests look at of docs/openapi.yaml.
type openAPI struct {
	Paths      map[string]map[string]any
	Components struct {
		Schemas map[string]struct{ Properties map[string]any }
	}
}

func readOpenAPI(t *testing.T) (doc openAPI) {
	t.Helper()
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestOpenAPIHasEveryPath holds the paths of docs/openapi.yaml against those that are served, both ways.
func TestOpenAPIHasEveryPath(t *testing.T) {
	c, err := config.Parse("empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux, ok := d.adminHandler().(*http.ServeMux)
	if !ok {
		t.Fatal("no mux")
	}
	documented := map[string]bool{}
	for path, operations := range readOpenAPI(t).Paths {
		for method := range operations {
			if method == "parameters" {
				continue
			}
			want := strings.ToUpper(method) + " " + path
			documented[want] = true
			request := httptest.NewRequest(strings.ToUpper(method), strings.ReplaceAll(path, "{name}", "x"), nil)
			if _, got := mux.Handler(request); got != want {
				t.Errorf("%s is documented, and served by %q", want, got)
			}
		}
	}
	served := 0
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`HandleFunc\("([A-Z]+ [^"]+)"`).FindAllStringSubmatch(string(text), -1) {
			served++
			if !documented[m[1]] {
				t.Errorf("%s is served, and not documented", m[1])
			}
		}
	}
	if served < 15 {
		t.Errorf("only %d patterns found", served)
	}
}

// TestOpenAPIHasEveryField holds its schemas against the types that are sent.
func TestOpenAPIHasEveryField(t *testing.T) {
	schemas := readOpenAPI(t).Components.Schemas
	for name, typ := range map[string]reflect.Type{
		"Version": reflect.TypeFor[api.Version](), "Export": reflect.TypeFor[api.Export](), "Upgrade": reflect.TypeFor[api.Upgrade](),
		"Change": reflect.TypeFor[api.Change](), "Ready": reflect.TypeFor[api.Ready](), "Stats": reflect.TypeFor[api.Stats](),
		"Counters": reflect.TypeFor[metrics.Snapshot](), "Op": reflect.TypeFor[metrics.Op](), "Durations": reflect.TypeFor[metrics.Durations](),
	} {
		var fields []string
		for i := range typ.NumField() {
			tag, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			fields = append(fields, tag)
		}
		slices.Sort(fields)
		if got := slices.Sorted(maps.Keys(schemas[name].Properties)); !slices.Equal(got, fields) {
			t.Errorf("schema %s has %v, the type %v", name, got, fields)
		}
	}
}
