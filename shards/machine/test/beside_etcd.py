#!/usr/bin/python3
"""The kv machine and a real etcd get the same random operations: equal answers, equal events, equal HashKV.

    beside_etcd.py DRIVE_MACHINE DESCRIPTORS [--seed N] [--operations N | --seconds N]

A run prints its seed, which repeats it. Without etcd or grpcio the test is skipped (77).
Left out of the comparison: who answered (cluster, member, term), the order of keys that a sort takes for
equal, and the seconds that a lease has left.
"""
import argparse
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError:
    sys.exit(77)

DEADLINE_S = 30
KEYS = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"b\xff", b"c", b"d/1", b"d/2", b"d/3", b"\0", b"\xff", b"\xff\xff"]
VALUES = [b"", b"1", b"2", b"10", b"x" * 1024, b"y" * 1025, b"z" * 5000]
LEASES = [1, 2, 3, 7, 1 << 40, -5]
CHECK_EVERY = 250  # operations between comparisons of the whole
KINDS = ["range"] * 20 + ["put"] * 28 + ["delete_range"] * 6 + ["txn"] * 26 + ["compact"] * 1
KINDS += ["lease_grant"] * 4 + ["lease_revoke"] * 3 + ["lease_keep_alive"] * 1 + ["lease_time_to_live"] * 2
KINDS += ["lease_leases"] * 1 + ["hash_kv"] * 3
QUERIES = ("range", "lease_time_to_live", "lease_leases", "hash_kv")
CALLS = {
    "range": ("KV/Range", "Range"),
    "put": ("KV/Put", "Put"),
    "delete_range": ("KV/DeleteRange", "DeleteRange"),
    "txn": ("KV/Txn", "Txn"),
    "compact": ("KV/Compact", "Compaction"),
    "lease_grant": ("Lease/LeaseGrant", "LeaseGrant"),
    "lease_revoke": ("Lease/LeaseRevoke", "LeaseRevoke"),
    "lease_time_to_live": ("Lease/LeaseTimeToLive", "LeaseTimeToLive"),
    "lease_leases": ("Lease/LeaseLeases", "LeaseLeases"),
    "hash_kv": ("Maintenance/HashKV", "HashKV"),
}


class Messages:
    """The classes of our own protos, from the descriptors that the build made."""

    def __init__(self, path):
        pool = descriptor_pool.DescriptorPool()
        with open(path, "rb") as file:
            for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
                pool.Add(proto)
        self.pool, self.factory = pool, message_factory.MessageFactory(pool)

    def __getattr__(self, name):
        package = "thole.kv.v1." if name in ("Command", "Query", "EventsResponse") else "etcdserverpb."
        made = self.factory.GetPrototype(self.pool.FindMessageTypeByName(package + name))
        setattr(self, name, made)
        return made


