// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestScrapersAreBounded has more connections to the metrics of the network than places: the rest wait, and come when one
// leaves.
func TestScrapersAreBounded(t *testing.T) {
	d := newDaemon(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{}, 2*maxScrapers)
	leave := make(chan struct{})
	s := d.serveScrapers(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		served <- struct{}{}
		<-leave
	}))
	answers := make(chan error, 2*maxScrapers)
	for range maxScrapers + 1 {
		go func() {
			c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := c.Get(fmt.Sprintf("http://%s/", l.Addr()))
			if err == nil {
				err = res.Body.Close()
			}
			answers <- err
		}()
	}
	for range maxScrapers {
		<-served
	}
	select {
	case <-served:
		t.Errorf("more than %d at once", maxScrapers)
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	for range maxScrapers + 1 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	within(t, "the server has closed", func() { _ = s.Close() })
}
