// SPDX-License-Identifier: Apache-2.0

// Package barbican gets passphrases from OpenStack's key manager, after a login at Keystone.
package barbican

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/keymanager/v1/secrets"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/key"
)

// maxBytes bounds what is read of a payload, a password file or a CA file.
const maxBytes = 1 << 20

// Config says who we are at which Keystone. One of Username and CredentialID is set.
type Config struct {
	AuthURL                string
	Username, UserDomain   string
	Project, ProjectDomain string
	CredentialID           string
	PasswordFile           string
	Region, Interface      string
	CAFile                 string
}

// A Cloud is an OpenStack with a key manager. Its sources may be used by many goroutines at once.
type Cloud struct {
	cfg  Config
	http http.Client

	mu     sync.Mutex
	client *gophercloud.ServiceClient // after a login
}

// New makes a cloud. Nothing is connected yet.
func New(cfg Config) (*Cloud, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("barbican: CA: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("barbican: CA %s: no certificate in it", cfg.CAFile)
		}
	}
	return &Cloud{cfg: cfg, http: http.Client{Transport: t}}, nil
}

// A Source is one secret.
type Source struct {
	cloud *Cloud
	id    string
	raw   bool
}

// Source returns the source of a passphrase: with raw the payload's bytes, else their lowercase hexadecimal digits, which
// is what Cinder and Nova make of a volume's key. ref is a secret's UUID or an address that ends in it.
func (c *Cloud) Source(ref string, raw bool) Source {
	return Source{c, ref[strings.LastIndexByte(ref, '/')+1:], raw}
}

// String implements key.Source.
func (s Source) String() string { return "barbican secret " + s.id }

// Passphrase implements key.Source.
func (s Source) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	b, err := s.payload(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	if b.Len() == 0 || s.raw {
		if b.Len() == 0 {
			b.Release()
			return nil, fmt.Errorf("%s: its payload is empty", s)
		}
		return b, nil
	}
	defer b.Release()
	digits, err := secret.New(hex.EncodedLen(b.Len()))
	if err != nil {
		return nil, err
	}
	hex.Encode(digits.Bytes(), b.Bytes())
	return digits, nil
}

func (s Source) payload(ctx context.Context) (*secret.Bytes, error) {
	client, err := s.cloud.login(ctx)
	if err != nil {
		return nil, fmt.Errorf("login at %s: %w", s.cloud.cfg.AuthURL, explain(err))
	}
	r := secrets.GetPayload(ctx, client, s.id, secrets.GetPayloadOpts{PayloadContentType: "application/octet-stream"})
	if r.Err != nil {
		return nil, explain(r.Err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := secret.ReadAll(r.Body, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: reading the payload: %w", key.ErrUnavailable, err)
	}
	return b, nil
}

// login returns a client of the key manager. Its token is renewed when the server says that it has expired.
func (c *Cloud) login(ctx context.Context) (*gophercloud.ServiceClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	password, err := readPassword(c.cfg.PasswordFile)
	if err != nil {
		return nil, err
	}
	auth := gophercloud.AuthOptions{IdentityEndpoint: c.cfg.AuthURL, AllowReauth: true}
	if c.cfg.CredentialID != "" {
		auth.ApplicationCredentialID, auth.ApplicationCredentialSecret = c.cfg.CredentialID, password
	} else {
		auth.Username, auth.DomainName, auth.Password = c.cfg.Username, c.cfg.UserDomain, password
		auth.Scope = &gophercloud.AuthScope{ProjectName: c.cfg.Project, DomainName: c.cfg.ProjectDomain}
	}
	provider, err := openstack.NewClient(c.cfg.AuthURL)
	if err != nil {
		return nil, err
	}
	provider.HTTPClient = c.http
	if err := openstack.Authenticate(ctx, provider, auth); err != nil {
		return nil, err
	}
	client, err := openstack.NewKeyManagerV1(provider, gophercloud.EndpointOpts{
		Region: c.cfg.Region, Availability: gophercloud.Availability(c.cfg.Interface),
	})
	if err != nil {
		return nil, fmt.Errorf("the catalog has no key-manager service: %w", err)
	}
	c.client = client
	return client, nil
}

func readPassword(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := secret.ReadAll(io.LimitReader(f, maxBytes), maxBytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer b.Release()
	return string(bytes.TrimRight(b.Bytes(), "\r\n")), nil
}

// explain says what an answer means, without its body, which is the server's business.
func explain(err error) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &answer) {
		var net interface{ Timeout() bool }
		if errors.As(err, &net) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
		}
		return err
	}
	switch code := answer.Actual; {
	case code == http.StatusUnauthorized:
		return errors.New("the server does not accept the credentials (401)")
	case code == http.StatusForbidden:
		return errors.New("this user may not read the secret (403): it needs the role creator, or a place in the secret's ACL")
	case code == http.StatusNotFound:
		return errors.New("there is no such secret (404)")
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("%w: the server answers %d", key.ErrUnavailable, code)
	default:
		return fmt.Errorf("the server answers %d", code)
	}
}
