// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

const said = "[    0.1] kernel\r\nABOUT luksgate: xts aesni\r\n" +
	`RESULT {"Contestant":"a","Workload":{"Kind":"randread","BlockBytes":4096,"Requests":10},"Instructions":100000}` + "\r\n" +
	`RESULT {"Contestant":"b","Workload":{"Kind":"randread","BlockBytes":4096,"Requests":10},"Instructions":200000}` + "\r\n" +
	`RESULT {"Contestant":"a","Workload":{"Kind":"randread","BlockBytes":4096,"Requests":10},"Instructions":102000}` + "\r\n"

func TestConsole(t *testing.T) {
	var c console
	if err := c.read(strings.NewReader(said + "DONE\r\n[ 9.9] reboot: Power down\r\n")); err != nil {
		t.Fatal(err)
	}
	table := c.table()
	for _, want := range []string{"| a | 101 |", "| b | 200 |", "random read, 4 KiB", "xts aesni"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	for name, text := range map[string]string{
		"not done": said, "an error": said + "ERROR it broke\r\nDONE\r\n", "no JSON": said + "RESULT {\r\nDONE\r\n",
	} {
		if err := new(console).read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
