// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// A ResizeRequest is the body of a resize.
type ResizeRequest struct {
	SizeBytes   int64 `json:"size"` // as a guest sees it
	AllowShrink bool  `json:"allow_shrink,omitempty"`
}

// An Event is one line of the answer to what takes long: how far it is, and at last its result or its error.
type Event struct {
	// Step names what is being done; Done and Total are in units of its own.
	Step  string `json:"step,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`

	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Status int             `json:"status,omitempty"` // HTTP's, of an error
}

// Resize gives the image of an export another size. progress, if it is not nil, is told how far it is, and out, a
// pointer, gets the result. When ctx ends, the daemon stops as soon as it can.
func (c *Client) Resize(ctx context.Context, name string, r ResizeRequest, progress func(step string, done, total int64), out any) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	return c.follow(ctx, name, "resize", body, progress, out)
}

// Flatten makes the image of an export independent of its parent. See Resize.
func (c *Client) Flatten(ctx context.Context, name string, progress func(step string, done, total int64), out any) error {
	return c.follow(ctx, name, "flatten", nil, progress, out)
}

func (c *Client) follow(ctx context.Context, name, verb string, body []byte, progress func(string, int64, int64), out any) error {
	res, err := c.send(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/"+verb, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	limited := io.LimitReader(res.Body, maxAnswerBytes)
	if res.StatusCode >= http.StatusMultipleChoices {
		return problem(res.StatusCode, limited)
	}
	for lines := json.NewDecoder(limited); ; {
		var e Event
		switch err := lines.Decode(&e); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return errors.New("admin: the daemon ended before the operation did: run the command again")
		case err != nil:
			return fmt.Errorf("admin: the daemon's answer: %w", err)
		case e.Error != "":
			return problemText(e.Status, e.Error)
		case e.Result != nil:
			if err := json.Unmarshal(e.Result, out); err != nil {
				return fmt.Errorf("admin: the daemon's answer: %w", err)
			}
			return nil
		case progress != nil:
			progress(e.Step, e.Done, e.Total)
		}
	}
}
