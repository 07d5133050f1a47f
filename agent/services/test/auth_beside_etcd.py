#!/usr/bin/python3
"""A host and a real etcd get the same requests of users: equal answers. Then what ends a watch, and other bounds.

    auth_beside_etcd.py MACHINE_TESTS DESCRIPTORS [--seed N] [--operations N] ADDRESS

The host has a shard "default" of type kv, still empty. A run prints its seed. Without etcd or grpcio the test is
skipped (77). beside_etcd.py says what is left out of the comparison. Also left out: the reason why a watcher is
refused, since etcd 3.4 always says "permission denied"; watchers without an end, for which it asks for the right to one
key only; and what happens to watchers whose user loses a right, which go on in etcd.
"""
import argparse
import base64
import ctypes
import pathlib
import random
import shutil
import sys
import time

try:
    import grpc
except ImportError:
    sys.exit(77)

from watch_beside_etcd import DEADLINE_S, Stream

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "shards" / "machine" / "test"))
from etcd_testing import eventually

EMPTY = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
BAD_TOKEN = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
DENIED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"


def service_run(beside):
    class ServiceRun(beside.AuthRun):
        """With a host in place of the machine."""

        def make_machine(self, options):
            self.host, self.watchers = beside.Client(self.m, options.address), set()
            return self

        def ask(self, _):
            """A host is not asked to save its state, or to start again."""

        def ask_machine(self, kind, request):
            self.host.token = self.token or None
            return self.host.ask(kind, request)

        def ask_for_token(self, request):
            return self.host.authenticate(request)

        def as_root(self):
            """Log-ins are slow here: not if a token is left."""
            self.use("root")
            if self.enabled and self.ask_machine("auth_user_list", self.m.AuthUserListRequest())[0] != 0:
                super().as_root()

        def watched(self, client, create):
            """(created, refused), and the events up to now."""
            stream = Stream(client.channel, self.m, client.token)
            stream.ask(create_request=create)
            eventually(("no response", create), lambda: stream.responses)
            first, events = stream.responses[0], []
            if not first.canceled and client is self.host:
                stream.ask(progress_request=self.m.WatchProgressRequest())
                eventually(("no progress", create), stream.progress)
            stream.close()
            for response in list(stream.responses):
                events += response.events
            return (first.created, first.canceled), events

        def our_events(self, create):
            self.host.token = self.token or None
            return self.watched(self.host, create)[1], 0

        def compare_watchers(self):
            """May the user have the watcher?"""
            create = self.m.WatchCreateRequest(key=self.random.r.choice(beside.KEYS), range_end=self.random.range_end())
            if create.range_end <= create.key:
                create.range_end = b""
            self.host.token = self.token or None
            ours, theirs = (self.watched(client, create)[0] for client in (self.host, self.etcd))
            if ours != theirs:
                self.fail(f"watcher {create}", ours, theirs)
            self.watchers.add(ours)

        def step(self):
            if self.random.chance(0.1):
                self.use(self.random.r.choice(beside.USERS))
                self.compare_watchers()
            super().step()

        def check_whole(self):
            self.random.compacted = max(self.random.compacted, 0)
            super().check_whole()

        def close(self):
            self.etcd.close()
            self.host.close()

    return ServiceRun


