// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// maxAnswerBytes bounds what is read of an answer.
const maxAnswerBytes = 256 << 20

// Errors by what the daemon answers; errors.Is.
var (
	// ErrNotRunning: nobody answers at the socket.
	ErrNotRunning = errors.New("no daemon answers")
	// ErrNotFound: there is no such export.
	ErrNotFound = errors.New("no such export")
	// ErrConflict: it exists already, or is in use.
	ErrConflict = errors.New("conflict")
	// ErrInvalid: what was sent is wrong.
	ErrInvalid = errors.New("invalid")
)

// A Client talks to the daemon at one admin socket. It may be used by many goroutines at once.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the daemon at socket. Nothing is connected yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Exports lists all exports, by name.
func (c *Client) Exports(ctx context.Context) ([]Export, error) {
	var out []Export
	return out, c.do(ctx, http.MethodGet, "/v1/exports", nil, &out)
}

// Export describes one export.
func (c *Client) Export(ctx context.Context, name string) (Export, error) {
	var out Export
	return out, c.do(ctx, http.MethodGet, "/v1/exports/"+url.PathEscape(name), nil, &out)
}

// Add adds an export: a mapping as in the section exports of luksgate.conf, in YAML or JSON. An export that is there
// already with the same configuration is no error.
func (c *Client) Add(ctx context.Context, export []byte) (Export, error) {
	var out Export
	return out, c.do(ctx, http.MethodPost, "/v1/exports", export, &out)
}

// Remove removes an export. One that has clients is an ErrConflict, unless disconnect ends them.
func (c *Client) Remove(ctx context.Context, name string, disconnect bool) error {
	return c.do(ctx, http.MethodDelete, "/v1/exports/"+url.PathEscape(name)+query("disconnect", disconnect), nil, nil)
}

// Drain lets no new client have an export until Resume; disconnect ends those that are there, after the requests that
// they wait for.
func (c *Client) Drain(ctx context.Context, name string, disconnect bool) (Export, error) {
	var out Export
	return out, c.do(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/drain"+query("disconnect", disconnect), nil, &out)
}

// Resume ends a drain.
func (c *Client) Resume(ctx context.Context, name string) (Export, error) {
	var out Export
	return out, c.do(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/resume", nil, &out)
}

// Stats returns the counters.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var out Stats
	return out, c.do(ctx, http.MethodGet, "/v1/stats", nil, &out)
}

// Reload has the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context) (Change, error) {
	var out Change
	return out, c.do(ctx, http.MethodPost, "/v1/reload", nil, &out)
}

// Upgrade has the daemon hand over to a new process. With cut, clients with TLS are disconnected; else the old process
// relays them.
func (c *Client) Upgrade(ctx context.Context, cut bool) (Upgrade, error) {
	var out Upgrade
	return out, c.do(ctx, http.MethodPost, "/v1/upgrade"+query("cut", cut), nil, &out)
}

// Health asks whether the daemon works.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, "/healthz", nil, nil)
}

// Version says which daemon answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var out Version
	return out, c.do(ctx, http.MethodGet, "/v1/version", nil, &out)
}

func query(name string, on bool) string {
	if on {
		return "?" + name + "=true"
	}
	return ""
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, out any) error {
	res, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	limited := io.LimitReader(res.Body, maxAnswerBytes)
	if res.StatusCode >= 300 {
		return problem(res.StatusCode, limited)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(limited).Decode(out); err != nil {
		return fmt.Errorf("admin: the daemon's answer: %w", err)
	}
	return nil
}

// send sends a request. The caller closes the body of the answer.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://luksgate"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	res, err := c.http.Do(req)
	if err == nil {
		return res, nil
	}
	var no syscall.Errno
	if errors.As(err, &no) && (no == syscall.ECONNREFUSED || no == syscall.ENOENT) {
		return nil, fmt.Errorf("admin: socket %s: %w: start one with `luksgate serve`, or name its socket with --admin", c.socket, ErrNotRunning)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return nil, fmt.Errorf("admin: socket %s: %w", c.socket, err)
}

// A statusError is an answer that is no success.
type statusError struct {
	text string
	kind error // one of the sentinels, or nil
}

func (e *statusError) Error() string { return e.text }
func (e *statusError) Unwrap() error { return e.kind }

func problem(status int, body io.Reader) error {
	var p Problem
	if err := json.NewDecoder(body).Decode(&p); err != nil || p.Error == "" {
		p.Error = fmt.Sprintf("admin: the daemon answers %d %s", status, http.StatusText(status))
	}
	return problemText(status, p.Error)
}

func problemText(status int, text string) error {
	e := &statusError{text: text}
	switch status {
	case http.StatusNotFound:
		e.kind = ErrNotFound
	case http.StatusConflict:
		e.kind = ErrConflict
	case http.StatusBadRequest:
		e.kind = ErrInvalid
	}
	return e
}
