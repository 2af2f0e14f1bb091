// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	for text, want := range map[string]URI{
		"nbd+unix:///vda?socket=/run/luksgate/a.sock": {Socket: "/run/luksgate/a.sock", Export: "vda"},
		"nbd+unix:///?socket=/a":                      {Socket: "/a"},
		"nbds+unix:///x?socket=/a%20b%3F%26%23+c":     {Socket: "/a b?&#+c", Export: "x", TLS: true},
		"nbd://gw1.example.org/":                      {Host: "gw1.example.org"},
		"nbd://192.0.2.1:10810/a%2Fb":                 {Host: "192.0.2.1", Port: 10810, Export: "a/b"},
		"nbds://[2001:db8::1]/x":                      {Host: "2001:db8::1", Export: "x", TLS: true},
		"nbd://[::1]:1/%2Fx":                          {Host: "::1", Port: 1, Export: "/x"},
	} {
		got, err := ParseURI(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
		again, err := ParseURI(want.String())
		if err != nil || again != want {
			t.Errorf("%+v formats as %s, which reads as %+v, %v", want, want, again, err)
		}
	}
	for text, want := range map[string]URI{ // other spellings
		"nbd://h":                           {Host: "h"},
		"nbd://h:10809":                     {Host: "h"},
		"nbd://h//x":                        {Host: "h", Export: "/x"},
		"nbd+unix:///a/b?socket=%2Frun%2Fs": {Socket: "/run/s", Export: "a/b"},
		"nbd+unix://?socket=/s":             {Socket: "/s"},
	} {
		if got, err := ParseURI(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestURIRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "scheme",
		"http://h/":                         "scheme",
		"nbd+vsock://1/":                    "scheme",
		"nbd:unix:/s:exportname=x":          "//",
		"nbd:///x":                          "socket or host",
		"nbd://u@h/":                        "user",
		"nbd://h/#x":                        "fragment",
		"nbd://h:0/":                        "port",
		"nbd://h:99999/":                    "port",
		"nbd://h/?socket=/s":                "nbd+unix",
		"nbd+unix:///x":                     "socket",
		"nbd+unix://h/x?socket=/s":          "no host",
		"nbd+unix:///x?socket=/s&socket=/t": "one",
		"nbd+unix:///x?socket=s":            "absolute",
		"nbd+unix:///x?socket=/s&a=b":       `"a"`,
		"nbd+unix:///%00?socket=/s":         "control",
		"nbd+unix:///%ff?socket=/s":         "UTF-8",
		"nbd://a_b/":                        "host",
		"nbd://[fe80::1%25eth0]/":           "host",
	} {
		got, err := ParseURI(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "attach: NBD URI") {
			t.Errorf("%s: got %+v, %v; want an error with %q", text, got, err, want)
		}
	}
}

// What parses formats to something that parses to the same.
func FuzzURI(f *testing.F) {
	f.Add("nbd+unix:///vda?socket=/run/luksgate/a.sock")
	f.Add("nbds://[::1]:7/a%2Fb%20c+d")
	f.Add("nbd+unix:///+%2B?socket=/+%2B%20;%3B")
	f.Add("nbd://h//x")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u {
			t.Fatalf("%q is %+v, formats as %q, which reads as %+v, %v", text, u, u, again, err)
		}
	})
}
