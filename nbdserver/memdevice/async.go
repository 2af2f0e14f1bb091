// SPDX-License-Identifier: Apache-2.0

package memdevice

import "github.com/luksgate/luksgate/nbdserver"

// Async is a Device that also answers in batches from a goroutine of its own, as a network's client does: it implements
// nbdserver.AsyncDevice.
type Async struct {
	*Device
	asked chan ask
}

// ask is a request that nobody waits for.
type ask struct {
	p           []byte
	offsetBytes int64
	write       bool
	done        nbdserver.Completion
}

// batch is how many requests are answered together at the most.
const batch = 32

// Async makes d answer in batches too. The goroutine lives as long as the process.
func (d *Device) Async() *Async {
	a := &Async{d, make(chan ask, batch)}
	go a.collect()
	return a
}

// StartRead implements nbdserver.AsyncDevice.
func (a *Async) StartRead(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	a.asked <- ask{p, offsetBytes, false, done}
	return true
}

// StartWrite implements nbdserver.AsyncDevice.
func (a *Async) StartWrite(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	a.asked <- ask{p, offsetBytes, true, done}
	return true
}

func (a *Async) collect() {
	senders := make([]nbdserver.Sender, 0, batch)
	for q := range a.asked {
		senders = append(senders[:0], a.end(q))
		for more := true; more && len(senders) < batch; {
			select {
			case q := <-a.asked:
				senders = append(senders, a.end(q))
			default:
				more = false
			}
		}
		for i, s := range senders {
			if i == 0 || s != senders[i-1] {
				s.Send()
			}
		}
	}
}

func (a *Async) end(q ask) nbdserver.Sender {
	if q.write {
		return q.done.Done(a.WriteAt(q.p, q.offsetBytes, false))
	}
	return q.done.Done(a.ReadAt(q.p, q.offsetBytes))
}
