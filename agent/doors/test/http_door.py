#!/usr/bin/python3
"""The HTTP port from outside: calls in JSON, as etcd's gateway takes them and as the control plane does, their
bounds, and who may make them; and the same requests beside a real etcd, if there is one.

    http_door.py THOLED THOLE SOURCES
"""
import base64
import concurrent.futures
import http.client
import json
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "shards" / "machine" / "test"))
from etcd_testing import DEADLINE_S, eventually, start_etcd


def b64(text):
    return base64.b64encode(text.encode()).decode()


class Host:
    def __init__(self, tholed, work, *flags):
        self.log = work / "log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [tholed, "--dev", "--data-dir", work / "data", "--listen", "127.0.0.1:0", *flags],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        eventually("the host starts", lambda: "  try " in self.log.read_text(encoding="utf-8"))
        text = self.log.read_text(encoding="utf-8")
        self.grpc = re.search(r"^  grpc +(\S+)", text, re.MULTILINE)[1]
        self.port = int(re.search(r"^  http +https?://127.0.0.1:(\d+)/", text, re.MULTILINE)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0, self.log.read_text(encoding="utf-8")


class Door:
    def __init__(self, port, tls=None):
        self.port, self.tls = port, tls

    def connect(self):
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE_S, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def raw(self, method, path, body=None, **headers):
        c = self.connect()
        c.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = c.getresponse()
        text = answer.read().decode()
        c.close()
        return answer.status, text

    def post(self, path, body, **headers):
        if not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        status, text = self.raw("POST", path, body, **headers)
        lines = [json.loads(line) for line in text.splitlines()]
        return status, lines[0] if len(lines) == 1 else lines

    def ok(self, path, body, **headers):
        status, answer = self.post(path, body, **headers)
        assert status == 200, (path, body, status, answer)
        return answer


# ---- As etcd ------------------------------------------------------------------------------------

# Each with the path under /v3 and a body; also for beside_etcd().
SAME = [
    ("/kv/put", {"key": b64("a"), "value": b64("1")}),
    ("/kv/put", {"key": b64("a"), "value": b64("2"), "prev_kv": True}),
    ("/kv/put", {"key": b64("b"), "value": b64("\x00\xff")}),
    ("/kv/put", {"key": b64("c"), "value": ""}),
    ("/kv/put", {"key": b64("d"), "lease": "0", "ignoreValue": False}),
    ("/kv/put", {}),
    ("/kv/put", {"key": b64("e"), "lease": 99}),
    ("/kv/put", {"key": b64("absent"), "ignore_value": True}),
    ("/kv/range", {"key": b64("a")}),
    ("/kv/range", {"key": b64("a"), "rangeEnd": b64("z"), "limit": 2}),
    ("/kv/range", {"key": b64("a"), "range_end": b64("z"), "limit": "2", "sort_order": "DESCEND"}),
    ("/kv/range", {"key": b64("a"), "range_end": b64("z"), "sort_order": 2, "sort_target": "MOD"}),
    ("/kv/range", {"key": b64("\0"), "range_end": b64("\0"), "count_only": True}),
    ("/kv/range", {"key": b64("a"), "revision": 2, "unknown": {"deep": [1, None, True, "x"]}}),
    ("/kv/range", {"key": b64("a"), "revision": "1000"}),
    ("/kv/range", {"key": b64("nothing")}),
    ("/kv/range", {}),
    ("/kv/txn", {"compare": [{"key": b64("a"), "target": "VALUE", "value": b64("2")}],
                 "success": [{"requestPut": {"key": b64("a"), "value": b64("3")}},
                             {"request_range": {"key": b64("a")}}],
                 "failure": [{"request_delete_range": {"key": b64("a")}}]}),
    ("/kv/txn", {"compare": [{"key": b64("a"), "target": "CREATE", "result": "EQUAL", "create_revision": 0}],
                 "failure": [{"requestDeleteRange": {"key": b64("b"), "prevKv": True}}]}),
    ("/kv/txn", {"success": [{"request_put": {"key": b64("x")}}, {"request_put": {"key": b64("x")}}]}),
    ("/kv/deleterange", {"key": b64("c"), "prev_kv": True}),
    ("/kv/deleterange", {"key": b64("c")}),
    ("/kv/compaction", {"revision": 3}),
    ("/kv/compaction", {"revision": 3}),
    ("/kv/range", {"key": b64("a"), "revision": 2}),
    ("/lease/grant", {"TTL": 100, "ID": "7"}),
    ("/lease/grant", {"TTL": 100, "ID": "7"}),
    ("/kv/put", {"key": b64("leased"), "value": b64("x"), "lease": "7"}),
    ("/lease/keepalive", {"ID": 7}),
    ("/lease/keepalive", {"ID": 12345}),
    ("/lease/leases", {}),
    ("/kv/lease/timetolive", {"ID": 12345}),
    ("/kv/lease/revoke", {"ID": 7}),
    ("/lease/revoke", {"ID": 7}),
    ("/kv/range", {"key": b64("leased")}),
]
# Each with the user whose token it has; a user without one: the name is the token.
A_IS_ALLOWED = {"permType": "READWRITE", "key": b64("a"), "range_end": b64("b")}
WITH_USERS = [
    ("/auth/authenticate", {"name": "root", "password": "secret"}, None),
    ("/auth/enable", {}, None),
    ("/auth/user/add", {}, None),
    ("/auth/user/add", {"name": "root", "password": "secret"}, None),
    ("/auth/user/add", {"name": "root", "password": "other"}, None),
    ("/auth/enable", {}, None),
    ("/auth/user/grant", {"user": "root", "role": "root"}, None),
    ("/auth/enable", {}, None),
    ("/auth/enable", {}, None),
    ("/kv/range", {"key": b64("a")}, None),
    ("/kv/range", {"key": b64("a")}, "nonsense"),
    ("/auth/authenticate", {"name": "root", "password": "wrong"}, None),
    ("/auth/authenticate", {"name": "nobody", "password": "secret"}, None),
    ("/auth/authenticate", {"name": "root", "password": "secret"}, None),
    ("/auth/user/add", {"name": "alice", "password": "word"}, "root"),
    ("/auth/role/add", {"name": "r"}, "root"),
    ("/auth/role/add", {"name": "r"}, "root"),
    ("/auth/role/grant", {"name": "r", "perm": A_IS_ALLOWED}, "root"),
    ("/auth/role/get", {"role": "r"}, "root"),
    ("/auth/role/get", {"role": "s"}, "root"),
    ("/auth/user/grant", {"user": "alice", "role": "r"}, "root"),
    ("/auth/user/get", {"name": "alice"}, "root"),
    ("/auth/user/list", {}, "root"),
    ("/auth/role/list", {}, "root"),
    ("/auth/authenticate", {"name": "alice", "password": "word"}, None),
    ("/kv/put", {"key": b64("a"), "value": b64("1")}, "alice"),
    ("/kv/put", {"key": b64("b"), "value": b64("1")}, "alice"),
    ("/kv/range", {"key": b64("a"), "range_end": b64("b")}, "alice"),
    ("/kv/range", {"key": b64("a"), "range_end": b64("c")}, "alice"),
    ("/auth/user/delete", {"name": "root"}, "root"),
    ("/auth/user/changepw", {"name": "alice", "password": "other"}, "alice"),
    ("/auth/user/changepw", {"name": "alice", "password": "other"}, "root"),
    ("/kv/range", {"key": b64("a")}, "alice"),
    ("/auth/authenticate", {"name": "alice", "password": "other"}, None),
    ("/kv/range", {"key": b64("a")}, "alice"),
    ("/auth/role/revoke", {"role": "r", "key": b64("a"), "range_end": b64("b")}, "root"),
    ("/kv/range", {"key": b64("a")}, "alice"),
    ("/auth/user/revoke", {"name": "alice", "role": "r"}, "root"),
    ("/auth/role/delete", {"role": "r"}, "root"),
    ("/auth/user/delete", {"name": "alice"}, "root"),
    ("/kv/range", {"key": b64("a")}, "alice"),
    ("/auth/disable", {}, "root"),
    ("/auth/user/delete", {"name": "root"}, None),
]
# etcd's gateway has other words for what is not JSON, or not of the right type.
REFUSED = [
    ("/kv/put", "{"),
    ("/kv/put", "[]"),
    ("/kv/put", '{"key":"not base64!"}'),
    ("/kv/range", '{"key":"YQ==","limit":"many"}'),
    ("/kv/range", '{"key":"YQ==","limit":99999999999999999999}'),
    ("/kv/range", '{"key":"YQ==","sort_order":"SIDEWAYS"}'),
    ("/kv/range", '{"key":' + "[" * 5000 + "]" * 5000 + "}"),
]


def essence(answer):
    """Without ids, and what no two servers have in common."""
    if isinstance(answer, list):
        return [essence(x) for x in answer]
    if not isinstance(answer, dict):
        return answer
    drop = ("cluster_id", "member_id", "raft_term")
    return {k: essence(v) for k, v in answer.items() if k not in drop}


def with_users(door):
    answers, tokens = [], {}
    for path, body, user in WITH_USERS:
        headers = {} if user is None else {"Authorization": tokens.get(user, user)}
        status, answer = door.post("/v3" + path, body, **headers)
        if path == "/auth/authenticate" and status == 200:
            tokens[body["name"]] = answer.pop("token")
        answers.append((status, answer))
    assert sorted(tokens) == ["alice", "root"], answers
    return answers


def as_etcd(door):
    for path, body in REFUSED:
        status, answer = door.post("/v3" + path, body)
        assert status == 400 and answer["code"] == 3 and answer["error"] == answer["message"], (path, answer)
    answers = [door.post("/v3" + path, body) for path, body in SAME]
    header = answers[0][1]["header"]
    assert header["revision"] == "2" and int(header["cluster_id"]) > 0 and int(header["member_id"]) > 0, header
    assert door.ok("/v3beta/kv/range", {"key": b64("a")}, Content_Type="text/nonsense")["count"] == "1"
    lines = door.ok("/v3/lease/keepalive", '{"ID":1}{"ID":2}\n{"ID":"3"}')
    assert [line["result"]["ID"] for line in lines] == ["1", "2", "3"], lines
    status, answer = door.post("/v3/kv/put", {})
    assert (status, answer) == (400, {"error": answer["error"], "message": answer["error"], "code": 3}), answer
    assert door.post("/v3/maintenance/downgrade", {})[0] == 501
    hashes = [door.ok(f"/v3/maintenance/{call}", {})["hash"] for call in ("hashkv", "hash")]
    assert hashes[0] == hashes[1] > 0, hashes
    assert door.post("/v3/none", {})[0] == 404
    assert json.loads(door.raw("GET", "/version")[1])["etcdserver"].startswith("3.")
    assert door.raw("GET", "/health") == (200, '{"health":"true"}')
    members = door.ok("/v3/cluster/member/list", {"linearizable": True})
    assert len(members["members"]) == 1, members
    # The term is the same wherever it is asked for.
    term = header["raft_term"]
    assert int(term) >= 1 and members["header"]["raft_term"] == term, (header, members)
    status = door.ok("/v3/maintenance/status", {})
    assert status["raftTerm"] == term and status["header"]["raft_term"] == term, status
    return answers


def beside_etcd(ours, ours_with_users, work):
    if shutil.which("etcd") is None:
        print("no etcd beside: etcd-server is not installed")
        return
    etcd, address = start_etcd(work / "etcd")
    with etcd:
        try:
            door = Door(int(address.rsplit(":", 1)[1]))

            def up():
                try:
                    return "true" in door.raw("GET", "/health")[1]
                except OSError:
                    return False

            eventually("etcd starts", up)
            for (path, body), answer in zip(SAME, ours):
                theirs = door.post("/v3" + path, body)
                assert essence(list(theirs)) == essence(list(answer)), (path, body, theirs, answer)
            for request, answer, theirs in zip(WITH_USERS, ours_with_users, with_users(door)):
                assert essence(list(theirs)) == essence(list(answer)), (request, theirs, answer)
        finally:
            etcd.kill()


# ---- The control plane --------------------------------------------------------------------------


def refuses_zero(door):
    """Also as the first call of all: etcd's clients never reach the registry."""
    for path, body in (
        ("/v3/kv/range", {"key": b64("a")}),
        ("/v3/kv/put", {"key": b64("a"), "value": b64("b")}),
        ("/v3/lease/keepalive", {"ID": 5}),
        ("/v3/cluster/member/list", {}),
        ("/v3/watch", {"create_request": {"key": b64("a")}}),
    ):
        status, text = door.raw("POST", path, json.dumps(body), Thole_Shard="zero")
        assert status == 400 and "zero is the registry" in text, (path, status, text)


def named_shards(door):
    """The metadata thole-shard chooses another store than "default"."""
    door.ok("/v1/Shards/CreateShard", {"shard": {"name": "other", "spec": {"type": "kv", "voters": 1}}})
    door.ok("/v1/Shards/CreateShard", {"shard": {"name": "sum", "spec": {"type": "counter", "voters": 1}}})
    at = {"Thole_Shard": "other"}
    key = {"key": b64("where")}
    door.ok("/v3/kv/put", {"key": b64("where"), "value": b64("default")})
    answer = door.ok("/v3/kv/put", {"key": b64("where"), "value": b64("other")}, **at)
    assert answer["header"]["revision"] == "2", answer
    assert door.ok("/v3/kv/range", key, **at)["kvs"][0]["value"] == b64("other")
    assert door.ok("/v3/kv/range", key)["kvs"][0]["value"] == b64("default")
    lease = door.ok("/v3/lease/grant", {"TTL": 100, "ID": 5}, **at)
    assert lease["ID"] == "5"
    assert door.ok("/v3/lease/keepalive", {"ID": 5}, **at)["result"]["TTL"] == "100"
    assert "TTL" not in door.ok("/v3/lease/keepalive", {"ID": 5})["result"]
    ids = [door.ok("/v3/cluster/member/list", {}, **x)["header"]["cluster_id"] for x in ({}, at)]
    assert ids[0] != ids[1], ids
    c = door.connect()
    c.request("POST", "/v3/watch", json.dumps({"create_request": key}), {"Thole-Shard": "other"})
    answer = c.getresponse()
    header = json.loads(answer.readline())["result"]["header"]
    assert header["cluster_id"] == ids[1] and int(header["raft_term"]) >= 1, header
    door.ok("/v3/kv/put", {"key": b64("where"), "value": b64("default")})
    door.ok("/v3/kv/put", {"key": b64("where"), "value": b64("again")}, **at)
    event = json.loads(answer.readline())["result"]["events"][0]
    assert event["kv"]["value"] == b64("again"), event
    answer.close()
    c.close()
    for name, status in ("nope", 404), ("sum", 412), ("zero", 400), ("x" * 300, 404):
        got = door.post("/v3/kv/range", key, Thole_Shard=name)
        assert got[0] == status, (name, got)


def read_lines(answer, wanted):
    for line in answer:
        found = json.loads(line)
        if wanted(found):
            return found
    raise AssertionError("the stream ended")


def streams_open(door):
    return re.search(r"^thole_http_streams (\d+)$", door.raw("GET", "/metrics")[1], re.MULTILINE)[1]


def control(door):
    shard = door.ok("/v1/Shards/GetShard", {"name": "default"})
    assert shard["spec"]["type"] == "kv" and shard["name"] == "default", shard
    status, answer = door.post("/v1/Shards/GetShard", {"name": "nope"})
    assert status == 404 and answer["code"] == 5 and answer["details"] == [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "NO_SUCH_SHARD", "domain": "thole",
         "metadata": {"shard": "nope"}}], answer
    for body in '{"nam":"x"}', '{"name":1}', '{"name":"default"}{}', "nonsense", '{"name":"\\ud800"}':
        status, answer = door.post("/v1/Shards/GetShard", body)
        assert status == 400 and answer["details"][0]["reason"] == "BAD_REQUEST", (body, answer)
    created = door.ok("/v1/Shards/CreateShard", {"shard": {"name": "orders", "spec": {"type": "kv", "voters": 1}}})
    assert created["name"] == "orders", created
    assert door.ok("/v1/Data/Propose", {"shard": "orders", "text": "put a b"})["text"].startswith("ok"), "propose"
    assert door.ok("/v1/Data/Query", {"shard": "orders", "text": "get a"})["text"] == "b"

    # A stream: headers at once, lines as they come; and its end when the client has gone.
    c = door.connect()
    c.request("POST", "/v1/Events/WatchEvents", "{}")
    answer = c.getresponse()
    assert answer.status == 200 and streams_open(door) == "1"
    door.ok("/v1/Shards/DeleteShard", {"name": "orders"})
    read_lines(answer, lambda x: x["result"].get("event", {}).get("object") == "shards/orders")
    answer.close()
    c.close()
    eventually("the stream of a client that has gone ends", lambda: streams_open(door) == "0")
    status, answer = door.post("/v1/Operations/WatchOperation", {"id": "99"})
    assert answer.get("error", answer)["code"] == 5, (status, answer)  # the stream may have begun


