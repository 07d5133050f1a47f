#!/usr/bin/python3
"""Lock and Election of etcd's API, against a host that was started with --dev and, if there is one, beside a real
etcd: the same calls to both, and equal answers. Needs python3-grpcio; otherwise skipped (77).

    etcd_locks.py DESCRIPTORS ADDRESS
"""
import contextlib
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request

try:
    import grpc
except ImportError:
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "shards" / "machine" / "test"))
from etcd_testing import DEADLINE_S, eventually, load, start_etcd

LEASE_S = 100


SERVICES = {"Lock": "v3lockpb", "Election": "v3electionpb"}


class Server:
    def __init__(self, message, address):
        self.message, self.address = message, address
        self.channel = grpc.insecure_channel(address)

    def method(self, name, stream=False):
        service, call = name.split("/")
        package = SERVICES.get(service, "etcdserverpb")
        kind = {"Observe": "Leader", "Compact": "Compaction"}.get(call, call)
        make = self.channel.unary_stream if stream else self.channel.unary_unary
        started = make(
            f"/{package}.{service}/{call}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=self.message(f"{package}.{kind}Response").FromString,
        )
        return started, self.message(f"{package}.{kind}Request")

    def call(self, name, /, **fields):
        started, request = self.method(name)
        return started(request(**fields), timeout=DEADLINE_S)

    def begin(self, name, /, **fields):
        """A call that waits: its future."""
        started, request = self.method(name)
        return started.future(request(**fields), timeout=DEADLINE_S)

    def error(self, name, /, **fields):
        try:
            answer = self.call(name, **fields)
        except grpc.RpcError as e:
            return e.details()  # codes differ: etcd's server loses them between its own calls
        raise AssertionError((name, fields, answer))

    def observe(self, name):
        """What comes, as a queue of (key, value), and how to end it."""
        started, request = self.method("Election/Observe", stream=True)
        stream, seen = started(request(name=name)), queue.Queue()

        def read():
            with contextlib.suppress(grpc.RpcError):
                for answer in stream:
                    seen.put((answer.kv.key, answer.kv.value))

        threading.Thread(target=read, daemon=True).start()
        return seen, stream.cancel

    def keys(self, prefix):
        found = self.call("KV/Range", key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1]))
        return [kv.key for kv in found.kvs]

    def lease(self, number):
        return self.call("Lease/LeaseGrant", TTL=LEASE_S, ID=number).ID

    def queued(self, name, count):
        eventually(f"{count} keys of {name}", lambda: len(self.keys(name + b"/")) == count)


# ---- The same at both ---------------------------------------------------------------------------


def locks(s):
    for number in range(0x11, 0x16):
        s.lease(number)
    first = s.call("Lock/Lock", name=b"m", lease=0x11)
    yield "first", first.key, first.header.revision
    yield "again", s.call("Lock/Lock", name=b"m", lease=0x11).key
    second = s.begin("Lock/Lock", name=b"m", lease=0x12)
    s.queued(b"m", 2)
    third = s.begin("Lock/Lock", name=b"m", lease=0x13)
    s.queued(b"m", 3)
    fourth = s.begin("Lock/Lock", name=b"m", lease=0x14)
    s.queued(b"m", 4)
    yield "kept out", second.done(), third.done()
    s.call("Lock/Unlock", key=first.key)
    yield "in order", second.result().key, third.done()
    third.cancel()
    s.queued(b"m", 2)
    yield "who went away leaves no key", s.keys(b"m/")
    s.call("Lease/LeaseRevoke", ID=0x12)
    yield "a lease that ends lets the next one in", fourth.result().key
    yield "below the name", s.call("Lock/Lock", name=b"m/x", lease=0x11).key
    fifth = s.begin("Lock/Lock", name=b"m", lease=0x15)
    s.queued(b"m", 3)
    s.call("Lock/Unlock", key=fourth.result().key)
    yield "keys below it count", fifth.done()
    s.call("Lock/Unlock", key=b"m/x/11")
    yield "after them", fifth.result().key
    yield "unlocked twice", s.call("Lock/Unlock", key=b"m/x/11").header.revision > 0
    yield "no lease", s.error("Lock/Lock", name=b"m", lease=0x99)
    yield "no key", s.error("Lock/Unlock", key=b"")
    yield "no name", s.call("Lock/Lock", name=b"", lease=0x11).key
    own = s.call("Lock/Lock", name=b"o").key
    yield "a lease of its own", own[:2], s.call("Lease/LeaseTimeToLive", ID=int(own[2:], 16)).grantedTTL


