// SPDX-License-Identifier: Apache-2.0

// Package measure is what bench/guest and the program in its guest tell each other.
package measure

import (
	"encoding/json"

	"github.com/luksgate/luksgate/bench/workload"
)

// Where things are in the guest.
const (
	PlanPath = "/plan"
	KeyPath  = "/key"
)

// What lines on the guest's console begin with, or are.
const (
	AboutPrefix  = "ABOUT "  // something to be shown below the results
	ResultPrefix = "RESULT " // a Result
	ErrorPrefix  = "ERROR "  // why it ends (deploy/guest/boot)
	Done         = "DONE"    // the end of a whole run
)

// A Plan is what the guest is to do.
type Plan struct {
	// Image is POOL/NAME, and Conf the path of the cluster's configuration.
	Image, Conf string
	SizeBytes   int64 // of the plaintext that is used
	Depth       int
	Rounds      int
	Workloads   []Workload
}

// JSON is the plan as the guest reads it.
func (p Plan) JSON() []byte {
	text, err := json.Marshal(p)
	if err != nil {
		panic("BUG: a plan that is no JSON: " + err.Error())
	}
	return text
}

// A Workload is a number of requests.
type Workload struct {
	Kind       workload.Kind
	BlockBytes int
	Requests   int // that count, after a quarter of them that do not
}

// A Result is one measurement of one way to the image.
type Result struct {
	Contestant string
	Workload   Workload
	// Instructions that the guest executed for a request, whoever did in it.
	Instructions float64
}
