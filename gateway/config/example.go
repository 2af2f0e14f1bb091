// SPDX-License-Identifier: Apache-2.0

package config

import _ "embed"

// Example is a configuration with every section, each with what it is for. It is valid.
//
//go:embed example.conf
var Example string
