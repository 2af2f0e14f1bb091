// SPDX-License-Identifier: Apache-2.0

package barbican_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/key/barbican"
)

const id = "8a2c5e0f-1d7b-4f0e-9a53-0e3f6c1b2d4a"

// fakeCloud answers as Keystone's Identity API v3 and Barbican's API v1 are documented.
type fakeCloud struct {
	*httptest.Server
	ca string

	mu     sync.Mutex
	token  string
	logins int
	status int // of the key manager, if not 0
}

func newCloud(t *testing.T) *fakeCloud {
	f := &fakeCloud{}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	f.ca = testenv.WriteFile(t, filepath.Join(t.TempDir(), "ca.pem"), cert)
	return f
}

func (f *fakeCloud) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/identity/v3/auth/tokens":
		f.login(w, r)
	case r.URL.Path == "/key/" || r.URL.Path == "/key/v1/":
		f.versions(w)
	case r.URL.Path == "/key/v1/secrets/"+id+"/payload":
		f.payload(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeCloud) login(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Auth struct {
			Identity struct {
				Password struct {
					User struct {
						Name, Password string
						Domain         struct{ Name string }
					}
				}
				Application struct{ ID, Secret string } `json:"application_credential"`
			}
			Scope struct {
				Project struct {
					Name   string
					Domain struct{ Name string }
				}
			}
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	user, app := body.Auth.Identity.Password.User, body.Auth.Identity.Application
	byName := user.Name == "luksgate" && user.Password == "os-password" && user.Domain.Name == "Default" &&
		body.Auth.Scope.Project.Name == "service"
	if !byName && (app.ID != "app" || app.Secret != "os-password") {
		http.Error(w, `{"error": {"code": 401, "message": "The request you have made requires authentication."}}`, http.StatusUnauthorized)
		return
	}
	f.logins++
	f.token = "token-" + string(rune('a'+f.logins))
	w.Header().Set("X-Subject-Token", f.token)
	w.WriteHeader(http.StatusCreated)
	endpoint := func(kind, url string) map[string]any {
		return map[string]any{"id": kind, "interface": kind, "region": "one", "region_id": "one", "url": url}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": map[string]any{
		"expires_at": "2099-01-01T00:00:00.000000Z",
		"catalog": []any{map[string]any{"type": "key-manager", "name": "barbican", "id": "x", "endpoints": []any{
			endpoint("public", f.URL+"/key/"), endpoint("internal", f.URL+"/internal/"),
		}}},
	}})
}

func (f *fakeCloud) versions(w http.ResponseWriter) {
	w.WriteHeader(http.StatusMultipleChoices)
	_ = json.NewEncoder(w).Encode(map[string]any{"versions": []any{map[string]any{
		"id": "v1", "status": "CURRENT", "links": []any{map[string]any{"rel": "self", "href": f.URL + "/key/v1/"}},
	}}})
}

func (f *fakeCloud) payload(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("X-Auth-Token") != f.token:
		http.Error(w, "{}", http.StatusUnauthorized)
	case f.status != 0:
		http.Error(w, `{"title": "secret-in-the-body"}`, f.status)
	case r.Header.Get("Accept") != "application/octet-stream":
		http.Error(w, "{}", http.StatusNotAcceptable)
	default:
		_, _ = w.Write([]byte{0x00, 0xAB, 0xff, '\n'})
	}
}

func (f *fakeCloud) config(t *testing.T, password string) barbican.Config {
	return barbican.Config{
		AuthURL: f.URL + "/identity/v3", Username: "luksgate", UserDomain: "Default", Project: "service",
		ProjectDomain: "Default", Interface: "public", CAFile: f.ca,
		PasswordFile: testenv.WriteFile(t, filepath.Join(t.TempDir(), "p"), []byte(password+"\n")),
	}
}

func fetch(t *testing.T, s barbican.Source) (string, error) {
	t.Helper()
	b, err := s.Passphrase(context.Background())
	if err != nil {
		return "", err
	}
	defer b.Release()
	return string(b.Bytes()), nil
}

// TestPayload follows Cinder's rule, and the exception to it; a token that has expired is renewed.
func TestPayload(t *testing.T) {
	f := newCloud(t)
	cloud, err := barbican.New(f.config(t, "os-password"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{id, f.URL + "/key/v1/secrets/" + id} {
		if got, err := fetch(t, cloud.Source(ref, false)); got != "00abff0a" {
			t.Errorf("%s: got %q, %v", ref, got, err)
		}
	}
	if got, err := fetch(t, cloud.Source(id, true)); got != "\x00\xab\xff\n" {
		t.Errorf("raw: got %q, %v", got, err)
	}
	if f.logins != 1 {
		t.Errorf("%d logins for three fetches", f.logins)
	}
	f.mu.Lock()
	f.token = "expired"
	f.mu.Unlock()
	if got, err := fetch(t, cloud.Source(id, false)); got != "00abff0a" || f.logins != 2 {
		t.Errorf("expired token: %q, %v, %d logins", got, err, f.logins)
	}
}

func TestApplicationCredential(t *testing.T) {
	f := newCloud(t)
	cfg := f.config(t, "os-password")
	cfg.Username, cfg.CredentialID = "", "app"
	cloud, err := barbican.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(t, cloud.Source(id, false)); got != "00abff0a" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	f := newCloud(t)
	open := func(cfg barbican.Config) error {
		cloud, err := barbican.New(cfg)
		if err != nil {
			return err
		}
		_, err = fetch(t, cloud.Source(id, false))
		return err
	}
	expect := func(name string, err error, text string, unavailable bool) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) || errors.Is(err, key.ErrUnavailable) != unavailable {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "secret-in-the-body")) {
			t.Errorf("%s: a secret is in the error: %v", name, err)
		}
	}
	expect("wrong password", open(f.config(t, "hunter2")), "credentials", false)
	good := f.config(t, "os-password")
	for status, text := range map[int]string{403: "ACL", 404: "no such secret", 400: "400"} {
		f.status = status
		expect("status", open(good), text, false)
	}
	f.status = 503
	expect("down behind a proxy", open(good), "503", true)
	f.status = 0
	other := good
	other.Region = "two"
	expect("region", open(other), "key-manager", false)
	untrusted := good
	untrusted.CAFile = ""
	expect("unknown CA", open(untrusted), "certificate", true)
	f.Close()
	expect("down", open(good), "identity", true)
}