class Machine:
    """The machine in a process of its own."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, kind, payload=b""):
        self.process.stdin.write(kind + struct.pack(">I", len(payload)) + payload)
        self.process.stdin.flush()
        head = self.process.stdout.read(8)
        if len(head) < 8:
            raise RuntimeError(f"the machine ended with {self.process.wait()}")
        code, size = struct.unpack(">II", head)
        return code, self.process.stdout.read(size)

    def close(self):
        self.process.stdin.close()
        return self.process.wait(DEADLINE_S)


class Etcd:
    """A real etcd with a directory of its own."""

    def __init__(self, messages):
        self.messages = messages
        # Every write of etcd is synced: in memory the test is many times faster.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="thole-etcd-", dir=memory)
        client, peer = self.free_port(), self.free_port()
        url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self.process = subprocess.Popen(
            ["etcd", "--data-dir", self.directory, "--listen-client-urls", url, "--advertise-client-urls", url]
            + ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
            + ["--initial-cluster", f"default={peer_url}", "--log-level", "error"],
            stderr=subprocess.DEVNULL,
        )
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{client}", options=[("grpc.max_receive_message_length", 1 << 30)]
        )
        grpc.channel_ready_future(self.channel).result(DEADLINE_S)
        self.stubs = {}

    @staticmethod
    def free_port():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    def stub(self, method, answer, make):
        if method not in self.stubs:
            self.stubs[method] = make(
                "/etcdserverpb." + method,
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=answer.FromString,
            )
        return self.stubs[method]

    def ask(self, kind, request):
        """(code, answer or message)"""
        try:
            if kind == "lease_keep_alive":
                answer = self.messages.LeaseKeepAliveResponse
                stub = self.stub("Lease/LeaseKeepAlive", answer, self.channel.stream_stream)
                return 0, next(stub(iter([request]), timeout=DEADLINE_S))
            method, name = CALLS[kind]
            answer = getattr(self.messages, name + "Response")
            return 0, self.stub(method, answer, self.channel.unary_unary)(request, timeout=DEADLINE_S)
        except grpc.RpcError as e:
            return e.code().value[0], e.details()

    def events(self, create, count):
        """The first `count` events of a watcher, or all until it is canceled; and the compacted revision then."""
        answer = self.messages.WatchResponse
        stub = self.stub("Watch/Watch", answer, self.channel.stream_stream)
        hold, events = True, []

        def requests():
            yield self.messages.WatchRequest(create_request=create)
            while hold:
                time.sleep(0.01)

        call = stub(requests(), timeout=DEADLINE_S)
        try:
            for response in call:
                events += response.events
                if response.canceled:
                    return events, response.compact_revision
                if count is not None and len(events) >= count:
                    return events, 0
        finally:
            hold = False
            call.cancel()

    def close(self):
        self.channel.close()
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        shutil.rmtree(self.directory)


class Random:
    """Random requests. `revision` and `compacted` are the store's, so that many are valid."""

    def __init__(self, seed, messages):
        self.r, self.m = random.Random(seed), messages
        self.revision, self.compacted, self.open_ends = 1, -1, False

    def chance(self, p):
        return self.r.random() < p

    def key(self):
        return b"" if self.chance(0.01) else self.r.choice(KEYS)

    def range_end(self):
        x = self.r.random()
        if x < 0.45:
            return b""
        return b"\0" if x < 0.6 else self.r.choice(KEYS)

    def some_revision(self):
        if self.chance(0.5):
            return 0
        return self.r.randint(max(self.compacted - 2, -1), self.revision + 2)

    def lease(self):
        return 0 if self.chance(0.6) else self.r.choice(LEASES)

    def range(self):
        m = self.m.RangeRequest(key=self.key(), range_end=self.range_end(), revision=self.some_revision())
        if self.chance(0.3):
            m.limit = self.r.randint(0, 6)
        if self.chance(0.3):
            m.sort_order, m.sort_target = self.r.randint(0, 2), self.r.randint(0, 4)
        m.keys_only, m.count_only = self.chance(0.15), self.chance(0.15)
        for bound in ("min_mod", "max_mod", "min_create", "max_create"):
            if self.chance(0.08):
                setattr(m, bound + "_revision", self.r.randint(0, self.revision + 1))
        return m

    def put(self):
        m = self.m.PutRequest(key=self.key(), value=self.r.choice(VALUES), lease=self.lease())
        m.prev_kv = self.chance(0.3)
        if self.chance(0.1):
            m.ignore_value = True
            m.value = b"" if self.chance(0.9) else m.value
        if self.chance(0.1):
            m.ignore_lease = True
            m.lease = 0 if self.chance(0.9) else m.lease
        return m

    def delete_range(self):
        end = b"" if self.chance(0.6) else self.range_end()
        return self.m.DeleteRangeRequest(key=self.key(), range_end=end, prev_kv=self.chance(0.4))

    def compare(self):
        m = self.m.Compare(key=self.key(), result=self.r.randint(0, 3), target=self.r.randint(0, 4))
        if self.chance(0.3):
            m.range_end = self.range_end()
        target = m.target if self.chance(0.95) else self.r.randint(0, 4)
        if target == 3:
            m.value = self.r.choice(VALUES)
        elif target == 4:
            m.lease = self.lease()
        else:
            number = self.r.randint(0, 3) if target == 0 else self.r.randint(0, self.revision)
            setattr(m, ("version", "create_revision", "mod_revision")[target], number)
        return m

    def operation(self, depth):
        m = self.m.RequestOp()
        kind = self.r.choice(["range", "put", "put", "delete_range"] + ["txn"] * (depth < 3))
        if self.chance(0.002):
            return m
        made = self.txn(depth + 1) if kind == "txn" else getattr(self, kind)()
        # etcd takes an open end for no conflict with puts, and stops if such a put needs its key.
        if self.open_ends and kind == "put":
            made.ignore_value = made.ignore_lease = False
        elif kind == "delete_range" and not self.open_ends and made.range_end == b"\0":
            made.range_end = b"\xff\xff\xff"
        getattr(m, "request_" + kind).CopyFrom(made)
        return m

    def txn(self, depth=0):
        m = self.m.TxnRequest()
        self.open_ends = self.chance(0.3) if depth == 0 else self.open_ends
        most = 150 if self.chance(0.003) else 3
        for _ in range(self.r.randint(0, 2)):
            m.compare.add().CopyFrom(self.compare())
        for branch in (m.success, m.failure):
            for _ in range(self.r.randint(0, most)):
                branch.add().CopyFrom(self.operation(depth))
        return m

    def compact(self):
        back = self.r.choice([0, 1, 5, 20, 60])
        revision = self.revision - back + (2 if self.chance(0.1) else 0)
        return self.m.CompactionRequest(revision=revision, physical=True)

    def lease_grant(self):
        ttl = self.r.choice([100, 5000, 9000000000, 9000000001])
        return self.m.LeaseGrantRequest(ID=self.r.choice(LEASES), TTL=ttl)

    def lease_revoke(self):
        return self.m.LeaseRevokeRequest(ID=self.r.choice(LEASES))

    def lease_keep_alive(self):
        return self.m.LeaseKeepAliveRequest(ID=self.r.choice(LEASES))

    def lease_time_to_live(self):
        return self.m.LeaseTimeToLiveRequest(ID=self.r.choice(LEASES), keys=True)

    def lease_leases(self):
        return self.m.LeaseLeasesRequest()

    def hash_kv(self):
        m = self.m.HashKVRequest(revision=self.some_revision())
        if m.revision == self.compacted:
            m.revision = 0  # 3.4 refuses it; later versions, as we do, answer
        return m


