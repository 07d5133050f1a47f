#!/usr/bin/python3
"""The kv machine and a real etcd get the same random operations: equal answers, equal events, equal HashKV.

    beside_etcd.py DRIVE_MACHINE DESCRIPTORS [--auth] [--seed N] [--operations N | --seconds N]

A run prints its seed, which repeats it. Without etcd or grpcio the test is skipped (77). With --auth random users
with random roles send the requests, and users, roles and permissions change meanwhile.
Left out of the comparison: who answered (cluster, member, term), the order of keys that a sort takes for
equal, and the seconds that a lease has left.
"""
import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

try:
    import grpc
except ImportError:
    sys.exit(77)

from etcd_testing import DEADLINE_S, load, start_etcd

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
AUTH_CALLS = ["enable", "disable", "user_add", "user_get", "user_list", "user_delete", "user_change_password"]
AUTH_CALLS += ["user_grant_role", "user_revoke_role", "role_add", "role_get", "role_list", "role_delete"]
AUTH_CALLS += ["role_grant_permission", "role_revoke_permission"]
for name in AUTH_CALLS:
    call = "".join(word.capitalize() for word in name.split("_"))
    CALLS["auth_" + name] = ("Auth/" + ("Auth" if name in ("enable", "disable") else "") + call, "Auth" + call)
QUERIES += ("auth_user_get", "auth_user_list", "auth_role_get", "auth_role_list")

USERS = ["root", "alice", "bob", "carol"]
ROLES = ["root", "r", "s", "t"]
PASSWORDS = ["", "word", "secret"]
AUTH_KINDS = ["range"] * 20 + ["put"] * 15 + ["delete_range"] * 10 + ["txn"] * 15 + ["lease_revoke"] * 3
AUTH_KINDS += ["authenticate"] * 12 + ["auth_enable"] * 3 + ["auth_disable", "auth_user_list", "auth_role_list"]
AUTH_KINDS += ["auth_user_add", "auth_user_get", "auth_role_get", "auth_role_add"] * 2
AUTH_KINDS += ["auth_user_delete", "auth_user_change_password", "auth_role_delete"]
AUTH_KINDS += ["auth_user_grant_role"] * 6 + ["auth_user_revoke_role"] * 2
AUTH_KINDS += ["auth_role_grant_permission"] * 10 + ["auth_role_revoke_permission"] * 3
# 3.4 asks nobody who sends these, or answers refusals without a code; later versions, as we do, do better.
ROOT_KINDS = ["compact", "lease_grant", "lease_keep_alive", "lease_time_to_live", "lease_leases", "hash_kv"]


class Messages:
    """The classes of our own protos, from the descriptors that the build made."""

    def __init__(self, path):
        self.load = load(path)

    def __getattr__(self, name):
        ours = ("Command", "Query", "EventsResponse", "LoginResponse", "SaltResponse")
        data = ("QueryRequest", "QueryResponse")
        package = "thole.kv.v1." if name in ours else "thole.v1." if name in data else "etcdserverpb."
        made = self.load(package + name)
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


class Client:
    """Of etcd's API at an address."""

    def __init__(self, messages, address):
        self.messages, self.token, self.stubs = messages, None, {}
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 1 << 30)])

    def stub(self, method, answer, make):
        if method not in self.stubs:
            self.stubs[method] = make(
                "/etcdserverpb." + method,
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=answer.FromString,
            )
        return self.stubs[method]

    def metadata(self):
        return [("token", self.token)] if self.token is not None else []

    def ask(self, kind, request):
        """(code, answer or message)"""
        options = {"timeout": DEADLINE_S, "metadata": self.metadata()}
        try:
            if kind == "lease_keep_alive":
                answer = self.messages.LeaseKeepAliveResponse
                stub = self.stub("Lease/LeaseKeepAlive", answer, self.channel.stream_stream)
                return 0, next(stub(iter([request]), **options))
            method, name = CALLS[kind]
            answer = getattr(self.messages, name + "Response")
            return 0, self.stub(method, answer, self.channel.unary_unary)(request, **options)
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

        call = stub(requests(), timeout=DEADLINE_S, metadata=self.metadata())
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

    def authenticate(self, request):
        """(code, token or message)"""
        stub = self.stub("Auth/Authenticate", self.messages.AuthenticateResponse, self.channel.unary_unary)
        try:
            return 0, stub(request, timeout=DEADLINE_S).token
        except grpc.RpcError as e:
            return e.code().value[0], e.details()

    def close(self):
        self.channel.close()


