// SPDX-License-Identifier: Apache-2.0

// Package vault gets passphrases from the KV version 2 engine of HashiCorp Vault or OpenBao, through OpenBao's client,
// which speaks to both.
package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	bao "github.com/openbao/openbao/api/v2"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/key"
)

// maxTokenBytes bounds what is read of a file with a token or a secret ID.
const maxTokenBytes = 64 << 10

// Config says where the server is and who we are. One of Token, TokenFile and RoleID is set.
type Config struct {
	Address, Namespace string
	CAFile, ServerName string
	// Token is asked for each fetch.
	Token key.Source
	// TokenFile is read for each fetch, so that an agent may renew it.
	TokenFile string
	// RoleID and SecretIDFile log in at the AppRole method that is mounted at RoleMount.
	RoleMount, RoleID, SecretIDFile string
}

// A Server is a Vault or OpenBao server. Its sources may be used by many goroutines at once.
type Server struct {
	cfg    Config
	client *bao.Client

	mu      sync.Mutex
	token   string // of the last login
	expires time.Time
}

// New makes a server. Nothing is connected yet.
func New(cfg Config) (*Server, error) {
	c := bao.NewConfig()
	c.Address = cfg.Address
	c.DisableEnvironment = true // the configuration file alone says where to go
	c.MaxRetries = 0            // who asks decides on that
	if err := c.ConfigureTLS(&bao.TLSConfig{CACert: cfg.CAFile, TLSServerName: cfg.ServerName}); err != nil {
		return nil, fmt.Errorf("vault %s: TLS: %w", cfg.Address, err)
	}
	client, err := bao.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("vault %s: %w", cfg.Address, err)
	}
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	return &Server{cfg: cfg, client: client}, nil
}

// Secret names a field of a secret.
type Secret struct {
	Mount, Path, Field string
	Version            int // 0 is the latest
	Base64             bool
}

// A Source is one field of one secret.
type Source struct {
	server *Server
	secret Secret
}

// Source returns the source of a passphrase.
func (s *Server) Source(secret Secret) Source { return Source{s, secret} }

// String implements key.Source.
func (s Source) String() string {
	return fmt.Sprintf("vault %s secret %s/%s field %s", s.server.cfg.Address, s.secret.Mount, s.secret.Path, s.secret.Field)
}

// Passphrase implements key.Source. The client library keeps strings of its own until the collector takes them; luksgate
// keeps only what is in locked memory.
func (s Source) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	value, err := s.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	plain := []byte(value)
	defer secret.Wipe(plain)
	if s.secret.Base64 {
		decoded, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return nil, fmt.Errorf("%s: the field is not base64", s)
		}
		defer secret.Wipe(decoded)
		plain = decoded
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("%s: the field is empty", s)
	}
	return secret.Copy(plain)
}

func (s Source) read(ctx context.Context) (string, error) {
	for attempt := 0; ; attempt++ {
		client, err := s.server.login(ctx)
		if err != nil {
			return "", err
		}
		kv := client.KVv2(s.secret.Mount)
		var found *bao.KVSecret
		if s.secret.Version > 0 {
			found, err = kv.GetVersion(ctx, s.secret.Path, s.secret.Version)
		} else {
			found, err = kv.Get(ctx, s.secret.Path)
		}
		if status(err) == http.StatusForbidden && s.server.forget() && attempt == 0 {
			continue // the token of an earlier login may have been revoked
		}
		if err != nil {
			return "", explain(err)
		}
		return s.field(found)
	}
}

func (s Source) field(found *bao.KVSecret) (string, error) {
	if found.Data == nil {
		return "", errors.New("this version of the secret was deleted")
	}
	value, ok := found.Data[s.secret.Field]
	if !ok {
		return "", fmt.Errorf("the secret has no such field among its %d", len(found.Data))
	}
	text, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("the field is a %T: expected a text", value)
	}
	return text, nil
}

// login returns a client with a token.
func (s *Server) login(ctx context.Context) (*bao.Client, error) {
	client, err := s.client.CloneWithHeaders()
	if err != nil {
		return nil, err
	}
	if s.cfg.Token != nil || s.cfg.TokenFile != "" {
		token, err := s.givenToken(ctx)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		client.SetToken(token)
		return client, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" || time.Now().After(s.expires) {
		if err := s.appRole(ctx, client); err != nil {
			return nil, err
		}
	}
	client.SetToken(s.token)
	return client, nil
}

// givenToken is the token that the configuration names.
func (s *Server) givenToken(ctx context.Context) (string, error) {
	if s.cfg.Token == nil {
		return readToken(s.cfg.TokenFile)
	}
	b, err := s.cfg.Token.Passphrase(ctx)
	if err != nil {
		return "", err
	}
	defer b.Release()
	token := string(bytes.TrimSpace(b.Bytes()))
	if token == "" {
		return "", fmt.Errorf("%s: it is empty", s.cfg.Token)
	}
	return token, nil
}

// appRole gets a token; s.mu is held.
func (s *Server) appRole(ctx context.Context, client *bao.Client) error {
	body := map[string]any{"role_id": s.cfg.RoleID}
	if s.cfg.SecretIDFile != "" {
		id, err := readToken(s.cfg.SecretIDFile)
		if err != nil {
			return fmt.Errorf("AppRole secret ID: %w", err)
		}
		body["secret_id"] = id
	}
	client.ClearToken()
	answer, err := client.Logical().WriteWithContext(ctx, path.Join("auth", s.cfg.RoleMount, "login"), body)
	if err != nil {
		return fmt.Errorf("AppRole login: %w", explain(err))
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return errors.New("AppRole login: the answer has no token")
	}
	s.token = answer.Auth.ClientToken
	lease := time.Duration(answer.Auth.LeaseDuration) * time.Second
	if lease == 0 {
		lease = time.Hour // a token without end; it is asked for again now and then
	}
	s.expires = time.Now().Add(lease - lease/5)
	return nil
}

// forget drops the token of a login; it tells whether there was one.
func (s *Server) forget() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.token != ""
	s.token = ""
	return had
}

func readToken(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := secret.ReadAll(f, maxTokenBytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer b.Release()
	token := string(bytes.TrimSpace(b.Bytes()))
	if token == "" {
		return "", fmt.Errorf("%s: it is empty", name)
	}
	return token, nil
}

// status is the HTTP status of an answer that is an error, or 0.
func status(err error) int {
	var answer *bao.ResponseError
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// explain keeps of an error what the server said, and whether it may be over later.
func explain(err error) error {
	var answer *bao.ResponseError
	if errors.Is(err, bao.ErrSecretNotFound) {
		return errors.New("there is no such secret")
	}
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	said := strings.Join(answer.Errors, "; ")
	if said == "" {
		said = http.StatusText(answer.StatusCode)
	}
	switch code := answer.StatusCode; {
	case code == http.StatusForbidden:
		return fmt.Errorf("the server refuses (%s): the token has no policy for this path, or is not valid any more", said)
	case code == http.StatusTooManyRequests || code >= 500 || code == 473 || code == 472:
		return fmt.Errorf("%w: the server answers %d (%s)", key.ErrUnavailable, code, said)
	default:
		return fmt.Errorf("the server answers %d (%s)", code, said)
	}
}