def tie(kv, target):
    """What a sort by that target looks at."""
    return (kv.key, kv.version, kv.create_revision, kv.mod_revision, kv.value)[target]


def settle_ties(request, answer):
    """Keys that are equal to the sort: in order of their keys. With a limit only what was compared counts."""
    target = request.sort_target
    if target == 0:
        return
    kvs = list(answer.kvs)
    del answer.kvs[:]
    if request.limit != 0 and target in (1, 2, 4):
        for kv in kvs:
            only = answer.kvs.add()
            only.value = repr(tie(kv, target)).encode()
        return
    groups = {}
    for at, kv in enumerate(kvs):
        groups.setdefault(repr(tie(kv, target)), []).append((at, kv))
    for group in groups.values():
        places = [at for at, _ in group]
        for at, (_, kv) in zip(places, sorted(group, key=lambda pair: pair[1].key)):
            kvs[at] = kv
    for kv in kvs:
        answer.kvs.add().CopyFrom(kv)


def settle_txn(request, answer):
    branch = request.success if answer.succeeded else request.failure
    for op, response in zip(branch, answer.responses):
        if op.HasField("request_range"):
            settle_ties(op.request_range, response.response_range)
        elif op.HasField("request_txn"):
            settle_txn(op.request_txn, response.response_txn)


def settle(kind, request, answer):
    """Takes out of an answer what may differ."""
    answer.header.cluster_id = answer.header.member_id = answer.header.raft_term = 0
    if kind == "range":
        settle_ties(request, answer)
    elif kind == "txn":
        settle_txn(request, answer)
    elif kind == "lease_time_to_live":
        answer.TTL = min(answer.TTL, 0)
        answer.keys.sort()
    elif kind == "lease_leases":
        answer.leases.sort(key=lambda lease: lease.ID)
    elif kind == "hash_kv":
        answer.hash_revision = 0  # 3.4 has no such field


