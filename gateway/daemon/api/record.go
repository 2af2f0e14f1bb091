// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Limits of a recording.
const (
	MaxRecordSeconds = 7 * 24 * 60 * 60
	MaxRecordBytes   = 16 << 30
)

// Record writes to w what clients ask of an export from now on (docs/bench-format.md, "Traces"), until length is over, the
// trace has limitBytes, or EndRecording. begun is called when the daemon notes requests.
func (c *Client) Record(ctx context.Context, name string, length time.Duration, limitBytes int64, w io.Writer, begun func()) error {
	path := fmt.Sprintf("/v1/exports/%s/record?seconds=%g&bytes=%d", url.PathEscape(name), length.Seconds(), limitBytes)
	res, err := c.send(ctx, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode >= http.StatusMultipleChoices {
		return problem(res.StatusCode, io.LimitReader(res.Body, maxAnswerBytes))
	}
	begun()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("admin: the recording broke off: %w", err)
	}
	return nil
}

// EndRecording ends the recording of an export; whoever waits in Record gets what was noted so far.
func (c *Client) EndRecording(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/exports/"+url.PathEscape(name)+"/record", nil, nil)
}