def watch(door):
    """As Patroni does it: one line for the creation, then a line for each event."""
    c = door.connect()
    c.request("POST", "/v3/watch", json.dumps({"create_request": {"key": b64("w"), "range_end": b64("x")}}))
    answer = c.getresponse()
    created = json.loads(answer.readline())["result"]
    assert created["created"] is True and int(created["header"]["revision"]) > 1, created
    door.ok("/v3/kv/put", {"key": b64("w1"), "value": b64("v")})
    door.ok("/v3/kv/deleterange", {"key": b64("w1")})
    events = []
    while len(events) < 2:  # in one line, if the feed has read both at once
        events += json.loads(answer.readline())["result"]["events"]
    put, deleted = events
    assert put["kv"]["key"] == b64("w1") and put["kv"]["value"] == b64("v"), put
    assert deleted["type"] == "DELETE", deleted
    answer.close()
    c.close()
    eventually("the watch of a client that has gone ends", lambda: streams_open(door) == "0")


BIG = 24  # values that do not fit into one answer, nor into the queue of a stream


def locks(door):
    """A lock in JSON: held, waited for, and given up by a client that goes away."""
    for lease in "71", "72":
        door.ok("/v3/lease/grant", {"TTL": 100, "ID": lease})
    held = door.ok("/v3/lock/lock", {"name": b64("m"), "lease": "71"})["key"]
    assert base64.b64decode(held) == b"m/47", held

    def keys():
        return int(door.ok("/v3/kv/range", {"key": b64("m/"), "range_end": b64("m0")}).get("count", 0))

    c = door.connect()
    c.request("POST", "/v3/lock/lock", json.dumps({"name": b64("m"), "lease": "72"}))
    eventually("the second one waits", lambda: keys() == 2)
    assert streams_open(door) == "1"
    c.close()
    eventually("its key is gone", lambda: keys() == 1)
    eventually("its stream, too", lambda: streams_open(door) == "0")
    c = door.connect()
    c.request("POST", "/v3/election/campaign", json.dumps({"name": b64("m"), "lease": "72", "value": b64("v")}))
    eventually("the second one waits again", lambda: keys() == 2)
    door.ok("/v3/lock/unlock", {"key": held})
    leader = json.loads(c.getresponse().read())["leader"]
    assert leader["name"] == b64("m") and leader["key"] == b64("m/48") and leader["lease"] == "72", leader
    assert door.ok("/v3/election/leader", {"name": b64("m")})["kv"]["value"] == b64("v")
    c.close()
    door.ok("/v3/election/resign", {"leader": leader})
    status, answer = door.post("/v3/election/leader", {"name": b64("m")})
    assert status == 500 and answer["error"] == "election: no leader", (status, answer)


