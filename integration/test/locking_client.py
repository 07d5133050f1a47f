#!/usr/bin/python3
"""Clients of etcd's Lock that contend for one name, at all hosts, while these die (python3-grpcio). Exits with 77
without grpcio.

    locking_client.py DESCRIPTORS SECONDS ADDRESS...

Whoever holds the lock adds to a counter in the store, in a transaction that demands that its key is there. The counter
must then be as the holder read it, or somebody else has held the lock at the same time; and the fencing token of whoever
wrote it last, which is stored with it, must be smaller. Some holders never unlock, some calls are given up early, some
leases are revoked while their call waits. Prints "contending" at the begin."""
import pathlib
import random
import sys
import threading
import time

try:
    import grpc
except ImportError:
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "shards" / "machine" / "test"))
from etcd_testing import load

CONTENDERS = 12
LEASE_S = 3
AFTER_S = 60  # for everybody to get the lock once more when all hosts are there


class Contender(threading.Thread):
    wrong = []
    over = False

    def __init__(self, message, addresses, number):
        super().__init__(daemon=True)
        self.message, self.addresses, self.random = message, addresses, random.Random(number)
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(address, options=options) for address in addresses]
        self.held = self.lost = self.since_over = 0

    def call(self, method, package="etcdserverpb", timeout=10, **fields):
        name = method.split("/")[1]
        started = self.random.choice(self.channels).unary_unary(
            f"/{package}.{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=self.message(f"{package}.{name}Response").FromString,
        )
        return started(self.message(f"{package}.{name}Request")(**fields), timeout=timeout)

    def check(self, ok, *what):
        if not ok:
            self.wrong.append(what)

    def add(self, key, token):
        """The critical section. False: the lock was lost meanwhile."""
        message = self.message
        before = self.call("KV/Range", key=b"counter").kvs
        count, last = (int(x) for x in before[0].value.split()) if before else (0, 0)
        mod = before[0].mod_revision if before else 0
        time.sleep(self.random.random() * 0.02)
        compare, put, get = (message("etcdserverpb." + name)() for name in ("Compare", "RequestOp", "RequestOp"))
        compare.target, compare.key, compare.create_revision = 1, key, token
        put.request_put.key, put.request_put.value = b"counter", b"%d %d" % (count + 1, token)
        get.request_range.key = b"counter"
        # The counter is read in the same transaction, before it is written.
        done = self.call("KV/Txn", compare=[compare], success=[get, put])
        if not done.succeeded:
            return False
        now = done.responses[0].response_range.kvs
        self.check((now[0].mod_revision if now else 0) == mod, "two held the lock", key, token, count, now)
        self.check(last < token or last == 0, "the token went back", last, token)
        return True

    def once(self):
        lease = self.call("Lease/LeaseGrant", TTL=LEASE_S).ID
        kind = self.random.random()
        if kind < 0.1:
            threading.Timer(self.random.random(), self.quietly, ("Lease/LeaseRevoke",), {"ID": lease}).start()
        timeout = self.random.random() if kind > 0.8 else 20
        waits = threading.Event()
        threading.Thread(target=self.keep, args=(lease, waits), daemon=True).start()
        try:
            key = self.call("Lock/Lock", package="v3lockpb", timeout=timeout, name=b"name", lease=lease).key
        finally:
            waits.set()
        own = self.call("KV/Range", key=key).kvs
        if not own or not self.add(key, own[0].create_revision):
            self.lost += 1
            return
        self.held += 1
        self.since_over += self.over
        if not 0.75 < kind < 0.8:  # the others never unlock: their leases end
            self.call("Lock/Unlock", package="v3lockpb", key=key)

    def quietly(self, method, **fields):
        try:
            self.call(method, **fields)
        except grpc.RpcError:
            pass

    def keep(self, lease, end):
        """Renews the lease while its call waits."""
        message = self.message
        while not end.wait(LEASE_S / 3):
            started = self.random.choice(self.channels).stream_stream(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=message("etcdserverpb.LeaseKeepAliveResponse").FromString,
            )
            try:
                list(started(iter([message("etcdserverpb.LeaseKeepAliveRequest")(ID=lease)]), timeout=1))
            except grpc.RpcError:
                pass

    def run(self):
        while self.since_over == 0 and not self.wrong:
            try:
                self.once()
            except grpc.RpcError:
                time.sleep(0.05)  # given up, revoked, or the host is down


def main():
    message, addresses = load(sys.argv[1]), sys.argv[3:]
    all_of_them = [Contender(message, addresses, i) for i in range(CONTENDERS)]
    for c in all_of_them:
        c.start()
    print("contending", flush=True)
    time.sleep(float(sys.argv[2]))
    Contender.over = True
    end = time.monotonic() + AFTER_S
    for c in all_of_them:
        c.join(max(0, end - time.monotonic()))
    assert not Contender.wrong, Contender.wrong
    stuck = [i for i, c in enumerate(all_of_them) if c.is_alive()]
    assert not stuck, ("never got the lock again", stuck)
    print(f"held {sum(c.held for c in all_of_them)} times, lost {sum(c.lost for c in all_of_them)} times")


if __name__ == "__main__":
    main()
