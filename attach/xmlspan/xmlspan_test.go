// SPDX-License-Identifier: Apache-2.0

package xmlspan

import (
	"errors"
	"strings"
	"testing"
)

const sample = "<?xml version='1.0' encoding='UTF-8'?>\r\n<!-- <fake/> -->\n<a x='1' y = \"&lt;2&gt;\">\n" +
	"  text <b/><![CDATA[<b>]]>\n  <n:b xmlns:n='urn:n' n:q='7' q='8'/>\n  <b\n   z='\"'  ></b\n  >tail</a>\n<!-- end -->\n"

func TestParse(t *testing.T) {
	root, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if root.Name != "a" || root.Line != 3 || root.Get("y") != "<2>" || root.Text != "\n  text <b>\n  \n  tail" {
		t.Errorf("root is %+v", root)
	}
	if _, ok := root.Attr("z"); ok {
		t.Error("root has an attribute of its child")
	}
	if len(root.Children) != 3 || len(root.All("b")) != 2 || root.First("b") != root.Children[0] || root.First("c") != nil {
		t.Fatalf("children are %+v", root.Children)
	}
	for i, want := range []string{"<b/>", "<n:b xmlns:n='urn:n' n:q='7' q='8'/>", "<b\n   z='\"'  ></b\n  >"} {
		c := root.Children[i]
		if got := sample[c.Start:c.End]; got != want {
			t.Errorf("child %d is %q, want %q", i, got, want)
		}
		if c.SelfClosing() != (i < 2) || c.Line != []int{4, 5, 6}[i] {
			t.Errorf("child %d: %+v", i, c)
		}
	}
	last := root.Children[2]
	if sample[last.Open:last.End] != "</b\n  >" || last.Close != last.Open {
		t.Errorf("last child: %+v", last)
	}
}

func TestAttrSpans(t *testing.T) {
	root, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for e, want := range map[*Element]string{
		root:             "x| x='1'|y| y = \"&lt;2&gt;\"",
		root.Children[0]: "",
		root.Children[1]: "xmlns:n| xmlns:n='urn:n'|n:q| n:q='7'|q| q='8'",
		root.Children[2]: "z|\n   z='\"'",
	} {
		var got []string
		for _, s := range AttrSpans([]byte(sample), e) {
			got = append(got, s.Name, sample[s.Start:s.End])
		}
		if strings.Join(got, "|") != want {
			t.Errorf("got %q, want %q", strings.Join(got, "|"), want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for doc, want := range map[string]string{
		"":                     "line 1: no XML",
		"<!-- -->":             "line 1: no XML",
		"text":                 "line 1: text outside",
		"<a>\n<b></a>":         "line 2: ",
		"<a>\n\n":              "line 3: ",
		"<a/>\n<b/>":           "line 2: second root",
		"<a\n x='1'\n x='2'/>": "line 1: attribute x",
		"<!DOCTYPE a [<!ENTITY e 'f'>]>\n<a>&e;</a>": "line 1: document types",
		"<a>\n&e;</a>": "line 2: ",
		"<a>\xff</a>":  "UTF-8",
		"<?xml version='1.0' encoding='latin1'?><a/>": "encoding",
		"\n" + strings.Repeat("<a>", 200):             "line 2: elements nested",
		strings.Repeat(" ", MaxBytes+1):               "at most",
	} {
		root, err := Parse([]byte(doc))
		var located *Error
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &located) {
			t.Errorf("%.60q: got %v, %v; want an error with %q", doc, root, err, want)
		}
	}
}

func TestApply(t *testing.T) {
	got := string(Apply([]byte("abcdef"), []Edit{{4, 5, "E"}, {0, 0, "<"}, {0, 0, "-"}, {1, 3, ""}, {6, 6, ">"}}))
	if got != "<-adEf>" {
		t.Errorf("got %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("overlapping edits were made")
		}
	}()
	Apply([]byte("abc"), []Edit{{0, 2, ""}, {1, 3, ""}})
}

// Spans nest, lie inside the document, and begin and end with the brackets of their element.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("<a b='>' c=\"/>\"/>"))
	f.Add([]byte("\ufeff<a:b xmlns:a=''><![CDATA[]]></a:b>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		root, err := Parse(doc)
		if err != nil {
			return
		}
		check(t, doc, root, 0, len(doc))
	})
}

func check(t *testing.T, doc []byte, e *Element, from, to int) {
	if e.Start < from || e.End > to || e.Start >= e.Open || e.Open > e.Close || e.Close > e.End {
		t.Fatalf("%q: %+v is not inside %d-%d", doc, e, from, to)
	}
	if doc[e.Start] != '<' || doc[e.Open-1] != '>' || doc[e.End-1] != '>' {
		t.Fatalf("%q: %+v does not begin and end with brackets", doc, e)
	}
	if !e.SelfClosing() && string(doc[e.Close:e.Close+2]) != "</" {
		t.Fatalf("%q: %+v has no end tag", doc, e)
	}
	spans := AttrSpans(doc, e)
	if len(spans) < len(e.Attrs) {
		t.Fatalf("%q: %d spans of %d attributes of %+v", doc, len(spans), len(e.Attrs), e)
	}
	for i, s := range spans {
		if s.Start < e.Start || s.End > e.Open || i > 0 && s.Start < spans[i-1].End {
			t.Fatalf("%q: spans %+v of %+v", doc, spans, e)
		}
	}
	at := e.Open
	for _, c := range e.Children {
		check(t, doc, c, at, e.Close)
		at = c.End
	}
}