class Users:
    """Users of a store of their own: root, and alice with the role r."""

    def __init__(self, beside, options):
        self.m = beside.Messages(options.descriptors)
        self.client = beside.Client(self.m, options.address)
        self.tokens, self.streams = {}, []
        self.do("auth_user_add", None, name="root", password="secret")
        self.do("auth_user_grant_role", None, user="root", role="root")
        self.do("auth_enable", None)
        self.log_in("root", "secret")
        self.do("auth_user_add", name="alice", password="word")
        self.do("auth_role_add", name="r")
        self.do("auth_user_grant_role", user="alice", role="r")
        self.allow(b"w/", b"w0")
        self.log_in("alice", "word")

    def ask(self, kind, by, **fields):
        """(code, answer or message)"""
        self.client.token = self.tokens.get(by)
        return self.client.ask(kind, self.request(kind, **fields))

    def request(self, kind, **fields):
        name = "".join(word.capitalize() for word in kind.split("_"))
        return getattr(self.m, name + "Request")(**fields)

    def do(self, kind, by="root", **fields):
        code, answer = self.ask(kind, by, **fields)
        assert code == 0, (kind, fields, code, answer)
        return answer

    def log_in(self, user, password):
        code, token = self.client.authenticate(self.m.AuthenticateRequest(name=user, password=password))
        assert code == 0, token
        self.tokens[user] = token

    def allow(self, key, range_end=b"", kind="auth_role_grant_permission"):
        if kind == "auth_role_revoke_permission":
            return self.do(kind, role="r", key=key, range_end=range_end)
        request = self.request(kind, name="r")
        request.perm.permType, request.perm.key, request.perm.range_end = 2, key, range_end
        self.client.token = self.tokens["root"]
        assert self.client.ask(kind, request)[0] == 0
        return None

    def forbid(self, key, range_end=b""):
        self.allow(key, range_end, "auth_role_revoke_permission")

    def watch(self, user, *ranges):
        """A stream with a watcher for each range; those that are refused have their reason in `refused`."""
        stream = Stream(self.client.channel, self.m, self.tokens.get(user))
        self.streams.append(stream)
        for key, range_end in ranges:
            stream.ask(create_request=self.m.WatchCreateRequest(key=key, range_end=range_end))
        eventually("watchers are created", lambda: len(stream.responses) == len(ranges))
        stream.refused = [r.cancel_reason for r in stream.responses]
        return stream

    def put(self, key, *streams):
        """Returns when the streams have the event, or have ended."""
        self.do("put", key=key, value=b"x")
        for stream in streams:
            eventually(("the event", key), lambda s=stream: s.error is not None or key in self.keys(s))

    @staticmethod
    def keys(stream, watch_id=None):
        """Of the events that came."""
        return [
            e.kv.key for r in list(stream.responses) if watch_id in (None, r.watch_id) for e in r.events
        ]

    @staticmethod
    def canceled(stream, watch_id):
        return [r.cancel_reason for r in list(stream.responses) if r.canceled and r.watch_id == watch_id]

    def fails(self, stream, code, text):
        eventually(("the stream ends", text), lambda: stream.error is not None)
        assert (stream.error.code().value[0], stream.error.details()) == (code, text), stream.error

    # ---- What ends a watch ----

    def created(self):
        """A watcher is refused, and the others of its stream are not."""
        whole = (b"w/", b"w0")
        assert self.watch(None, whole).refused == [EMPTY]
        assert self.watch("alice", whole, (b"a", b""), (b"w/1", b""), (b"w/", b"\0")).refused == ["", DENIED, "", DENIED]
        self.tokens["mallory"] = self.tokens["alice"][:-2] + "AA"
        assert self.watch("mallory", whole).refused == [BAD_TOKEN]
        assert self.watch("root", (b"\0", b"\0"), (b"", b"\0")).refused == ["", ""]

    def lost_rights(self):
        """A watcher whose user has lost the right to a part of it is canceled before it misses a change."""
        alice = self.watch("alice", (b"w/", b"w0"), (b"w/1", b""), (b"w/2", b"w/3"))
        root = self.watch("root", (b"w/", b"w0"))
        self.put(b"w/1", alice, root)
        self.allow(b"w/1")  # more than once
        self.put(b"w/2", alice, root)
        self.forbid(b"w/", b"w0")
        self.put(b"w/2", root)
        self.put(b"w/1", root)
        eventually("alice's other watcher goes on", lambda: self.keys(alice, 1) == [b"w/1", b"w/1"])
        assert self.canceled(alice, 0) == [DENIED] and self.canceled(alice, 2) == [DENIED], alice.responses
        assert self.keys(alice, 0) == [b"w/1", b"w/2"] and self.keys(alice, 2) == [b"w/2"], alice.responses
        eventually("root has all", lambda: self.keys(root) == [b"w/1", b"w/2", b"w/2", b"w/1"])
        self.allow(b"w/", b"w0")
        alice.ask(create_request=self.m.WatchCreateRequest(key=b"w/", range_end=b"w0", watch_id=9))
        eventually("again", lambda: any(r.watch_id == 9 for r in list(alice.responses)))
        self.put(b"w/3", alice)
        assert self.keys(alice, 9) == [b"w/3"], alice.responses

    def lost_user(self):
        """Another password, and the user's deletion, end the streams."""
        for kind, fields in ("auth_user_change_password", {"password": "other"}), ("auth_user_delete", {}):
            alice, root = self.watch("alice", (b"w/", b"w0")), self.watch("root", (b"w/", b"w0"))
            self.put(b"w/1", alice, root)
            self.do(kind, name="alice", **fields)
            self.put(b"w/2", root)
            self.fails(alice, 16, "etcdserver: invalid auth token")
            assert self.keys(alice) == [b"w/1"], alice.responses
            if fields:
                self.log_in("alice", "other")

    def longer_than_its_token(self):
        """A watch goes on when the token has expired with which it began."""
        self.do("auth_user_add", name="alice", password="word")
        self.do("auth_user_grant_role", user="alice", role="r")
        self.log_in("alice", "word")
        self.tokens["alice"] = self.short_token("alice", "word")
        alice = self.watch("alice", (b"w/", b"w0"))
        self.put(b"w/1", alice)

        def expired():
            self.put(b"w/2")
            return self.ask("range", "alice", key=b"w/1")[:2] == (16, "etcdserver: invalid auth token")

        eventually("the token expires", expired)
        self.put(b"w/last", alice)
        assert alice.error is None and not self.canceled(alice, 0)
        alice.ask(create_request=self.m.WatchCreateRequest(key=b"w/1", watch_id=5))
        eventually("refused", lambda: any(r.cancel_reason == BAD_TOKEN for r in list(alice.responses)))

    def query(self, query):
        """By the machine's own protocol."""
        stub = self.client.channel.unary_unary("/thole.v1.Data/Query")
        request = self.m.QueryRequest(shard="default", data=b"\0" + query.SerializeToString())
        return self.m.QueryResponse.FromString(stub(request.SerializeToString(), timeout=DEADLINE_S)).data

    def short_token(self, user, password):
        """A log-in chooses for how long its token is valid; the service always takes the same."""
        query = self.m.Query()
        query.salt.name = user
        salt = self.m.SaltResponse.FromString(self.query(query)).salt
        libcrypt = ctypes.CDLL("libcrypt.so.1")
        libcrypt.crypt.restype = ctypes.c_char_p
        query.login.name, query.login.hash = user, libcrypt.crypt(password.encode(), salt.encode())
        query.login.expire_ms = int(time.time() * 1000) + 500
        token = self.m.LoginResponse.FromString(self.query(query)).token
        return base64.urlsafe_b64encode(token).rstrip(b"=").decode()

    def off_and_on(self):
        """Auth ends, and begins again, while watches are open."""
        self.log_in("alice", "word")
        alice = self.watch("alice", (b"w/", b"w0"))
        self.do("auth_disable")
        nobody = self.watch(None, (b"w/", b"w0"), (b"a", b""))
        assert nobody.refused == ["", ""], nobody.refused
        self.do("put", None, key=b"a")
        self.put(b"w/off", alice, nobody)
        self.do("auth_enable", None)
        self.log_in("root", "secret")
        root = self.watch("root", (b"w/", b"w0"))
        self.put(b"w/on", root)
        self.fails(nobody, 3, "etcdserver: user name is empty")
        self.fails(alice, 16, "etcdserver: invalid auth token")
        assert self.keys(nobody) == [b"a", b"w/off"] and self.keys(alice) == [b"w/off"], alice.responses

    def lock(self, user):
        """A call that waits for the lock w/lock."""
        ask, answer = (self.m.load(f"v3lockpb.Lock{kind}") for kind in ("Request", "Response"))
        call = self.client.channel.unary_unary(
            "/v3lockpb.Lock/Lock",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        lease = self.do("lease_grant", TTL=100).ID
        return call.future(ask(name=b"w/lock", lease=lease), metadata=[("token", self.tokens[user])], timeout=DEADLINE_S)

    def contends(self, call):
        """Waits until the call has its key behind the one that holds the lock."""
        keys = {"key": b"w/lock/", "range_end": b"w/lock0"}
        eventually("two contend", lambda: call.done() or self.do("range", **keys).count == 2)
        assert not call.done(), call

    def locks(self):
        """Calls that wait for a lock watch as their user."""
        self.log_in("alice", "word")
        first, waits = self.lock("root").result(), self.lock("alice")
        self.contends(waits)
        self.do("delete_range", key=first.key)
        second, waits = waits.result(), self.lock("alice")
        self.contends(waits)
        self.forbid(b"w/", b"w0")
        self.do("delete_range", key=second.key)
        eventually("alice is refused", waits.done)
        assert (waits.code().value[0], waits.details()) == (7, "etcdserver: permission denied"), waits
        refused = self.lock("alice")
        assert refused.code().value[0] == 7, refused
        self.allow(b"w/", b"w0")

    # ---- Passwords ----

    def passwords(self):
        long = self.m.AuthUserAddRequest(name="bob", password="p" * 73)
        self.client.token = self.tokens["root"]
        code, text = self.client.ask("auth_user_add", long)
        assert code == 3 and "at most 72 bytes" in text, (code, text)
        code, text = self.client.ask("auth_user_add", self.m.AuthUserAddRequest(name="bob", password="p\0q"))
        assert code == 3 and "no zero byte" in text, (code, text)
        self.do("auth_user_add", name="bob", password="p" * 72, hashedPassword="$2b$10$made-by-the-client")
        self.log_in("bob", "p" * 72)
        for password in "p" * 73, "p" * 71, "p\0", "":
            code, text = self.client.authenticate(self.m.AuthenticateRequest(name="bob", password=password))
            assert (code, text) == (3, "etcdserver: authentication failed, invalid user ID or password"), text
        # Few may wait for their hash.
        login = self.m.AuthenticateRequest(name="bob", password="wrong")
        stub = self.client.stub("Auth/Authenticate", self.m.AuthenticateResponse, self.client.channel.unary_unary)
        calls = [stub.future(login, timeout=DEADLINE_S) for _ in range(150)]
        eventually("too many wait", lambda: any(c.done() and c.code().value[0] == 8 for c in calls))
        refused = next(c for c in calls if c.done() and c.code().value[0] == 8)
        assert refused.details() == "etcdserver: too many requests", refused.details()
        for c in calls:
            c.cancel()
        login.password = "p" * 72
        eventually("those who have gone leave room", lambda: self.client.authenticate(login)[0] == 0)

    def close(self):
        for stream in self.streams:
            stream.close()
        self.client.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("machine_tests")
    parser.add_argument("descriptors")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--operations", type=int, default=2000)
    parser.add_argument("address")
    options = parser.parse_args()
    if shutil.which("etcd") is None:
        print("there is no etcd")
        sys.exit(77)
    sys.path.insert(0, options.machine_tests)
    import beside_etcd

    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    run = service_run(beside_etcd)(options, seed)
    try:
        while run.done < options.operations:
            run.step()
        run.as_root()
        assert len(run.watchers) == 2, "watchers were never refused, or always"
        for user in beside_etcd.USERS:
            run.ask_machine("auth_user_delete", run.m.AuthUserDeleteRequest(name=user))
        run.send("auth_disable", run.m.AuthDisableRequest())
        for user in beside_etcd.USERS:
            run.ask_machine("auth_user_delete", run.m.AuthUserDeleteRequest(name=user))
        for role in beside_etcd.ROLES:
            run.ask_machine("auth_role_delete", run.m.AuthRoleDeleteRequest(role=role))
    finally:
        run.close()
    print(f"{run.done} operations, revision {run.random.revision}")
    users = Users(beside_etcd, options)
    try:
        for check in users.created, users.lost_rights, users.lost_user, users.longer_than_its_token:
            check()
        users.locks()
        users.off_and_on()
        users.passwords()
    finally:
        users.close()


if __name__ == "__main__":
    main()
