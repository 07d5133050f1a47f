#!/usr/bin/python3
"""etcd's own client against a host that was started with --dev. Without etcdctl: skipped (77).

    etcd_clients.py THOLE ADDRESS
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

DEADLINE_S = 30


def run(command, text="", fails=False):
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=DEADLINE_S, env={**os.environ, "ETCDCTL_API": "3"}
    )
    assert (done.returncode != 0) == fails, (command, done)
    return done.stderr if fails else done.stdout


def main():
    thole, address = sys.argv[1:3]
    if shutil.which("etcdctl") is None:
        sys.exit(77)

    def etcdctl(*words, text="", fails=False, user=None):
        if user is not None:
            words = ("--user", user, *words)
        return run(["etcdctl", "--endpoints", address, *words], text, fails)

    def answer(*words):
        return json.loads(etcdctl(*words, "-w", "json"))

    # Keys.
    assert etcdctl("put", "a", "1") == "OK\n"
    assert etcdctl("put", "a", "2", "--prev-kv") == "OK\na\n1\n"
    assert etcdctl("get", "a") == "a\n2\n"
    assert etcdctl("get", "a", "--rev", "2") == "a\n1\n"
    assert etcdctl("put", "ab", "3") == "OK\n"
    assert etcdctl("get", "--prefix", "a", "--order", "DESCEND", "--print-value-only") == "3\n2\n"
    found = answer("get", "a", "--consistency", "s")
    assert found["header"]["revision"] == 4 and found["count"] == 1, found
    member = answer("member", "list")["members"][0]
    assert found["header"]["member_id"] == member["ID"], (found, member)
    assert member["clientURLs"] == [f"http://{address}"], member
    assert etcdctl("txn", text='value("a") = "2"\n\nput a 5\nget ab\n\nput a 6\n\n').startswith("SUCCESS"), "txn"
    assert etcdctl("txn", text='value("a") = "2"\n\nput a 5\n\nget a\n\n') == "FAILURE\n\na\n5\n"
    assert etcdctl("del", "ab") == "1\n"
    assert "key is not provided" in etcdctl("put", "", "1", fails=True)

    # Compaction.
    etcdctl("compact", "5")
    assert "required revision has been compacted" in etcdctl("get", "a", "--rev", "4", fails=True)
    assert "required revision is a future revision" in etcdctl("get", "a", "--rev", "99", fails=True)

    # Watches: what was, then what comes. etcdctl ends with the test's SIGINT.
    def watched(*words, until):
        command = ["etcdctl", "--endpoints", address, "watch", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "ETCDCTL_API": "3"}) as w:
            text = ""
            while not text.endswith(until):
                line = w.stdout.readline()
                assert line != "", text
                text += line
            w.send_signal(signal.SIGINT)
        return text

    assert etcdctl("put", "w/1", "one") == "OK\n"
    revision = answer("get", "w/1")["header"]["revision"]
    etcdctl("put", "w/1", "two")
    etcdctl("del", "--prefix", "w/")
    etcdctl("put", "w/2", "end")
    expected = "PUT\nw/1\none\nPUT\nw/1\none\nw/1\ntwo\nDELETE\nw/1\ntwo\nw/1\n\nPUT\nw/2\nend\n"
    assert watched("--rev", str(revision), "--prefix", "w/", "--prev-kv", until="end\n") == expected
    assert watched("--rev", str(revision + 2), "w/", "w0", until="end\n") == "DELETE\nw/1\n\nPUT\nw/2\nend\n"
    assert "required revision has been compacted" in etcdctl("watch", "--rev", "2", "a", fails=True)

    def kv_watch(*words, **how):
        return run([thole, "--endpoints", address, "kv", "watch", "default", *words], **how)

    r = revision
    lines = f"{r} put w/1 one\n{r + 1} put w/1 two\n{r} was w/1 one\n{r + 2} delete w/1\n{r + 1} was w/1 two\n"
    assert kv_watch("w/", "--prefix", "--rev", str(r), "--prev-kv", "--count", "3") == lines
    assert kv_watch("w/", "w0", "--rev", str(r + 2), "--count", "2") == f"{r + 2} delete w/1\n{r + 3} put w/2 end\n"
    assert kv_watch("w/2", "--rev", "6", "--count", "1") == f"{r + 3} put w/2 end\n"
    assert "revision 2 is compacted; watch from 5 on" in kv_watch("--rev", "2", fails=True)
    with subprocess.Popen(
        [thole, "--endpoints", address, "kv", "watch", "default", "--count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as w:
        assert "watching from revision" in w.stderr.readline()
        etcdctl("put", "w/3", "new")
        assert w.stdout.read() == f"{r + 4} put w/3 new\n"

    # Leases.
    lease = etcdctl("lease", "grant", "100").split()[1]
    assert etcdctl("put", "leased", "x", "--lease", lease) == "OK\n"
    assert lease in etcdctl("lease", "list")
    assert "attached keys([leased])" in etcdctl("lease", "timetolive", lease, "--keys")
    assert etcdctl("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(100)\n"
    assert "revoked" in etcdctl("lease", "revoke", lease)
    assert etcdctl("get", "leased") == ""
    assert "requested lease not found" in etcdctl("lease", "revoke", lease, fails=True)
    lease = etcdctl("lease", "grant", "2").split()[1]
    etcdctl("put", "leased", "x", "--lease", lease)
    deadline = time.monotonic() + 30
    while etcdctl("get", "leased") != "" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert etcdctl("get", "leased") == "", "the lease did not expire"
    assert "already expired" in etcdctl("lease", "timetolive", lease)

    # The whole.
    status = answer("endpoint", "status")[0]["Status"]
    assert status["version"].startswith("3.") and status["leader"] == member["ID"], status
    assert answer("endpoint", "hashkv")[0]["HashKV"]["hash"] > 0
    assert "Finished defragmenting" in etcdctl("defrag")
    refused = etcdctl("member", "add", "h9", "--peer-urls", "http://h9:7400", fails=True)
    assert "members follow the shard's spec" in refused and "thole apply" in refused, refused
    assert "thole host drain" in etcdctl("member", "remove", f"{member['ID']:x}", fails=True)
    assert "thole host drain" in etcdctl("member", "promote", f"{member['ID']:x}", fails=True)
    etcdctl("alarm", "list")
    etcdctl("endpoint", "health")
    assert run([thole, "--endpoints", address, "kv", "get", "default", "a"]) == "5\n"

    # Users.
    root, alice = "root:secret", "alice:word"
    assert "root user does not exist" in etcdctl("auth", "enable", fails=True)
    etcdctl("user", "add", root)
    etcdctl("user", "grant-role", "root", "root")
    etcdctl("auth", "enable")
    assert "user name is empty" in etcdctl("get", "a", fails=True)
    assert "invalid user ID or password" in etcdctl("get", "a", user="root:wrong", fails=True)
    assert etcdctl("user", "add", "alice", "--interactive=false", text="word\n", user=root) == "User alice created\n"
    etcdctl("role", "add", "reader", user=root)
    etcdctl("role", "grant-permission", "reader", "read", "a", user=root)
    etcdctl("user", "grant-role", "alice", "reader", user=root)
    assert etcdctl("get", "a", user=alice) == "a\n5\n"
    assert "permission denied" in etcdctl("put", "a", "6", user=alice, fails=True)
    assert "permission denied" in etcdctl("get", "--prefix", "a", user=alice, fails=True)
    etcdctl("endpoint", "health", user=alice)
    etcdctl("auth", "disable", user=root)
    assert etcdctl("get", "a") == "a\n5\n"


if __name__ == "__main__":
    main()
