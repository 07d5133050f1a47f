#!/usr/bin/python3
"""A client of etcd's API that watches (python3-grpcio). Exits with 77 without grpcio.

    watching_client.py DESCRIPTORS faults SECONDS ADDRESS...     while hosts die and shards move
    watching_client.py DESCRIPTORS slow MIB ADDRESS...           without reading what comes
    watching_client.py DESCRIPTORS leaderless ADDRESS            while the shard loses its majority

faults: for SECONDS it writes through any host. Meanwhile, at each host: a watcher of everything that reads at once, one that
asks for prev_kv, one of a single key, and one that reads a little at a time. A stream that breaks is opened again, at
any host, from the revision after the last one that came. At the end each has to have had every change of its range
since the start, once, in order, whole revisions at a time.

slow: many streams are opened and not read while MIB are written; then the first of them is compacted away, and others
read everything. A stream that reads gets everything meanwhile.

leaderless: a stream with the metadata `hasleader` ends, another one goes on. Prints "watching" when they are open."""
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

TIMEOUT_S = 60
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_reconnect_backoff_ms", 500)]


class Client:
    def __init__(self, descriptors, addresses):
        of = load(descriptors)
        self.message = lambda name: of("etcdserverpb." + name)
        self.channels = [grpc.insecure_channel(address, options=OPTIONS) for address in addresses]

    def call(self, at, method, name, timeout=5, **fields):
        call = self.channels[at].unary_unary(
            "/etcdserverpb." + method,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=self.message(name + "Response").FromString,
        )
        return call(self.message(name + "Request")(**fields), timeout=timeout)

    def watch(self, at, requests, metadata=()):
        """A stream of Watch; iterates over its answers."""
        stream = self.channels[at].stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=self.message("WatchResponse").FromString,
        )
        return stream(requests, metadata=metadata)

    def anywhere(self, method, name, **fields):
        """Reads only: repeated until some host answers."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self.call(random.randrange(len(self.channels)), method, name, **fields)
            except grpc.RpcError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


class Watcher(threading.Thread):
    def __init__(self, client, at, start, pause_s, **fields):
        super().__init__(daemon=True)
        self.client, self.at, self.next, self.pause_s = client, at, start, pause_s
        self.fields, self.events, self.over, self.streams = fields, [], False, 0
        self.start()

    def requests(self):
        message = self.client.message
        create = message("WatchCreateRequest")(start_revision=self.next, **self.fields)
        yield message("WatchRequest")(create_request=create)
        while not self.over:
            time.sleep(0.05)

    def take(self, response):
        assert not response.canceled, response
        revisions = [e.kv.mod_revision for e in response.events]
        assert revisions == sorted(revisions), response
        assert not revisions or revisions[0] >= self.next, ("repeated", self.next, response)
        self.events += [(e.type, e.kv.key, e.kv.mod_revision, e.prev_kv.value) for e in response.events]
        self.next = max([self.next] + [r + 1 for r in revisions])

    def run(self):
        while not self.over:
            self.streams += 1
            try:
                for response in self.client.watch(self.at, self.requests()):
                    self.take(response)
                    if self.pause_s > 0 and not self.over:
                        time.sleep(self.pause_s)
            except grpc.RpcError:
                self.at = (self.at + 1) % len(self.client.channels)
                time.sleep(0.1)


def write(client, seconds):
    """Puts, deletions of ranges, revisions of several keys."""
    message, done, end = client.message, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        key, at = b"k%d" % random.randrange(50), random.randrange(len(client.channels))
        try:
            kind = random.random()
            if kind < 0.8:
                client.call(at, "KV/Put", "Put", key=key, value=b"%d" % done * random.choice([1, 100, 2000]))
            elif kind < 0.9:
                client.call(at, "KV/DeleteRange", "DeleteRange", key=key, range_end=key + b"\xff")
            else:
                ops = []
                for i in range(3):
                    op = message("RequestOp")()
                    op.request_put.key, op.request_put.value = b"k%d" % (100 + i), b"%d" % done
                    ops.append(op)
                client.call(at, "KV/Txn", "Txn", success=ops)
            done += 1
        except grpc.RpcError:
            pass  # its host is down, or the outcome is unknown: the history says what was written
    return done


def history(client, start, last):
    """What a watcher of everything has to see, by a new one that begins at the start."""
    reader = Watcher(client, 0, start, 0, key=b"\0", range_end=b"\0", prev_kv=True)
    wait(reader, last)
    return reader.events


def wait(watcher, last):
    end = time.monotonic() + TIMEOUT_S
    while watcher.next <= last:
        assert time.monotonic() < end, ("behind", watcher.fields, watcher.next, last)
        time.sleep(0.05)
    watcher.over = True


def watch_while_hosts_fail(client, seconds):
    everything = {"key": b"\0", "range_end": b"\0"}
    start = client.anywhere("KV/Range", "Range", key=b"k").header.revision + 1
    watchers = []
    for at in range(len(client.channels)):
        watchers.append(Watcher(client, at, start, 0, **everything))
        watchers.append(Watcher(client, at, start, 0, prev_kv=True, **everything))
        watchers.append(Watcher(client, at, start, 0, key=b"k7"))
        watchers.append(Watcher(client, at, start, 0.02, prev_kv=True, **everything))
    done = write(client, seconds)
    for w in watchers:
        w.pause_s = 0
    # The last revision: every watcher gets it.
    last = client.anywhere("KV/Put", "Put", key=b"k7", value=b"end").header.revision
    truth = history(client, start, last)
    assert [r for _, _, r, _ in truth] == sorted(r for _, _, r, _ in truth)
    assert {r for _, _, r, _ in truth} == set(range(start, last + 1)), "the history has gaps"
    for w in watchers:
        wait(w, last)
        one, previous = "range_end" not in w.fields, w.fields.get("prev_kv")
        expected = [e if previous else e[:3] + (b"",) for e in truth if not one or e[1] == b"k7"]
        assert w.events == expected, (w.fields, len(w.events), len(expected))
    streams = sum(w.streams for w in watchers)
    print(f"{done} writes, {last - start + 1} revisions, {len(watchers)} watchers, {streams} streams")
    assert done > 0


SLOW_STREAMS = 100
SLOW_VALUE = 100 * 1024


class Slow:
    """A stream that reads when it is told to."""

    def __init__(self, client, at, start):
        self.over = False
        create = client.message("WatchCreateRequest")(key=b"\0", range_end=b"\0", start_revision=start)
        self.request = client.message("WatchRequest")(create_request=create)
        self.call = client.watch(at, self.requests())
        assert next(self.call).created

    def requests(self):
        yield self.request
        while not self.over:
            time.sleep(0.5)

    def read(self, last):
        """The revisions up to `last`, or until it is canceled."""
        revisions = []
        for response in self.call:
            if response.canceled:
                return revisions, response.compact_revision
            revisions += [e.kv.mod_revision for e in response.events]
            if revisions[-1] >= last:
                return revisions, 0

    def close(self):
        self.over = True
        self.call.cancel()


def watch_without_reading(client, mib):
    puts = int(mib * (1 << 20) / SLOW_VALUE)
    start = client.anywhere("KV/Range", "Range", key=b"k").header.revision + 1
    slow = [Slow(client, i % len(client.channels), start) for i in range(SLOW_STREAMS)]
    quick = Watcher(client, 0, start, 0, key=b"\0", range_end=b"\0")
    for i in range(puts):
        last = client.call(0, "KV/Put", "Put", timeout=TIMEOUT_S, key=b"k%d" % (i % 9), value=b"v" * SLOW_VALUE)
    last = last.header.revision
    wait(quick, last)
    assert [r for _, _, r, _ in quick.events] == list(range(start, last + 1))
    for s in slow[:10]:
        revisions, _ = s.read(last)
        assert revisions == list(range(start, last + 1)), "lost or repeated"
    client.call(0, "KV/Compact", "Compaction", timeout=TIMEOUT_S, revision=last)
    compacted = 0
    for s in slow[10:20]:
        revisions, told = s.read(last)
        assert revisions == list(range(start, start + len(revisions)))
        assert told in (0, last) and (told == last) == (revisions[-1:] != [last]), (revisions[-1:], told, last)
        compacted += told == last
    assert compacted > 0, "nobody was behind the compaction"
    for s in slow:
        s.close()
    print(f"{puts} puts, {SLOW_STREAMS} streams that did not read")


def watch_without_leader(client):
    over = threading.Event()
    request = client.message("WatchRequest")()
    request.create_request.key = b"k"

    def hold():
        yield request
        over.wait()

    needs = client.watch(0, hold(), metadata=(("hasleader", "true"),))
    other = client.watch(0, hold())
    try:
        assert next(needs).created and next(other).created
        print("watching", flush=True)
        try:
            next(needs)
            assert False, "the stream goes on"
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.UNAVAILABLE and e.details() == "etcdserver: no leader", e
        assert other.is_active()
    finally:
        over.set()
        needs.cancel()
        other.cancel()


def main():
    descriptors, what, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if what == "leaderless":
        watch_without_leader(Client(descriptors, rest))
    else:
        run = {"faults": watch_while_hosts_fail, "slow": watch_without_reading}[what]
        run(Client(descriptors, rest[1:]), float(rest[0]))


if __name__ == "__main__":
    main()