def elections(s):
    for number in range(0x21, 0x25):
        s.lease(number)
    yield "nobody", s.error("Election/Leader", name=b"e")
    seen, end = s.observe(b"e")
    first = s.call("Election/Campaign", name=b"e", lease=0x21, value=b"one").leader
    yield "first", first.name, first.key, first.lease
    yield "seen", seen.get(timeout=DEADLINE_S)
    second = s.begin("Election/Campaign", name=b"e", lease=0x22, value=b"two")
    s.queued(b"e", 2)
    s.call("Election/Proclaim", leader=first, value=b"uno")
    yield "proclaimed", seen.get(timeout=DEADLINE_S), s.call("Election/Leader", name=b"e").kv.value
    again = s.call("Election/Campaign", name=b"e", lease=0x21, value=b"ein").leader
    yield "again", again.rev == first.rev, seen.get(timeout=DEADLINE_S), second.done()
    s.call("Election/Resign", leader=first)
    yield "resigned", second.result().leader.key, seen.get(timeout=DEADLINE_S)
    yield "late", s.error("Election/Proclaim", leader=first, value=b"x")
    yield "resigned twice", s.call("Election/Resign", leader=first).header.revision > 0
    third = s.begin("Election/Campaign", name=b"e", lease=0x23, value=b"three")
    s.queued(b"e", 2)
    fourth = s.begin("Election/Campaign", name=b"e", lease=0x24, value=b"four")
    s.queued(b"e", 3)
    third.cancel()
    s.queued(b"e", 2)
    s.call("Lease/LeaseRevoke", ID=0x22)
    yield "fourth", fourth.result().leader.key, seen.get(timeout=DEADLINE_S)
    s.call("Election/Resign", leader=fourth.result().leader)
    yield "nobody again", s.error("Election/Leader", name=b"e")
    s.call("Election/Campaign", name=b"e", lease=0x21, value=b"last")
    yield "last", seen.get(timeout=DEADLINE_S)
    end()
    yield "no leader given", s.error("Election/Resign"), s.error("Election/Proclaim", value=b"x")
    yield "no lease", s.error("Election/Campaign", name=b"e", lease=0x99)


def etcdctl(s):
    """etcd's clients take locks by keys themselves."""

    def start(*words):
        command = ["etcdctl", "--endpoints", s.address, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "ETCDCTL_API": "3"})

    s.lease(0x31)
    s.lease(0x32)
    held = s.call("Lock/Lock", name=b"c", lease=0x31)
    with start("lock", "c", "cat") as client:
        s.queued(b"c", 2)
        behind = s.begin("Lock/Lock", name=b"c", lease=0x32)
        s.queued(b"c", 3)
        s.call("Lock/Unlock", key=held.key)
        yield "etcdctl", client.wait(DEADLINE_S)
    yield "a call after it", behind.result().key
    first = s.call("Election/Campaign", name=b"d", lease=0x31, value=b"call").leader
    with start("elect", "d", "client") as client:
        s.queued(b"d", 2)
        second = s.begin("Election/Campaign", name=b"d", lease=0x32, value=b"behind")
        s.queued(b"d", 3)
        s.call("Election/Resign", leader=first)
        yield "elected", client.stdout.readline()[:2], client.stdout.readline()
        with start("elect", "--listen", "d") as listener:
            yield "heard", listener.stdout.readline()[:2], listener.stdout.readline()
            listener.kill()
        client.terminate()
    yield "elected after it", second.result().leader.key


# ---- Thole only ---------------------------------------------------------------------------------


