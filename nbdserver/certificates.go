// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles name the PEM files of a server's identity.
type TLSFiles struct {
	Certificate, Key string
	// ClientCA, if set, makes client certificates signed by it mandatory.
	ClientCA string
}

// Certificates are TLS files that may change while the server runs: each handshake looks whether they did. Files that
// cannot be used leave the earlier ones in force. Its methods may be called by many goroutines at once.
type Certificates struct {
	files TLSFiles
	log   *slog.Logger

	mu     sync.Mutex
	stamps [3]stamp
	config *tls.Config
}

// stamp is what of a file's state shows a change.
type stamp struct {
	modified time.Time
	size     int64
}

// LoadCertificates reads the files for the first time. A nil logger discards what later reloads have to say.
func LoadCertificates(files TLSFiles, log *slog.Logger) (*Certificates, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{files: files, log: log}
	return c, c.Reload()
}

// Reload reads the files. On an error the earlier ones stay in force.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(c.stat())
}

// Config returns the configuration for one handshake, for TLSOptions.Config.
func (c *Certificates) Config() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.stat(); now != c.stamps {
		if err := c.load(now); err != nil {
			c.stamps = now // say it once for each change
			c.log.Error("changed TLS files cannot be used, the earlier ones stay in force", "error", err)
		} else {
			c.log.Info("TLS files reloaded", "certificate", c.files.Certificate)
		}
	}
	return c.config, nil
}

func (c *Certificates) stat() [3]stamp {
	var s [3]stamp
	for i, name := range []string{c.files.Certificate, c.files.Key, c.files.ClientCA} {
		if info, err := os.Stat(name); name != "" && err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

// load reads the files; c.mu is held.
func (c *Certificates) load(stamps [3]stamp) error {
	pair, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("nbdserver: TLS certificate %s with key %s: %w", c.files.Certificate, c.files.Key, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12, // qemu 4.2's gnutls of older systems has no 1.3
		// A resumed session would skip the look at a client's certificate after a change of ClientCA.
		SessionTicketsDisabled: true,
	}
	if c.files.ClientCA != "" {
		pem, err := os.ReadFile(c.files.ClientCA)
		if err != nil {
			return fmt.Errorf("nbdserver: TLS client CA: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("nbdserver: TLS client CA %s: no certificate in it", c.files.ClientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	c.config, c.stamps = config, stamps
	return nil
}
