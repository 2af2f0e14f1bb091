// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are the buckets that Prometheus sees, ends of ours: 0.128 ms to 8.4 s, each twice the one before.
var bounds = func() []time.Duration {
	var out []time.Duration
	for micros := 128; micros <= 8<<20; micros *= 2 {
		out = append(out, time.Duration(micros)*time.Microsecond)
	}
	return out
}()

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("luksgate_"+name, help, labels, nil)
}

var (
	descBuild       = desc("build_info", "Which luksgate runs; always 1.", "version", "goversion", "librbd", "kernel")
	descDuration    = desc("request_duration_seconds", "Time that the image and the cipher took for a request.", "export", "op")
	descBytes       = desc("request_bytes_total", "Bytes of requests that succeeded.", "export", "op")
	descErrors      = desc("request_errors_total", "Requests that were answered with an error.", "export", "op")
	descErrnos      = desc("request_errors_by_code_total", "Requests that were answered with an error, by NBD error code.", "export", "code")
	descWait        = desc("request_wait_seconds", "Time between the arrival of a request and the start of its execution.", "export")
	descInFlight    = desc("requests_in_flight", "Requests that the image works on.", "export")
	descConns       = desc("connections", "Clients that use the export.", "export")
	descConnected   = desc("connections_opened_total", "Clients that have used the export.", "export")
	descFailures    = desc("handshake_failures_total", "Connections that did not get to an export.", "reason")
	descOpen        = desc("export_open", "Whether the image is open.", "export")
	descOpens       = desc("export_opens_total", "Attempts to open the image.", "export", "result")
	descOpenSeconds = desc("export_open_seconds_total", "Time of opens that succeeded, key and key derivation included.", "export")
	descEnded       = desc("export_ended_total", "Times that an open image could no longer be used (blocked client, lost lock).", "export")
	descKeys        = desc("key_fetches_total", "Attempts to get the key from its source.", "export", "result")
	descKeySeconds  = desc("key_fetch_seconds_total", "Time of attempts that succeeded.", "export")
	descCryptBytes  = desc("crypto_bytes_total", "Bytes that the native engine encrypted or decrypted.", "export", "direction")
	descCryptTime   = desc("crypto_seconds_total", "Time of requests spent encrypting or decrypting.", "export", "direction")
	descUnlocks     = desc("unlocks_total", "Tries of a passphrase on the keyslots of a header.", "export", "result")
	descUnlockTime  = desc("unlock_seconds_total", "Time of these tries: the key derivation.", "export")
	descLockTaken   = desc("rbd_lock_acquisitions_total", "Times that the exclusive lock was taken.", "export")
	descLockLost    = desc("rbd_lock_losses_total", "Times that the exclusive lock went away.", "export")
	descSlow        = desc("rbd_slow_requests", "Requests that have waited for the cluster for more than 10 seconds.", "export")
	descOldest      = desc("rbd_oldest_request_seconds", "How long the oldest request that is under way has waited for the cluster.", "export")
	descRBDErrors   = desc("rbd_errors_total", "Errors of librbd.", "export", "op", "errno")
	descServerConns = desc("server_connections", "Connections in all, those that still negotiate included.")
	descBudget      = desc("buffer_budget_bytes", "Memory that payload buffers may take.")
	descUsed        = desc("buffer_used_bytes", "Memory of payload buffers that is in use.")
	descKept        = desc("buffer_kept_bytes", "Memory of payload buffers that is kept for the next request.")
	descWaiting     = desc("buffer_waiters", "Requests that wait for memory.")
	descWaited      = desc("buffer_waits_total", "Requests that had to wait for memory.")
	descHelpers     = desc("crypto_workers", "Goroutines that help to encrypt and decrypt large requests.")
	descBusy        = desc("crypto_workers_busy", "Of the workers, those that do.")
	descSplit       = desc("crypto_tasks_total", "Pieces of work large enough to be split over workers.", "help")
	descReloads     = desc("config_reloads_total", "Configurations that were applied or refused.", "result")
)

// Describe implements prometheus.Collector: which series there are depends on the exports, so none is promised.
func (s *Set) Describe(ch chan<- *prometheus.Desc) { ch <- descBuild }