class Run:
    def __init__(self, options, seed):
        self.seed, self.done = seed, 0
        self.m = Messages(options.descriptors)
        self.random = Random(seed, self.m)
        self.machine = Machine(options.machine)
        self.etcd = Etcd(self.m)

    def fail(self, request, ours, theirs):
        print(f"seed {self.seed}, operation {self.done}:\n{request}\nours: {ours}\netcd: {theirs}")
        sys.exit(1)

    def ask_machine(self, kind, request):
        holder = self.m.Query() if kind in QUERIES else self.m.Command()
        getattr(holder, kind).CopyFrom(request)
        letter = b"q" if kind in QUERIES else b"c"
        code, data = self.machine.ask(letter, b"\0" + holder.SerializeToString())
        if code != 0:
            return code, data.decode()
        name = "LeaseKeepAlive" if kind == "lease_keep_alive" else CALLS[kind][1]
        return 0, getattr(self.m, name + "Response").FromString(data)

    def compare(self, kind, request):
        ours, theirs = self.ask_machine(kind, request), self.etcd.ask(kind, request)
        if ours[0] == 0 and theirs[0] == 0:
            for answer in (ours[1], theirs[1]):
                settle(kind, request, answer)
        if ours != theirs:
            self.fail(f"{kind} {request}", ours, theirs)
        if theirs[0] == 0:
            self.random.revision = max(self.random.revision, theirs[1].header.revision)
            if kind == "compact":
                self.random.compacted = request.revision

    def our_events(self, create):
        events, at = [], (create.start_revision, 0)
        while True:
            query = self.m.Query()
            query.events.key, query.events.range_end = create.key, create.range_end
            query.events.start_revision, query.events.start_sub = at
            query.events.prev_kv = create.prev_kv
            query.events.max_bytes = self.random.r.choice([0, 100, 3000])
            query.events.max_changes = self.random.r.choice([0, 1, 7])
            code, data = self.machine.ask(b"q", b"\0" + query.SerializeToString())
            answer = self.m.EventsResponse.FromString(data)
            if code != 0 or answer.compact_revision != 0:
                return events, answer.compact_revision
            events += answer.events
            at = (answer.next_revision, answer.next_sub)
            if at[0] > answer.current_revision:
                return events, 0

    def check_whole(self):
        self.compare("hash_kv", self.m.HashKVRequest())
        self.compare("range", self.m.RangeRequest(key=b"\0", range_end=b"\0"))
        low = max(self.random.compacted - 1, 1)
        create = self.m.WatchCreateRequest(
            key=self.random.r.choice(KEYS), range_end=self.random.range_end(), prev_kv=self.random.chance(0.7)
        )
        if create.range_end > b"\0" and create.range_end <= create.key:
            create.range_end = b""  # etcd refuses watchers of nothing
        create.start_revision = self.random.r.randint(low, self.random.revision)
        if create.start_revision == self.random.compacted:
            create.start_revision += 1  # 3.4 has lost the deletions there; later versions, as we do, have them
        ours = self.our_events(create)
        theirs = self.etcd.events(create, len(ours[0]) if ours[1] == 0 else None)
        if ours != theirs:
            self.fail(f"watch {create}", ours, theirs)

    def step(self):
        kind = self.random.r.choice(KINDS)
        self.compare(kind, getattr(self.random, kind)())
        self.done += 1
        if self.done % CHECK_EVERY == 0:
            self.check_whole()
            self.machine.ask(self.random.r.choice([b"s", b"r"]))

    def close(self):
        self.etcd.close()
        if self.machine.close() != 0:
            sys.exit("the machine failed at its end")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("machine")
    parser.add_argument("descriptors")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--operations", type=int, default=20000)
    parser.add_argument("--seconds", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("etcd") is None:
        print("there is no etcd")
        sys.exit(77)
    end = time.monotonic() + options.seconds
    while True:
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        print(f"seed {seed}", flush=True)
        run = Run(options, seed)
        try:
            while run.done < options.operations:
                run.step()
        finally:
            run.close()
        print(f"{run.done} operations, revision {run.random.revision}")
        if options.seed is not None or time.monotonic() >= end:
            break


if __name__ == "__main__":
    main()
