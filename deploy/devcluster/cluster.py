#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What devcluster says to the monitor, over one connection: the ceph command takes half a second for each.

cluster.py DIR register-osds N           make N osds known; their ids are 0..N-1, their uuids go to DIR/osd.N/uuid
cluster.py DIR wait-osds N               wait until N osds are up
cluster.py DIR make-pools N POOLS EC     wait for N osds, make the pools (names in one argument), ready for RBD
"""
import json
import re
import sys
import time
import uuid

import rados
import rbd

TIMEOUT_SECONDS = 120


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.rados = rados.Rados(conffile=folder + "/ceph.conf", name="client.admin")
        self.rados.connect(timeout=60)

    def command(self, prefix, _input=b"", **arguments):
        """Runs one monitor command; the end of the program if it fails."""
        status, out, err = self.rados.mon_command(json.dumps(dict(arguments, prefix=prefix)), _input)
        if status:
            sys.exit(f"devcluster: {prefix} {arguments}: {err or status}")
        return out

    def register_osds(self, count):
        for number in range(count):
            folder = f"{self.folder}/osd.{number}"
            key = re.search(r"key = (\S+)", open(folder + "/keyring").read()).group(1)
            name = str(uuid.uuid4())
            self.command("osd new", json.dumps({"cephx_secret": key}).encode(), uuid=name, id=number)
            with open(folder + "/uuid", "w") as file:
                file.write(name)
        # The mgr would make a pool of its own for it.
        self.command("config set", who="mgr", name="mgr/devicehealth/enable_monitoring", value="false", force=True)
        self.command("config set", who="global", name="auth_allow_insecure_global_id_reclaim", value="false")
        # Some Python modules of the mgr do not load on Debian 13; none is needed here.
        self.command("health mute", code="MGR_MODULE_DEPENDENCY", sticky=True)

    def wait_osds(self, count):
        end = time.monotonic() + TIMEOUT_SECONDS
        while json.loads(self.command("osd stat", format="json"))["num_up_osds"] < count:
            if time.monotonic() > end:
                sys.exit(f"devcluster: not all of {count} osds are up after {TIMEOUT_SECONDS} s; see {self.folder}/log")
            time.sleep(0.05)

    def make_pools(self, replicated, erasure_coded):
        for pool in replicated:
            self.command("osd pool create", pool=pool, pg_num=8)
            with self.rados.open_ioctx(pool) as ioctx:
                rbd.RBD().pool_init(ioctx, True)
        if erasure_coded:
            profile = ["plugin=jerasure", "k=2", "m=1", "crush-failure-domain=osd"]
            self.command("osd erasure-code-profile set", name="devcluster", profile=profile)
            self.command("osd pool create", pool=erasure_coded, pg_num=8, pool_type="erasure",
                         erasure_code_profile="devcluster")
            self.command("osd pool set", pool=erasure_coded, var="allow_ec_overwrites", val="true")
            self.command("osd pool application enable", pool=erasure_coded, app="rbd")


def main():
    cluster, verb, count = Cluster(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if verb == "register-osds":
        cluster.register_osds(count)
    else:
        cluster.wait_osds(count)
    if verb == "make-pools":
        cluster.make_pools(sys.argv[4].split(), sys.argv[5])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except rados.Error as error:
        sys.exit(f"devcluster: {error}; see {sys.argv[1]}/log")
