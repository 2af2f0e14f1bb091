// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// Our limits on JSON. A header with 32 keyslots has some 1,000 values at depth 4; json-c stops at depth 32 too.
const (
	maxDepth  = 32
	maxValues = 1 << 16
	// maxObjects is how many keyslots, tokens, segments and digests there may be of each.
	maxObjects = MaxKeyslots
)

// object is a JSON object. Numbers in it are json.Number, so that they survive rewriting unchanged.
type object = map[string]any

// badf returns an error that matches lukserr.Damaged.
func badf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", lukserr.Damaged, fmt.Sprintf(format, args...))
}

// decodeTree parses the JSON area: one object, then NUL bytes to the end, at least one.
func decodeTree(area []byte) (object, error) {
	if len(area) == 0 || area[0] != '{' {
		return nil, badf("the JSON area does not begin with '{'")
	}
	text := area
	if i := bytes.IndexByte(area, 0); i >= 0 {
		text = area[:i]
	}
	if err := bound(text); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree object
	if err := dec.Decode(&tree); err != nil {
		return nil, badf("JSON area: %v", err)
	}
	end := int(dec.InputOffset())
	if end >= len(area) {
		return nil, badf("the JSON area has no NUL at its end")
	}
	for i, c := range area[end:] {
		if c != 0 {
			return nil, badf("byte %#02x behind the metadata, at %d of the JSON area", c, end+i)
		}
	}
	if !utf8.Valid(text) {
		return nil, badf("the JSON area is not UTF-8")
	}
	return tree, nil
}

// bound refuses text whose tree would be deep or large, before it is built. It need not understand JSON: brackets and
// commas outside of strings are an upper bound of depth and values.
func bound(text []byte) error {
	depth, values, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			values++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			values++
		}
		if depth > maxDepth || values > maxValues {
			return fmt.Errorf("%w: JSON area deeper than %d or with more than %d values", lukserr.Limit, maxDepth, maxValues)
		}
	}
	return nil
}

// encodeTree is the compact text of the tree.
func encodeTree(tree object) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(tree); err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// getObject returns a member that must be an object.
func getObject(o object, where, key string) (object, error) {
	v, ok := o[key].(object)
	if !ok {
		return nil, badf("%s: %q is missing or no object", where, key)
	}
	return v, nil
}

// getArray returns a member that must be an array.
func getArray(o object, where, key string) ([]any, error) {
	v, ok := o[key].([]any)
	if !ok {
		return nil, badf("%s: %q is missing or no array", where, key)
	}
	return v, nil
}

// getString returns a member that must be a string and not empty.
func getString(o object, where, key string) (string, error) {
	v, ok := o[key].(string)
	if !ok || v == "" {
		return "", badf("%s: %q is missing, empty or no string", where, key)
	}
	return v, nil
}

// getUint32 returns a member that must be an integer of 32 bits without sign.
func getUint32(o object, where, key string) (uint32, error) {
	v, ok := o[key].(json.Number)
	if !ok {
		return 0, badf("%s: %q is missing or no number", where, key)
	}
	n, err := strconv.ParseUint(string(v), 10, 32)
	if err != nil {
		return 0, badf("%s: %q is %s, expected an integer from 0 to %d", where, key, clip(string(v)), uint32(math.MaxUint32))
	}
	return uint32(n), nil
}

// getUint64 returns a member that must be a string of decimal digits.
func getUint64(o object, where, key string) (uint64, error) {
	v, err := getString(o, where, key)
	if err != nil {
		return 0, err
	}
	return parseUint64(v, where, key)
}

func parseUint64(v, where, key string) (uint64, error) {
	// ParseUint takes neither sign nor space; underscores only in base 0.
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, badf("%s: %q is %q, expected decimal digits of a 64-bit number", where, key, clip(v))
	}
	return n, nil
}

// getStrings returns an optional member that must be an array of strings.
func getStrings(o object, where, key string) ([]string, error) {
	if _, ok := o[key]; !ok {
		return nil, nil
	}
	array, err := getArray(o, where, key)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(array))
	for i, v := range array {
		s, ok := v.(string)
		if !ok {
			return nil, badf("%s: entry %d of %q is no string", where, i, key)
		}
		out = append(out, s)
	}
	return out, nil
}

// objectID parses the key of a keyslot, token, segment or digest.
func objectID(section, key string) (int, error) {
	n, err := strconv.Atoi(key)
	if err != nil || n < 0 || strconv.Itoa(n) != key {
		return 0, badf("%s: key %q is no plain decimal number", section, clip(key))
	}
	if n >= maxObjects {
		return 0, badf("%s: number %d, LUKS2 has 0 to %d", section, n, maxObjects-1)
	}
	return n, nil
}

// clip shortens what an error quotes from the disk.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