def repeats(s):
    """A call that is made twice with the same lease has one key, which belongs to the last one."""
    for number in range(0x41, 0x44):
        s.lease(number)
    held = s.call("Lock/Lock", name=b"r", lease=0x41)
    first = s.begin("Lock/Lock", name=b"r", lease=0x42)
    s.queued(b"r", 2)
    written = [kv.mod_revision for kv in s.call("KV/Range", key=b"r/42").kvs]
    second = s.begin("Lock/Lock", name=b"r", lease=0x42)
    eventually("repeated", lambda: [kv.mod_revision for kv in s.call("KV/Range", key=b"r/42").kvs] != written)
    first.cancel()
    behind = s.begin("Lock/Lock", name=b"r", lease=0x43)
    s.queued(b"r", 3)
    s.call("Lock/Unlock", key=held.key)
    assert second.result().key == b"r/42"
    assert not behind.done() and s.keys(b"r/") == [b"r/42", b"r/43"]
    # Two that both wait are both answered, and a third one that goes away takes nothing.
    twin = s.begin("Lock/Lock", name=b"r", lease=0x41)
    s.queued(b"r", 3)
    written = [kv.mod_revision for kv in s.call("KV/Range", key=b"r/41").kvs]
    other = s.begin("Lock/Lock", name=b"r", lease=0x41)
    eventually("repeated", lambda: [kv.mod_revision for kv in s.call("KV/Range", key=b"r/41").kvs] != written)
    behind.cancel()
    s.queued(b"r", 2)
    s.call("Lease/LeaseRevoke", ID=0x42)
    assert twin.result().key == other.result().key == b"r/41"
    assert s.keys(b"r/") == [b"r/41"]


def leases(s):
    """Who waits hears at once that its lease is over; a compaction disturbs nobody."""
    for number in range(0x51, 0x55):
        s.lease(number)
    held = s.call("Lock/Lock", name=b"l", lease=0x51)
    waiting = s.begin("Lock/Lock", name=b"l", lease=0x52)
    running = s.begin("Election/Campaign", name=b"l", lease=0x53)
    s.queued(b"l", 3)
    s.call("Lease/LeaseRevoke", ID=0x52)
    s.call("Lease/LeaseRevoke", ID=0x53)
    assert waiting.exception().details() == "mutex: session is expired", waiting.exception()
    assert running.exception().details() == "election: session is expired", running.exception()
    last = s.begin("Lock/Lock", name=b"l", lease=0x54)
    s.queued(b"l", 2)
    revision = s.call("KV/Put", key=b"other", value=b"1").header.revision
    s.call("KV/Compact", revision=revision)
    s.call("Lock/Unlock", key=held.key)
    assert last.result().key == b"l/54"
    # A lease of the call's own goes with the call.
    before = len(s.call("Lease/LeaseLeases").leases)
    own = s.begin("Lock/Lock", name=b"l")
    s.queued(b"l", 2)
    own.cancel()
    s.queued(b"l", 1)
    assert len(s.call("Lease/LeaseLeases").leases) == before


@contextlib.contextmanager
def real_etcd(message):
    """None without one."""
    if shutil.which("etcd") is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        process, client = start_etcd(work)
        stack.enter_context(process)
        stack.callback(process.kill)

        def is_up():
            try:
                with urllib.request.urlopen(f"http://{client}/health", timeout=1) as answer:
                    return b'"true"' in answer.read()
            except OSError:
                return False

        eventually("etcd starts", is_up)
        yield Server(message, client)


def main():
    message = load(sys.argv[1])
    thole = Server(message, sys.argv[2])
    same = [locks, elections]
    if shutil.which("etcdctl") is not None:
        same.append(etcdctl)
    with real_etcd(message) as etcd:
        for scenario in same:
            results = list(scenario(thole))
            expected = list(scenario(etcd)) if etcd is not None else results
            for ours, theirs in zip(results, expected):
                assert ours == theirs, (scenario.__name__, ours, theirs)
    repeats(thole)
    leases(thole)


if __name__ == "__main__":
    main()
