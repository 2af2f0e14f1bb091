// SPDX-License-Identifier: Apache-2.0

//go:build race

package volume

const raceEnabled = true // sync.Pool drops items at random under the race detector
