// SPDX-License-Identifier: Apache-2.0

// Package prometheus_test has promtool judge the alerts.
package prometheus_test

import (
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestRules(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	testenv.Run(t, promtool, "check", "rules", "luksgate.rules.yml")
	testenv.Run(t, promtool, "test", "rules", "luksgate.rules.test.yml")
}