class Etcd(Client):
    """A real etcd with a directory of its own."""

    def __init__(self, messages):
        # Every write of etcd is synced: in memory the test is many times faster.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="thole-etcd-", dir=memory)
        self.process, address = start_etcd(self.directory, "--bcrypt-cost", "4")
        super().__init__(messages, address)
        grpc.channel_ready_future(self.channel).result(DEADLINE_S)

    def close(self):
        super().close()
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


class AuthRandom(Random):
    """Random requests of users. What 3.4 does not check, it is not asked."""

    def __init__(self, seed, messages):
        super().__init__(seed, messages)
        # An equal key with another end is added to a role in 3.4 even if the role has that range.
        self.ends = {key: self.range_end_of(key) for key in KEYS}
        self.root = False

    def range_end_of(self, key):
        ends = [end for end in KEYS if end > key and end != b"\0"]
        return self.r.choice([b"", b"", b"\0"] + ends)

    def range(self):
        m = super().range()
        if m.range_end > b"\0" and m.range_end <= m.key:
            m.range_end = b"\0"
        return m

    def delete_range(self):
        m = super().delete_range()
        if m.range_end > b"\0" and m.range_end <= m.key:
            m.range_end = b""
        return m

    def compare(self):
        m = super().compare()
        if m.range_end > b"\0" and m.range_end <= m.key:
            m.range_end = b""
        return m

    def operation(self, depth):
        # Nor does it look into nested transactions, so that they may read and write everything.
        m = super().operation(depth if self.root else 3)
        if m.HasField("request_put") and not self.root:
            m.request_put.lease, m.request_put.prev_kv = 0, False
        return m

    def txn(self, depth=0):
        m = super().txn(depth)
        while depth == 0 and len(m.compare) == 0:
            m.compare.add().CopyFrom(self.compare())
        return m

    def authenticate(self):
        return self.m.AuthenticateRequest(name=self.r.choice(USERS + ["eve"]), password=self.r.choice(PASSWORDS))

    def auth_enable(self):
        return self.m.AuthEnableRequest()

    def auth_disable(self):
        return self.m.AuthDisableRequest()

    def auth_user_add(self):
        m = self.m.AuthUserAddRequest(name=self.r.choice(USERS + [""]), password=self.r.choice(PASSWORDS))
        if self.chance(0.1):
            m.options.no_password = True
        return m

    def auth_user_get(self):
        return self.m.AuthUserGetRequest(name=self.r.choice(USERS))

    def auth_user_list(self):
        return self.m.AuthUserListRequest()

    def auth_user_delete(self):
        return self.m.AuthUserDeleteRequest(name=self.r.choice(USERS))

    def auth_user_change_password(self):
        return self.m.AuthUserChangePasswordRequest(name=self.r.choice(USERS), password=self.r.choice(PASSWORDS))

    def auth_user_grant_role(self):
        user = self.r.choice(USERS)
        return self.m.AuthUserGrantRoleRequest(user=user, role=self.r.choice(ROLES[user != "root" :]))

    def auth_user_revoke_role(self):
        return self.m.AuthUserRevokeRoleRequest(name=self.r.choice(USERS), role=self.r.choice(ROLES))

    def auth_role_add(self):
        return self.m.AuthRoleAddRequest(name=self.r.choice(ROLES + [""]))

    def auth_role_get(self):
        return self.m.AuthRoleGetRequest(role=self.r.choice(ROLES))

    def auth_role_list(self):
        return self.m.AuthRoleListRequest()

    def auth_role_delete(self):
        return self.m.AuthRoleDeleteRequest(role=self.r.choice(ROLES))

    def auth_role_grant_permission(self):
        m = self.m.AuthRoleGrantPermissionRequest(name=self.r.choice(ROLES))
        m.perm.key, m.perm.permType = self.r.choice(KEYS), self.r.randint(0, 2)
        m.perm.range_end = self.ends[m.perm.key]
        return m

    def auth_role_revoke_permission(self):
        key = self.r.choice(KEYS)
        return self.m.AuthRoleRevokePermissionRequest(role=self.r.choice(ROLES), key=key, range_end=self.ends[key])


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
    random_type = Random

    def __init__(self, options, seed):
        self.seed, self.done, self.token = seed, 0, b""
        self.m = Messages(options.descriptors)
        self.random = self.random_type(seed, self.m)
        self.machine = self.make_machine(options)
        self.etcd = Etcd(self.m)

    def make_machine(self, options):
        return Machine(options.machine)

    def fail(self, request, ours, theirs):
        print(f"seed {self.seed}, operation {self.done}:\n{request}\nours: {ours}\netcd: {theirs}")
        sys.exit(1)

    def ask_machine(self, kind, request):
        holder = self.m.Query() if kind in QUERIES else self.m.Command()
        holder.token = self.token
        self.fill(holder, kind, request)
        letter = b"q" if kind in QUERIES else b"c"
        code, data = self.machine.ask(letter, b"\0" + holder.SerializeToString())
        if code != 0:
            return code, data.decode()
        name = "LeaseKeepAlive" if kind == "lease_keep_alive" else CALLS[kind][1]
        return 0, getattr(self.m, name + "Response").FromString(data)

    def fill(self, holder, kind, request):
        getattr(holder, kind).CopyFrom(request)

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
        return theirs[0]

    def our_events(self, create):
        events, at = [], (create.start_revision, 0)
        while True:
            query = self.m.Query(token=self.token)
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