def range_stream(door):
    """Parts of one revision, whatever is written meanwhile, which together are the answer of Range."""
    for i in range(2500):
        ops = [{"request_put": {"key": b64(f"rs/{k:05}"), "value": b64("x" * 100)}} for k in range(i, i + 100)]
        if i % 100 == 0:
            door.ok("/v3/kv/txn", {"success": ops})
    big = {"key": b64("rs/big"), "value": b64("y" * (700 << 10))}
    for i in range(BIG):
        door.ok("/v3/kv/put", {**big, "key": b64(f"rs/big{i:02}")})
    asked = {"key": b64("rs/"), "range_end": b64("rs0")}
    for limit in 0, 1, 1000, 1500, 2500:
        lines = door.post("/v3/kv/rangestream", {**asked, "limit": limit})[1]
        parts = [line["result"]["range_response"] for line in (lines if isinstance(lines, list) else [lines])]
        keys = [kv["key"] for part in parts for kv in part["kvs"]]
        wanted = [b64(f"rs/{k:05}") for k in range(2500)] + [b64(f"rs/big{i:02}") for i in range(BIG)]
        assert keys == wanted[:limit or None], (limit, len(keys))
        assert all(part.keys() == {"kvs"} for part in parts[:-1]), parts[:-1][0].keys()
        end = parts[-1]
        assert end["count"] == str(2500 + BIG) and end.get("more", False) == (0 < limit < 2500 + BIG), end.keys()
        assert int(end["header"]["revision"]) > 1 and int(end["header"]["raft_term"]) >= 1, end["header"]
        assert limit not in (0, 1500, 2500) or len(parts) > 1, (limit, len(parts))
    last = door.ok("/v3/kv/rangestream", {**asked, "sort_order": "DESCEND", "limit": 2})["result"]["range_response"]
    assert [kv["key"] for kv in last["kvs"]] == [b64("rs/big23"), b64("rs/big22")] and last["more"], last["count"]
    got = door.ok("/v3/kv/rangestream", {**asked, "count_only": True})["result"]["range_response"]
    assert got["count"] == str(2500 + BIG) and "kvs" not in got, got
    # Refused before the stream has begun, or just after.
    status, answer = door.post("/v3/kv/rangestream", {**asked, "revision": 99999999})
    assert (status, answer["error"]["grpc_code"]) == (200, 11) if status == 200 else answer["code"] == 11, answer
    # A client that does not read yet: what waits for it is bounded, and comes when it reads.
    c = door.connect()
    c.request("POST", "/v3/kv/rangestream", json.dumps(asked))

    def held():
        return int(re.search(r"^thole_bus_held_bytes (\d+)$", door.raw("GET", "/metrics")[1], re.MULTILINE)[1])

    eventually("a page waits for the client", lambda: held() > 1 << 20)
    assert held() < 6 << 20, held()
    parts = [json.loads(line)["result"]["range_response"] for line in c.getresponse()]
    assert sum(len(part["kvs"]) for part in parts) == 2500 + BIG
    c.close()
    assert door.post("/v3/kv/deleterange", asked)[0] == 200


