// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/key/vault"
)

// fakeVault answers as the HTTP API of KV version 2 and AppRole is documented.
type fakeVault struct {
	*httptest.Server
	ca string

	mu     sync.Mutex
	tokens map[string]bool
	logins int
	sealed bool
}

func newVault(t *testing.T) *fakeVault {
	f := &fakeVault{tokens: map[string]bool{"root-token": true}}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	f.ca = testenv.WriteFile(t, filepath.Join(t.TempDir(), "ca.pem"), cert)
	return f
}

func (f *fakeVault) refuse(w http.ResponseWriter, status int, text ...string) {
	w.WriteHeader(status)
	if text == nil {
		text = []string{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": text})
}

func (f *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		f.refuse(w, 503, "Vault is sealed")
		return
	}
	ns := r.Header.Get("X-Vault-Namespace")
	if r.URL.Path == "/v1/auth/approle/login" {
		var body struct {
			Role   string `json:"role_id"`
			Secret string `json:"secret_id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		if body.Role != "role" || body.Secret != "secret-id" {
			f.refuse(w, 400, "invalid role or secret ID")
			return
		}
		f.logins++
		token := fmt.Sprintf("approle-token-%d", f.logins)
		f.tokens[token] = true
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": 3600}})
		return
	}
	if !f.tokens[r.Header.Get("X-Vault-Token")] {
		f.refuse(w, 403, "permission denied")
		return
	}
	data := map[string]any{"passphrase": "correct horse", "binary": "AP8=", "number": 7, "empty": ""}
	if r.URL.Query().Get("version") == "1" {
		data["passphrase"] = "the first one"
	}
	switch ns + r.URL.Path {
	case "/v1/secret/data/luksgate/vm1", "team/v1/secret/data/luksgate/vm1":
	case "/v1/secret/data/luksgate/deleted":
		data = nil
	default:
		f.refuse(w, 404)
		return
	}
	meta := map[string]any{"created_time": "2026-01-02T03:04:05.6Z", "deletion_time": "", "destroyed": false, "version": 2}
	if data == nil {
		w.WriteHeader(404)
		meta["deletion_time"] = "2026-02-02T03:04:05.6Z"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"data": data, "metadata": meta}})
}

func (f *fakeVault) config(t *testing.T, token string) vault.Config {
	return vault.Config{
		Address: f.URL, CAFile: f.ca,
		TokenFile: testenv.WriteFile(t, filepath.Join(t.TempDir(), "token"), []byte(token+"\n")),
	}
}

func get(t *testing.T, cfg vault.Config, s vault.Secret) (string, error) {
	t.Helper()
	server, err := vault.New(cfg)
	if err != nil {
		return "", err
	}
	b, err := server.Source(s).Passphrase(context.Background())
	if err != nil {
		return "", err
	}
	defer b.Release()
	return string(b.Bytes()), nil
}

func TestSecrets(t *testing.T) {
	f := newVault(t)
	vm1 := vault.Secret{Mount: "secret", Path: "luksgate/vm1", Field: "passphrase"}
	with := func(change func(*vault.Secret)) vault.Secret {
		s := vm1
		change(&s)
		return s
	}
	for _, c := range []struct {
		name       string
		secret     vault.Secret
		want, fail string
	}{
		{"latest", vm1, "correct horse", ""},
		{"version", with(func(s *vault.Secret) { s.Version = 1 }), "the first one", ""},
		{"base64", with(func(s *vault.Secret) { s.Field, s.Base64 = "binary", true }), "\x00\xff", ""},
		{"not base64", with(func(s *vault.Secret) { s.Base64 = true }), "", "not base64"},
		{"number", with(func(s *vault.Secret) { s.Field = "number" }), "", "expected a text"},
		{"empty", with(func(s *vault.Secret) { s.Field = "empty" }), "", "empty"},
		{"no field", with(func(s *vault.Secret) { s.Field = "none" }), "", "no such field"},
		{"no secret", with(func(s *vault.Secret) { s.Path = "luksgate/none" }), "", "no such secret"},
		{"deleted", with(func(s *vault.Secret) { s.Path = "luksgate/deleted" }), "", "deleted"},
	} {
		got, err := get(t, f.config(t, "root-token"), c.secret)
		if got != c.want || (c.fail != "") != (err != nil) || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "correct") || strings.Contains(err.Error(), "root-token")) {
			t.Errorf("%s: a secret is in the error: %v", c.name, err)
		}
	}
	cfg := f.config(t, "root-token")
	cfg.Token, cfg.TokenFile = key.File(cfg.TokenFile), ""
	if got, err := get(t, cfg, vm1); got != "correct horse" {
		t.Errorf("a token from a key source: %q, %v", got, err)
	}
	cfg.Token = key.File(testenv.WriteFile(t, filepath.Join(t.TempDir(), "empty"), []byte(" \n")))
	if _, err := get(t, cfg, vm1); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty token: %v", err)
	}
	cfg = f.config(t, "root-token")
	cfg.Namespace = "team"
	if got, err := get(t, cfg, vm1); got != "correct horse" {
		t.Errorf("namespace: %q, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	f := newVault(t)
	vm1 := vault.Secret{Mount: "secret", Path: "luksgate/vm1", Field: "passphrase"}
	if _, err := get(t, f.config(t, "wrong"), vm1); err == nil || errors.Is(err, key.ErrUnavailable) || !strings.Contains(err.Error(), "policy") {
		t.Errorf("wrong token: %v", err)
	}
	cfg := f.config(t, "root-token")
	cfg.CAFile = ""
	if _, err := get(t, cfg, vm1); !errors.Is(err, key.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown CA: %v", err)
	}
	f.mu.Lock()
	f.sealed = true
	f.mu.Unlock()
	if _, err := get(t, f.config(t, "root-token"), vm1); !errors.Is(err, key.ErrUnavailable) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("sealed: %v", err)
	}
	cfg = f.config(t, "root-token")
	f.Close()
	if _, err := get(t, cfg, vm1); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("down: %v", err)
	}
}

// TestAppRole logs in once for many fetches, and again when its token is revoked.
func TestAppRole(t *testing.T) {
	f := newVault(t)
	id := testenv.WriteFile(t, filepath.Join(t.TempDir(), "id"), []byte("secret-id\n"))
	server, err := vault.New(vault.Config{Address: f.URL, CAFile: f.ca, RoleMount: "approle", RoleID: "role", SecretIDFile: id})
	if err != nil {
		t.Fatal(err)
	}
	source := server.Source(vault.Secret{Mount: "secret", Path: "luksgate/vm1", Field: "passphrase"})
	fetch := func() {
		t.Helper()
		b, err := source.Passphrase(context.Background())
		if err != nil || string(b.Bytes()) != "correct horse" {
			t.Fatal(err)
		}
		b.Release()
	}
	fetch()
	fetch()
	if f.logins != 1 {
		t.Errorf("%d logins for two fetches", f.logins)
	}
	f.mu.Lock()
	delete(f.tokens, "approle-token-1")
	f.mu.Unlock()
	fetch()
	if f.logins != 2 {
		t.Errorf("%d logins after the token was revoked", f.logins)
	}
	wrong, err := vault.New(vault.Config{Address: f.URL, CAFile: f.ca, RoleMount: "approle", RoleID: "other", SecretIDFile: id})
	if err != nil {
		t.Fatal(err)
	}
	_, err = wrong.Source(vault.Secret{Mount: "secret", Path: "x", Field: "y"}).Passphrase(context.Background())
	if err == nil || !strings.Contains(err.Error(), "AppRole login") || strings.Contains(err.Error(), "secret-id") {
		t.Errorf("wrong role: %v", err)
	}
}
