#!/usr/bin/python3
"""A host and a real etcd get the same writes, and the same watchers: equal responses.

    watch_beside_etcd.py THOLE MACHINE_TESTS DESCRIPTORS [--seed N] [--rounds N] ADDRESS

The host gets a shard "default" of type kv. A run prints its seed. Without etcd or grpcio the test is skipped (77). Left
out of the comparison: who answered; how revisions are joined into responses, but a revision is never divided; starts
at the compacted revision, whose deletions etcd 3.4 has lost; ids of watchers whose start was compacted, which etcd 3.4
keeps as if they were in use.
"""
import argparse
import queue
import random
import shutil
import subprocess
import sys
import threading
import time

try:
    import grpc
except ImportError:
    sys.exit(77)

DEADLINE_S = 30
WRITES = ["put"] * 10 + ["delete_range"] * 3 + ["txn"] * 4


class Stream:
    """A Watch stream and everything that came on it."""

    def __init__(self, channel, messages, token=None):
        self.m, self.requests, self.responses = messages, queue.Queue(), []
        method = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=messages.WatchResponse.FromString,
        )
        metadata = [("token", token)] if token is not None else []
        self.call = method(iter(self.requests.get, None), metadata=metadata)
        self.error = None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for response in self.call:
                self.responses.append(response)
        except grpc.RpcError as e:
            self.error = e

    def ask(self, **request):
        self.requests.put(self.m.WatchRequest(**request))

    def progress(self):
        """The revisions of answers to requests for progress."""
        return [r.header.revision for r in list(self.responses) if r.watch_id == -1 and not r.created]

    def close(self):
        self.call.cancel()
        self.reader.join(DEADLINE_S)

    def told(self):
        """What came, by watcher: (control responses, events)."""
        told, last, parts = {}, {}, {}
        for r in list(self.responses):
            control, events = told.setdefault(r.watch_id, ([], []))
            if not r.events:
                control.append((r.created, r.canceled, r.cancel_reason, r.compact_revision))
            revisions = [e.kv.mod_revision for e in r.events]
            assert revisions == sorted(revisions), ("out of order", r)
            goes_on = parts.pop(r.watch_id, False)
            assert not parts, ("something between the fragments", r.watch_id, parts)
            first = last.get(r.watch_id, 0) + (not goes_on)
            assert not revisions or revisions[0] >= first, ("a revision is divided or repeated", r.watch_id, first)
            if r.fragment:
                parts[r.watch_id] = True
            last[r.watch_id] = max(revisions + [last.get(r.watch_id, 0)])
            assert r.header.revision >= last[r.watch_id] or r.canceled, r
            events += [e.SerializeToString() for e in r.events]
        return told