def bounds(door):
    status, answer = door.post("/v1/Data/Propose", {"shard": "default", "text": "x" * (4 << 20)})
    assert status == 400 and answer["details"][0]["reason"] == "TOO_LARGE", answer
    status, answer = door.post("/v3/kv/put", {"key": b64("big"), "value": b64("x" * (2 << 20))})
    assert status == 400 and "request is too large" in answer["error"], answer
    # What an error quotes may be cut, but not inside a character.
    for start in "", "x":
        name = json.dumps({start + "\u00e9" * 300: 1}, ensure_ascii=False)
        status, answer = door.post("/v1/Shards/GetShard", name.encode())
        assert status == 400 and "\u00e9" in answer["message"], answer
    status, answer = door.post("/v3/kv/range", {"key": b64("a")}, Origin="http://evil.example")
    assert status == 403, answer
    # A site whose name its owner lets resolve to this machine.
    site = f"rebound.example:{door.port}"
    status, answer = door.post("/v3/kv/range", {"key": b64("a")}, Host=site, Origin=f"http://{site}")
    assert status == 403, answer
    for own in ("127.0.0.1", "localhost", "[::1]"):
        site = f"{own}:{door.port}"
        door.ok("/v3/kv/range", {"key": b64("a")}, Host=site, Origin=f"http://{site}")
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        keys = [f"k{i}" for i in range(256)]
        list(pool.map(lambda k: door.ok("/v3/kv/put", {"key": b64(k), "value": b64(k)}), keys))
    count = door.ok("/v3/kv/range", {"key": b64("k"), "range_end": b64("l"), "count_only": True})["count"]
    assert count == "256", count
    # Connections that are silent, and requests that never end, keep nobody out.
    held = []
    for i in range(600):
        s = socket.create_connection(("127.0.0.1", door.port))
        if i % 2:
            s.sendall(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        held.append(s)
    assert door.raw("GET", "/livez")[0] == 200
    door.ok("/v3/kv/range", {"key": b64("a")})
    for s in held:
        s.close()


def listening(tholed, work):
    def fails(address):
        return subprocess.run(
            [tholed, "--dev", "--data-dir", work / "other", "--listen", "127.0.0.1:0", "--insecure", "--http",
             address],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DEADLINE_S, text=True, check=False)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = fails(f"127.0.0.1:{taken.getsockname()[1]}")
        assert ended.returncode == 4 and "another process uses this address" in ended.stderr, ended
    ended = fails("192.0.2.1:0")  # of the range for documentation: no machine has it
    assert ended.returncode == 2 and "Cannot assign requested address" in ended.stderr, ended


# ---- Who may ------------------------------------------------------------------------------------


def all_paths(sources):
    """Every call of the control plane, and every path of etcd's."""
    for proto in sorted((sources / "proto" / "thole" / "v1").glob("*.proto")):
        service = None
        for line in proto.read_text(encoding="utf-8").splitlines():
            found = re.match(r"service (\w+)", line)
            service = found[1] if found else service
            found = re.match(r"\s+rpc (\w+)\((stream )?", line)
            if found:
                yield f"/v1/{service}/{found[1]}"
    routes = (sources / "agent" / "doors" / "http_routes.c").read_text(encoding="utf-8")
    for path in re.findall(r'^ +\{"(/[a-z/-]+)", ', routes, re.MULTILINE):
        yield "/v3" + path


def rights(tholed, thole, sources, work):
    pki = work / "pki"

    def run(*words, **flags):
        tls = ["--tls-ca", pki / "ca.crt", "--tls-cert", pki / "admin.crt", "--tls-key", pki / "admin.key"]
        done = subprocess.run([thole, *(tls if flags else []), *words], capture_output=True, text=True,
                              timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, (words, done)
        return done.stdout

    run("cert", "ca", "test", "--dir", pki)
    run("cert", "host", "h1", "--dir", pki)
    run("cert", "client", "admin", "--dir", pki)
    host = Host(tholed, work, "--tls-ca", pki / "ca.crt", "--tls-cert", pki / "h1.crt", "--tls-key", pki / "h1.key")
    try:
        door = Door(host.port, ssl.create_default_context(cafile=pki / "ca.crt"))
        paths = list(all_paths(sources))
        assert len(paths) > 100, paths
        for path in paths:  # nothing without a token ...
            status, answer = door.post(path, "{}")
            assert status in (401, 501) and (status == 401 or path.startswith("/v3")), (path, status, answer)
        at = ("--endpoints", host.grpc)
        token, eve = (
            re.search(r"thole_[0-9a-f]+_[0-9a-f]+", run(*at, "token", "create", "--for", user, admin=True))[0]
            for user in ("admin", "eve"))
        for path in paths:  # ... nothing with the token of somebody without rights, and no word is lost
            status, answer = door.post(path, "{}", Authorization=f"Bearer {eve}")
            assert status in (403, 501) and (status == 403 or path.startswith("/v3")), (path, status, answer)
        status, answer = door.post("/v1/Shards/ListShards", "{}", Authorization=f"Bearer {eve}")
        info = answer["details"][0]
        assert info["reason"] == "NO_RIGHT" and info["metadata"]["right"] == "READ of SHARDS", answer
        # A right on one shard is none on another.
        role = {"name": "clerk", "spec": {"members": ["eve"], "data": [{"rights": ["DATA_RIGHT_READ"],
                                                                       "shards": ["other"]}]}}
        for path, body in (("/v1/Shards/CreateShard", {"shard": {"name": "other", "spec": {"type": "kv", "voters": 1}}}),
                           ("/v1/Roles/CreateRole", {"role": role})):
            door.ok(path, body, Authorization=f"Bearer {token}")
        door.ok("/v3/kv/range", {"key": b64("a")}, Authorization=eve, Thole_Shard="other")
        for path, shard in ("range", None), ("range", "default"), ("put", "other"):
            headers = {} if shard is None else {"Thole_Shard": shard}
            status, answer = door.post(f"/v3/kv/{path}", {"key": b64("a")}, Authorization=eve, **headers)
            assert status == 403, (path, shard, answer)
        # With and without "Bearer".
        for value in f"Bearer {token}", token:
            door.ok("/v3/kv/put", {"key": b64("a")}, Authorization=value)
        door.ok("/v1/Shards/ListShards", {}, Authorization=f"Bearer {token}")
        # A stream ends when its user's token does.
        c = door.connect()
        c.request("POST", "/v1/Events/WatchEvents", "{}", {"Authorization": f"Bearer {token}"})
        answer = c.getresponse()
        assert answer.status == 200
        run(*at, "token", "revoke", token.split("_")[1], admin=True)
        end = read_lines(answer, lambda x: "error" in x)["error"]
        assert end["code"] == 16, end
        assert door.post("/v3/kv/put", {"key": b64("a")}, Authorization=token)[0] == 401
    finally:
        host.stop()


def main():
    tholed, thole, sources = sys.argv[1:4]
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        for part in "plain", "tls":
            (work / part).mkdir()
        host = Host(tholed, work / "plain")
        try:
            door = Door(host.port)
            refuses_zero(door)
            ours = as_etcd(door)
            beside_etcd(ours, with_users(door), work)
            control(door)
            named_shards(door)
            watch(door)
            locks(door)
            range_stream(door)
            bounds(door)
        finally:
            host.stop()
        listening(tholed, work)
        rights(tholed, thole, pathlib.Path(sources), work / "tls")


if __name__ == "__main__":
    main()
