#!/usr/bin/python3
"""`thole kv` against a host that was started with --dev.

    kv_commands.py THOLE ADDRESS
"""
import json
import subprocess
import sys
import tempfile

DEADLINE_S = 30


def main():
    thole, address = sys.argv[1:3]

    def kv(*words, text="", code=0, says=""):
        command = [thole, "--endpoints", address, "kv", *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == code and says in done.stderr, (command, done)
        return done.stdout

    def document(*words):
        return json.loads(kv(*words, "-o", "json"))

    def revision():
        return int(document("status", "default")["revision"])

    first = revision()

    # Values from arguments, stdin and files; what the key was.
    assert kv("put", "default", "a/1", "one") == ""
    assert kv("put", "default", "a/1", "two", "--prev-kv") == "a/1 one\n"
    kv("put", "default", "a/2", text="from stdin\n")
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"\0\xff\\")
        f.flush()
        kv("put", "default", "a/3", f"@{f.name}")
    kv("put", "default", "b", "@@home")
    kv("put", "default", r"bin\x00ary", r"tab\t", "--escaped")
    kv("put", "default", "b", "@/no/such/file", code=1, says="cannot open /no/such/file")
    kv("put", "default", "", "x", code=1, says="key is not provided")

    # Reads.
    assert kv("get", "default", "a/1") == "two\n"
    assert kv("get", "default", "a/1", "--rev", str(first + 1)) == "one\n"
    assert kv("get", "default", "a/1", "--hex") == "\\x74\\x77\\x6f\n"
    kv("get", "default", "none", code=3, says="there is no such key: none")
    all_a = ["a/1 two", r"a/2 from stdin\n", r"a/3 \x00\xff\\"]
    assert kv("get", "default", "a/", "--prefix").splitlines() == all_a
    assert kv("get", "default", "a/2", "b").splitlines() == all_a[1:]
    assert kv("get", "default", "a/", "--prefix", "--limit", "1").splitlines() == all_a[:1]
    assert kv("get", "default", "a/", "--prefix", "--order", "descend", "--keys-only") == "a/3\na/2\na/1\n"
    assert kv("get", "default", "--sort-by", "modify", "-o", "name").split()[0] == "a/1"
    assert kv("get", "default", "b", "--from-key") == "b @home\nbin\\x00ary tab\\t\n"
    assert kv("get", "default", r"bin\x00ary", "--escaped") == "tab\t\n"
    assert kv("get", "default", "a/", "--prefix", "--count-only") == "3\n"
    assert f"a/1 version=2 created={first + 1} changed={first + 2} two\n" in kv("get", "default", "-o", "wide")
    assert [k["key"] for k in document("get", "default", "a/", "--prefix")] == ["YS8x", "YS8y", "YS8z"]
    assert "key: YS8x\n" in kv("get", "default", "a/1", "-o", "yaml")
    kv("get", "default", "a/1", "--rev", "999", code=1, says="required revision is a future revision")

    # Transactions.
    text = 'value("a/1") = "two"\n\nput t "x y"\nadd n 5\nget a/ --prefix --count-only\ndel b\n\nget t\n\n'
    assert kv("txn", "default", text=text) == "SUCCESS\nput\nchanged\nn 5\nget 3\ndel 1\n"
    assert kv("txn", "default", text='mod("t") < "2"\n\nput t z\n\nget t\n') == "FAILURE\nget 1\nt x y\n"
    kv("txn", "default", text="mod(t)\n", code=2, says="line 1 of the transaction: a comparison is like")
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("\nput t file\n")
        f.flush()
        assert document("txn", "default", f.name)["succeeded"] is True

    # Deletions; an empty KEY is a mistake.
    assert kv("del", "default", "t", "--prev-kv") == "t file\n"
    kv("del", "default", "t", code=3, says="there is no such key: t")
    kv("del", "default", "", code=2, says="KEY is empty; with --prefix it means all keys")
    kv("del", "default", "a/2", "a/4", says="deleted 2 keys")

    # Leases.
    lease = kv("lease", "grant", "default", "100").strip()
    kv("put", "default", "leased", "x", "--lease", lease)
    assert f"lease={lease} " in kv("get", "default", "leased", "-o", "wide")
    assert kv("lease", "list", "default") == f"{lease}\n"
    assert kv("lease", "timetolive", "default", lease, "--keys").split("\n")[1] == "leased"
    assert kv("lease", "keep-alive", "default", lease, "--once") == f"{lease} renewed for 100 s\n"
    kv("put", "default", "leased", "y", "--ignore-lease")
    kv("lease", "revoke", "default", lease)
    kv("get", "default", "leased", code=3)
    kv("lease", "revoke", "default", lease, code=3, says="requested lease not found")
    kv("lease", "timetolive", "default", lease, code=3, says=f"there is no lease {lease}")
    kv("lease", "keep-alive", "default", lease, code=3, says=f"there is no lease {lease}")
    kv("put", "default", "leased", "x", "--lease", "xyz", code=2, says="--lease: an id as")

    # History, before and after a compaction.
    before = revision()
    kv("put", "default", "h", "1")
    kv("put", "default", "h", "2")
    kv("put", "default", "other", "0")
    kv("del", "default", "h")
    kv("put", "default", "h", "3")
    r = before
    late = f"{r + 4} delete h\n{r + 5} put h 3\n"
    assert kv("history", "default", "h") == f"{r + 1} put h 1\n{r + 2} put h 2\n{late}"
    assert len(document("history", "default", "h")) == 4
    kv("compact", "default", str(r + 3), "--physical")
    assert kv("history", "default", "h") == f"{r + 2} put h 2\n{late}"
    kv("history", "default", "none", code=3, says="no revision of this key is kept")
    kv("compact", "default", "2", code=1, says="required revision has been compacted")
    assert f"compacted  {r + 3}\n" in kv("status", "default")


if __name__ == "__main__":
    main()