class Run:
    def __init__(self, options, seed, beside):
        self.m = beside.Messages(options.descriptors)
        self.random = beside.Random(seed, self.m)
        self.r, self.keys, self.calls = self.random.r, beside.KEYS, beside.CALLS
        self.etcd = beside.Etcd(self.m)
        self.channel = grpc.insecure_channel(
            options.address, options=[("grpc.max_receive_message_length", 1 << 30)]
        )
        self.seed = seed

    def ask_host(self, kind, request):
        method, name = self.calls[kind]
        call = self.channel.unary_unary(
            "/etcdserverpb." + method,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=getattr(self.m, name + "Response").FromString,
        )
        try:
            return 0, call(request, timeout=DEADLINE_S)
        except grpc.RpcError as e:
            return e.code().value[0], e.details()

    def write(self, kind=None):
        kind = kind or self.r.choice(WRITES)
        self.both(kind, getattr(self.random, kind)())

    def both(self, kind, request):
        ours, theirs = self.ask_host(kind, request), self.etcd.ask(kind, request)
        assert ours[0] == theirs[0], (kind, request, ours, theirs)
        if theirs[0] == 0:
            assert ours[1].header.revision == theirs[1].header.revision, (kind, request, ours, theirs)
            self.random.revision = max(self.random.revision, theirs[1].header.revision)
            if kind == "compact":
                self.random.compacted = request.revision

    def watcher(self):
        m = self.m.WatchCreateRequest(key=self.random.key(), range_end=self.random.range_end())
        m.prev_kv = self.random.chance(0.5)
        m.fragment = self.random.chance(0.2)
        m.filters.extend(self.r.sample([0, 1], self.r.choice([0, 0, 0, 1, 1, 2])))
        below = 3
        if self.random.chance(0.2):
            m.watch_id, below = self.r.randint(100, 109), 0  # etcd keeps the id of a watcher whose start was compacted
        if self.random.chance(0.7):
            m.start_revision = self.r.randint(max(self.random.compacted - below, 1), self.random.revision + 20)
            if m.start_revision == self.random.compacted:
                m.start_revision += 1  # 3.4 has lost the deletions there
        return m

    def settled(self, streams):
        """Waits until both sides have told the same."""
        end = time.monotonic() + DEADLINE_S
        ours = theirs = None
        while time.monotonic() < end:
            ours, theirs = (s.told() for s in streams)
            if ours == theirs:
                return
            time.sleep(0.05)
        for watch_id in sorted(set(ours) | set(theirs)):
            if ours.get(watch_id) != theirs.get(watch_id):
                a, b = (t.get(watch_id, ([], [])) for t in (ours, theirs))
                print(f"seed {self.seed}, watcher {watch_id}: {a[0]} {len(a[1])} events\netcd: {b[0]} {len(b[1])}")
                for at, (x, y) in enumerate(zip(a[1] + [b""], b[1] + [b""])):
                    if x != y:
                        print(at, x, "etcd:", y)
                        break
        sys.exit(f"not the same: {streams[0].error} {streams[1].error}")

    def quiet(self, streams):
        """Waits until everything has arrived: our host answers a request for progress behind the events."""
        before = streams[0].progress()
        for s in streams:
            s.ask(progress_request=self.m.WatchProgressRequest())
        end = time.monotonic() + DEADLINE_S
        while streams[0].progress() == before:
            assert time.monotonic() < end, ("no progress", self.seed, streams[0].error)
            time.sleep(0.01)
        assert streams[0].progress()[-1] <= self.random.revision, streams[0].progress()
        self.settled(streams)

    def round(self):
        for _ in range(self.r.randint(10, 200)):
            self.write()
        if self.random.chance(0.5):
            self.write("compact")
        streams = [Stream(self.channel, self.m), Stream(self.etcd.channel, self.m)]
        wait = self.random.chance(0.5)
        for _ in range(self.r.randint(1, 30)):
            create = self.watcher()
            for s in streams:
                s.ask(create_request=create)
            if wait:
                self.settled(streams)
        self.quiet(streams)  # a start of 0 is where the store is now
        for _ in range(self.r.randint(0, 5)):
            for _ in range(self.r.randint(0, 30)):
                self.write()
            self.quiet(streams)
            watch_id = self.r.choice([0, 1, 2, 3, 4, 5, 100, 101, 102])
            if any(compacted for *_, compacted in streams[0].told().get(watch_id, ([], []))[0]):
                continue  # etcd cancels it again
            for s in streams:
                s.ask(cancel_request=self.m.WatchCancelRequest(watch_id=watch_id))
            self.quiet(streams)  # the next write is behind the cancellation, on both sides
        self.quiet(streams)
        for s in streams:
            s.close()

    def large_revisions(self):
        """Revisions larger than a page, a response, and a fragment; then what follows them."""
        start = self.random.revision + 1
        value = {"value": b"v" * 100000}
        for i in range(60):
            self.both("put", self.m.PutRequest(key=b"large/%d" % i, **value))
        streams = [Stream(self.channel, self.m), Stream(self.etcd.channel, self.m)]

        def create(**fields):
            request = self.m.WatchCreateRequest(key=b"large/", range_end=b"large0", **fields)
            for s in streams:
                s.ask(create_request=request)

        for fragment in (False, True):
            for prev_kv in (False, True):
                create(fragment=fragment, prev_kv=prev_kv)  # at the head
        self.quiet(streams)
        delete = self.m.DeleteRangeRequest(key=b"large/", range_end=b"large0")
        self.both("delete_range", delete)
        for fragment in (False, True):
            create(fragment=fragment, prev_kv=True, start_revision=start)  # behind
        for _ in range(3):
            self.both("put", self.m.PutRequest(key=b"large/1", value=b"small"))
            self.both("delete_range", delete)
        self.quiet(streams)
        for s in streams:
            assert any(r.fragment for r in s.responses) and sum(len(r.events) for r in s.responses) > 400
            s.close()

    def told_progress(self):
        """A quiet watcher that wants it is told how far it is; another one is not."""
        stream = Stream(self.channel, self.m)
        for wants in (True, False):
            create = self.m.WatchCreateRequest(key=b"quiet", progress_notify=wants)
            stream.ask(create_request=create)
        end = time.monotonic() + DEADLINE_S
        while len(stream.responses) < 4:
            assert time.monotonic() < end, stream.responses
            time.sleep(0.1)
        for r in stream.responses[2:4]:
            assert r.watch_id == 0 and not r.events and not r.created, r
            assert r.header.revision == self.random.revision, r
        stream.close()

    def bounded(self):
        """Watchers beyond the memory for callers are refused, and it comes back with the stream's end."""
        size = 500000
        for _ in range(2):
            stream, made = Stream(self.channel, self.m), 0
            while not (stream.responses and stream.responses[-1].canceled):
                assert made * size < 1 << 29, "not refused"
                made += 1
                stream.ask(create_request=self.m.WatchCreateRequest(key=b"%d" % made + b"k" * size))
                end = time.monotonic() + DEADLINE_S
                while len(stream.responses) < made:
                    assert time.monotonic() < end, (made, stream.error)
                    time.sleep(0.001)
            assert made * size > 1 << 27 and "no memory" in stream.responses[-1].cancel_reason, stream.responses[-1]
            stream.close()

    def close(self):
        self.channel.close()
        self.etcd.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("thole")
    parser.add_argument("machine_tests")
    parser.add_argument("descriptors")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("address")
    options = parser.parse_args()
    if shutil.which("etcd") is None:
        print("there is no etcd")
        sys.exit(77)
    sys.path.insert(0, options.machine_tests)
    import beside_etcd

    spec = "kind: Shard\nname: default\nspec: {type: kv, voters: 1}\n"
    apply = [options.thole, "--endpoints", options.address, "apply", "-f", "-", "--wait"]
    subprocess.run(apply, input=spec.encode(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    run = Run(options, seed, beside_etcd)
    try:
        for _ in range(options.rounds):
            run.round()
        run.large_revisions()
        run.told_progress()
        run.bounded()
    finally:
        run.close()
    print(f"{options.rounds} rounds, revision {run.random.revision}")


if __name__ == "__main__":
    main()
