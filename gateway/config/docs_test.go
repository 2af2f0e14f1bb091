// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestEveryKeyIsDocumented holds luksgate.conf(5) against the types.
func TestEveryKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/luksgate.conf.5.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for name, inner := range maps.All(fieldsOf(typ)) {
			keys[name] = true
			walk(inner)
		}
	}
	walk(reflect.TypeFor[File]())
	if len(keys) < 60 {
		t.Errorf("only %d keys", len(keys))
	}
	for k := range keys {
		if !strings.Contains(string(text), "**"+k+"**") {
			t.Errorf("luksgate.conf(5) does not explain %s", k)
		}
	}
}