class AuthRun(Run):
    """With users. Each has the tokens of the last log-in, valid or not."""

    random_type = AuthRandom
    SALT = "$2b$04$" + "x" * 22

    def __init__(self, options, seed):
        super().__init__(options, seed)
        self.tokens, self.enabled, self.codes = {}, False, set()
        self.send("auth_user_add", self.m.AuthUserAddRequest(name="root", password="secret"))
        self.send("auth_user_grant_role", self.m.AuthUserGrantRoleRequest(user="root", role="root"))

    @staticmethod
    def hash_of(password):
        """In place of bcrypt's, which only hosts compute."""
        return AuthRun.SALT + password.ljust(31, "x")

    def fill(self, holder, kind, request):
        if kind == "auth_enable":
            holder.auth_enable.key = self.random.r.randbytes(32)
            return
        super().fill(holder, kind, request)
        if kind in ("auth_user_add", "auth_user_change_password"):
            made = getattr(holder, kind)
            no_password = kind == "auth_user_add" and request.options.no_password
            made.hashedPassword = "" if no_password else self.hash_of(request.password)
            made.password = ""

    def use(self, user):
        self.token, self.etcd.token = self.tokens.get(user, (b"", None)) if self.enabled else (b"", None)

    def send(self, kind, request):
        code = self.compare(kind, request)
        if code == 0 and kind in ("auth_enable", "auth_disable"):
            self.enabled = kind == "auth_enable"
        return code

    def ask_for_token(self, request):
        """(code, token or message)"""
        query = self.m.Query()
        query.salt.name = request.name
        code, data = self.machine.ask(b"q", b"\0" + query.SerializeToString())
        if code != 0:
            return code, data.decode()
        query.login.name, query.login.expire_ms = request.name, 1 << 50
        # A made-up salt of a user who does not exist, or that of our hashes.
        query.login.hash = self.m.SaltResponse.FromString(data).salt + self.hash_of(request.password)[29:]
        code, data = self.machine.ask(b"q", b"\0" + query.SerializeToString())
        return code, self.m.LoginResponse.FromString(data).token if code == 0 else data.decode()

    def log_in(self, request):
        code, data = self.ask_for_token(request)
        self.etcd.token = None
        theirs = self.etcd.authenticate(request)
        if "no password user" in str(theirs[1]):
            # 3.4 tells everybody that the user has none, and without a code.
            theirs = 3, "etcdserver: authentication failed, invalid user ID or password"
        if code != theirs[0] or (code != 0 and data != theirs[1]):
            self.fail(f"authenticate {request}", (code, data), theirs)
        if code == 0:
            self.tokens[request.name] = data, theirs[1]
        return code == 0

    def as_root(self):
        """Whatever the password of root is now."""
        for password in PASSWORDS:
            if self.enabled and self.log_in(self.m.AuthenticateRequest(name="root", password=password)):
                break
        self.use("root")

    def step(self):
        r = self.random
        user = r.r.choice(USERS + ["root", "root", "nobody"])
        kind = r.r.choice(AUTH_KINDS + (ROOT_KINDS if user == "root" or not self.enabled else []))
        r.root = user == "root" or not self.enabled
        self.use(user)
        if r.root and self.enabled and r.chance(0.8):
            self.as_root()
        if self.enabled and (kind in ROOT_KINDS or (kind == "lease_revoke" and self.token == b"")):
            self.as_root()
        request = getattr(r, kind)()
        if kind == "authenticate":
            self.log_in(request)
        else:
            self.codes.add(self.send(kind, request))
        self.done += 1
        if self.done % CHECK_EVERY == 0:
            self.as_root()
            self.check_whole()
            self.machine.ask(r.r.choice([b"s", b"r"]))

    def close(self):
        super().close()
        for code in (0, 7, 16):
            if code not in self.codes and self.done >= CHECK_EVERY * 4:
                sys.exit(f"no request was answered with {code}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("machine")
    parser.add_argument("descriptors")
    parser.add_argument("--auth", action="store_true")
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
        run = (AuthRun if options.auth else Run)(options, seed)
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