// Collect implements prometheus.Collector.
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	b := s.build
	gauge(ch, descBuild, 1, b.Version, b.Go, b.Librbd, b.Kernel)
	s.mu.Lock()
	failures, reloads := maps.Clone(s.failures), s.reloads
	s.mu.Unlock()
	for _, reason := range reasons {
		counter(ch, descFailures, float64(failures[reason]), reason)
	}
	counter(ch, descReloads, float64(reloads[0]), ResultOK)
	counter(ch, descReloads, float64(reloads[1]), ResultError)
	v := s.server()
	gauge(ch, descServerConns, float64(v.Connections))
	gauge(ch, descBudget, float64(v.BudgetBytes))
	gauge(ch, descUsed, float64(v.UsedBytes))
	gauge(ch, descKept, float64(v.KeptBytes))
	gauge(ch, descWaiting, float64(v.Waiting))
	counter(ch, descWaited, float64(v.Waited))
	gauge(ch, descHelpers, float64(v.Workers.Helpers))
	gauge(ch, descBusy, float64(v.Workers.Busy))
	counter(ch, descSplit, float64(v.Workers.Shared), "shared")
	counter(ch, descSplit, float64(v.Workers.Split-min(v.Workers.Shared, v.Workers.Split)), "alone")
	for _, e := range s.all() {
		e.collectRequests(ch)
		e.collectState(ch)
	}
}

func (e *Export) collectRequests(ch chan<- prometheus.Metric) {
	for op := range e.ops {
		o := &e.ops[op]
		took := o.took.snapshot()
		// A label value that was never used costs no series, but the two that matter are there from the start.
		if took.Count() == 0 && op != opRead && op != opWrite {
			continue
		}
		histogramOf(ch, descDuration, took, e.name, opNames[op])
		counter(ch, descErrors, load(&o.errors), e.name, opNames[op])
		if op == opRead || op == opWrite || op == opTrim || op == opZero {
			counter(ch, descBytes, load(&o.bytes), e.name, opNames[op])
		}
	}
	histogramOf(ch, descWait, e.waited.snapshot(), e.name)
	gauge(ch, descInFlight, float64(e.inFlight.Load()), e.name)
	e.mu.Lock()
	errnos := maps.Clone(e.errnos)
	e.mu.Unlock()
	for code, n := range errnos {
		counter(ch, descErrnos, float64(n), e.name, strconv.Itoa(int(code)))
	}
}

func (e *Export) collectState(ch chan<- prometheus.Metric) {
	gauge(ch, descConns, float64(e.connections.Load()), e.name)
	counter(ch, descConnected, load(&e.connected), e.name)
	open := 0.0
	if e.open.Load() {
		open = 1
	}
	gauge(ch, descOpen, open, e.name)
	counter(ch, descOpens, load(&e.opened), e.name, ResultOK)
	counter(ch, descOpens, load(&e.openFailed), e.name, ResultError)
	counter(ch, descOpenSeconds, seconds(&e.openNanos), e.name)
	counter(ch, descEnded, load(&e.ended), e.name)
	counter(ch, descKeys, load(&e.keyFetched), e.name, ResultOK)
	counter(ch, descKeys, load(&e.keyFailed), e.name, ResultError)
	counter(ch, descKeySeconds, seconds(&e.keyNanos), e.name)
	for i, direction := range [2]string{"decrypt", "encrypt"} {
		counter(ch, descCryptBytes, load(&e.cryptBytes[i]), e.name, direction)
		counter(ch, descCryptTime, seconds(&e.cryptNanos[i]), e.name, direction)
	}
	counter(ch, descUnlocks, load(&e.unlocked), e.name, ResultOK)
	counter(ch, descUnlocks, load(&e.unlockFailed), e.name, ResultError)
	counter(ch, descUnlockTime, seconds(&e.unlockNanos), e.name)
	e.collectRBD(ch)
}

func (e *Export) collectRBD(ch chan<- prometheus.Metric) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rbd == nil {
		return
	}
	counter(ch, descLockTaken, float64(e.rbd.LockTaken), e.name)
	counter(ch, descLockLost, float64(e.rbd.LockLost), e.name)
	gauge(ch, descSlow, float64(e.rbd.Waiting), e.name)
	gauge(ch, descOldest, e.rbd.Oldest.Seconds(), e.name)
	for f, n := range e.rbd.Failures {
		counter(ch, descRBDErrors, float64(n), e.name, f.Op, f.Errno)
	}
}

func load(n *atomic.Uint64) float64 { return float64(n.Load()) }

func seconds(nanos *atomic.Uint64) float64 { return time.Duration(nanos.Load()).Seconds() }

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func histogramOf(ch chan<- prometheus.Metric, d *prometheus.Desc, h Durations, labels ...string) {
	by := make(map[float64]uint64, len(bounds))
	for _, b := range bounds {
		by[b.Seconds()] = h.upTo(b)
	}
	ch <- prometheus.MustNewConstHistogram(d, h.Count(), time.Duration(h.SumNanos).Seconds(), by, labels...)
}
