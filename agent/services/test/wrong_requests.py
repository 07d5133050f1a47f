"""Every call, asked wrongly: which code, reason and field it answers with.

A row is (method, request, code, reason, field); field None: ErrorInfo names none. `{shard}` in a
string is a shard that exists on host h1, `{replica}` as a value its replica's id.
"""
import grpc

BAD, MISSING, EXISTS = "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS"
FUTURE = 1 << 50
LONG = "x" * 300
SPEC = {"type": "counter", "voters": 1}


def refusals_of_names(method, key="name", field="name", reason="NO_SUCH_HOST"):
    return [
        (method, {}, BAD, "BAD_REQUEST", field),
        (method, {key: "Not A Name"}, BAD, "BAD_REQUEST", field),
        (method, {key: "nowhere"}, MISSING, reason, None),
    ]


def refusals_of_pages(method):
    return [
        (method, {"page_size": -1}, BAD, "BAD_REQUEST", "page_size"),
        (method, {"page_token": "nonsense"}, BAD, "BAD_REQUEST", "page_token"),
    ]


def refusals_of_specs(service, kind, message, missing):
    """Create and update, of shards and pools."""

    def row(verb, value, field, code=BAD, reason="BAD_REQUEST", **more):
        return (f"{service}/{verb}{kind}", {message: value, **more}, code, reason, field)

    def spec(**changes):
        changed = {**SPEC, **changes}
        return changed if message == "shard" else {"count": 1, "shard": changed}

    at = "spec" if message == "shard" else "spec.shard"
    rows = []
    for verb in ("Create", "Update"):
        rows += [
            (f"{service}/{verb}{kind}", {}, BAD, "BAD_REQUEST", message),
            row(verb, {"name": "a"}, f"{message}.spec"),
            row(verb, {"spec": spec()}, f"{message}.name"),
            row(verb, {"name": "No Name", "spec": spec()}, f"{message}.name"),
            row(verb, {"name": "a", "spec": spec(type="a\nb")}, f"{at}.type"),
            row(verb, {"name": "a", "spec": spec(voters=0)}, f"{at}.voters"),
            row(verb, {"name": "a", "spec": spec(witnesses=1)}, f"{at}.witnesses"),
            row(verb, {"name": "a", "spec": spec(spread=[""])}, f"{at}.spread"),
            row(verb, {"name": "a", "spec": spec(spread=list("abcd"))}, f"{at}.spread", reason="TOO_LARGE"),
            row(verb, {"name": "a", "spec": spec()}, "request_id", request_id=LONG),
        ]
    return rows + [
        row("Create", {"name": "a", "spec": spec(type="")}, f"{at}.type"),
        row("Create", {"name": "a", "spec": spec(type="x")}, f"{at}.type", MISSING, "NO_SUCH_TYPE"),
        row("Update", {"name": "nowhere", "spec": spec()}, None, MISSING, missing),
    ]


ROWS = [
    *refusals_of_names("Hosts/GetHost"),
    *refusals_of_pages("Hosts/ListHosts"),
    ("Hosts/UpdateHost", {}, BAD, "BAD_REQUEST", "host"),
    ("Hosts/UpdateHost", {"host": {"name": "h1"}}, BAD, "BAD_REQUEST", "host.spec"),
    ("Hosts/UpdateHost", {"host": {"spec": {}}}, BAD, "BAD_REQUEST", "host.name"),
    ("Hosts/UpdateHost", {"host": {"name": "nowhere", "spec": {}}}, MISSING, "NO_SUCH_HOST", None),
    ("Hosts/UpdateHost", {"host": {"name": "h1", "spec": {"state": 4}}}, BAD, "BAD_REQUEST", "spec.state"),
    ("Hosts/UpdateHost", {"host": {"name": "h1", "spec": {"state": 9}}}, BAD, "BAD_REQUEST", "spec.state"),
    *refusals_of_names("Hosts/DeleteHost"),
    ("Hosts/DeleteHost", {"name": "h1", "request_id": LONG}, BAD, "BAD_REQUEST", "request_id"),
    *refusals_of_names("Shards/GetShard", reason="NO_SUCH_SHARD"),
    *refusals_of_pages("Shards/ListShards"),
    *refusals_of_specs("Shards", "Shard", "shard", "NO_SUCH_SHARD"),
    ("Shards/CreateShard", {"shard": {"name": "{shard}", "spec": SPEC}}, EXISTS, "EXISTS", None),
    (
        "Shards/UpdateShard",
        {"shard": {"name": "{shard}", "etag": "x", "spec": SPEC}},
        "ABORTED",
        "ETAG_MISMATCH",
        "etag",
    ),
    # Only shard zero's machine knows what cannot change.
    *(
        (
            "Shards/UpdateShard",
            {"shard": {"name": "{shard}", "spec": {**SPEC, field: value}}},
            "FAILED_PRECONDITION",
            "BAD_REQUEST",
            f"spec.{field}",
        )
        for field, value in (("type", "kv"), ("config", b"x"), ("lease_reads", True))
    ),
    *refusals_of_names("Shards/DeleteShard", reason="NO_SUCH_SHARD"),
    ("Shards/DeleteShard", {"name": "zero"}, "FAILED_PRECONDITION", "BAD_REQUEST", None),
    *refusals_of_names("Shards/TransferLeader", "shard", "shard", "NO_SUCH_SHARD"),
    (
        "Shards/TransferLeader",
        {"shard": "{shard}", "replica_id": FUTURE},
        MISSING,
        "NO_SUCH_REPLICA",
        None,
    ),
    *refusals_of_names("Pools/GetPool", reason="NO_SUCH_SHARD"),
    *refusals_of_pages("Pools/ListPools"),
    *refusals_of_specs("Pools", "Pool", "pool", "NO_SUCH_SHARD"),
    *refusals_of_names("Pools/DeletePool", reason="NO_SUCH_SHARD"),
    *refusals_of_pages("Replicas/ListReplicas"),
    ("Replicas/ListReplicas", {"shard": "nowhere"}, MISSING, "NO_SUCH_SHARD", None),
    ("Replicas/ListReplicas", {"host": "nowhere"}, MISSING, "NO_SUCH_HOST", None),
    ("Replicas/CreateReplica", {}, BAD, "BAD_REQUEST", "shard"),
    ("Replicas/CreateReplica", {"shard": "{shard}"}, BAD, "BAD_REQUEST", "host"),
    ("Replicas/CreateReplica", {"shard": "nowhere", "host": "h1"}, MISSING, "NO_SUCH_SHARD", None),
    ("Replicas/CreateReplica", {"shard": "{shard}", "host": "nowhere"}, MISSING, "NO_SUCH_HOST", None),
    ("Replicas/CreateReplica", {"shard": "{shard}", "host": "h1", "role": 9}, BAD, "BAD_REQUEST", "role"),
    ("Replicas/CreateReplica", {"shard": "{shard}", "host": "h1", "role": 3}, BAD, "BAD_REQUEST", "role"),
    ("Replicas/CreateReplica", {"shard": "{shard}", "host": "h1"}, EXISTS, "EXISTS", None),
    ("Replicas/DeleteReplica", {}, BAD, "BAD_REQUEST", "id"),
    ("Replicas/DeleteReplica", {"id": FUTURE}, MISSING, "NO_SUCH_REPLICA", None),
    *refusals_of_pages("Operations/ListOperations"),
    ("Operations/GetOperation", {}, BAD, "BAD_REQUEST", "id"),
    ("Operations/GetOperation", {"id": FUTURE}, MISSING, "NOT_FOUND", None),
    ("Operations/CancelOperation", {}, BAD, "BAD_REQUEST", "id"),
    ("Operations/CancelOperation", {"id": FUTURE}, MISSING, "NOT_FOUND", None),
    ("Operations/WatchOperation", {}, BAD, "BAD_REQUEST", "id"),
    ("Operations/WatchOperation", {"id": FUTURE}, MISSING, "NOT_FOUND", None),
    *refusals_of_names("Operations/DrainHost"),
    *refusals_of_names("Operations/UndrainHost"),
    *refusals_of_names("Operations/CordonHost"),
    *refusals_of_names("Operations/UncordonHost"),
    *refusals_of_names("Operations/DecommissionHost"),
    ("Operations/MoveShard", {}, BAD, "BAD_REQUEST", "shard"),
    ("Operations/MoveShard", {"shard": "{shard}"}, BAD, "BAD_REQUEST", "from"),
    ("Operations/MoveShard", {"shard": "{shard}", "from": "h1"}, BAD, "BAD_REQUEST", "to"),
    (
        "Operations/MoveShard",
        {"shard": "nowhere", "from": "h1", "to": "h2"},
        MISSING,
        "NO_SUCH_SHARD",
        None,
    ),
    ("Operations/PauseControllers", {"controllers": [9]}, BAD, "BAD_REQUEST", "controllers"),
    ("Operations/Rebalance", {"request_id": LONG}, BAD, "BAD_REQUEST", "request_id"),
    *refusals_of_pages("Events/ListEvents"),
    ("Events/ListEvents", {"after_revision": FUTURE}, "OUT_OF_RANGE", "BAD_REQUEST", "after_revision"),
    ("Events/WatchEvents", {"after_revision": FUTURE}, "OUT_OF_RANGE", "BAD_REQUEST", "after_revision"),
    ("Cluster/Watch", {"from_revision": FUTURE}, "OUT_OF_RANGE", "BAD_REQUEST", "from_revision"),
    ("Data/Propose", {"text": "x"}, BAD, "BAD_REQUEST", "shard"),
    ("Data/Propose", {"shard": "nowhere", "text": "x"}, MISSING, "NO_SUCH_SHARD", None),
    ("Data/Propose", {"shard": "{shard}", "text": "x" * (3 << 19) + "x"}, BAD, "TOO_LARGE", "text"),
    ("Data/Propose", {"shard": "{shard}", "data": b"x" * (3 << 19) + b"x"}, BAD, "TOO_LARGE", "data"),
    ("Data/Propose", {"shard": "{shard}", "text": "x", "session": 7}, BAD, "BAD_REQUEST", "sequence"),
    ("Data/Propose", {"shard": "{shard}", "text": "x", "sequence": 7}, BAD, "BAD_REQUEST", "session"),
    (
        "Data/Propose",
        {"shard": "{shard}", "text": "x", "session": FUTURE, "sequence": 1},
        "FAILED_PRECONDITION",
        "SESSION_EXPIRED",
        None,
    ),
    ("Data/Query", {"text": "x"}, BAD, "BAD_REQUEST", "shard"),
    ("Data/Query", {"shard": "nowhere", "text": "x"}, MISSING, "NO_SUCH_SHARD", None),
    ("Data/Query", {"shard": "{shard}", "text": "x" * (3 << 19) + "x"}, BAD, "TOO_LARGE", "text"),
    (
        "Data/Query",
        {"shard": "{shard}", "text": "get", "max_staleness_ms": 5},
        BAD,
        "BAD_REQUEST",
        "max_staleness_ms",
    ),
    ("Data/OpenSession", {}, BAD, "BAD_REQUEST", "shard"),
    ("Data/OpenSession", {"shard": "nowhere"}, MISSING, "NO_SUCH_SHARD", None),
    ("Data/CloseSession", {"session": 5}, BAD, "BAD_REQUEST", "shard"),
    ("Data/CloseSession", {"shard": "{shard}"}, BAD, "BAD_REQUEST", "session"),
    ("Data/CloseSession", {"shard": "nowhere", "session": 5}, MISSING, "NO_SUCH_SHARD", None),
    (
        "Data/Propose",
        {"shard": "{shard}", "text": "x", "request_id": "x" * 65},
        BAD,
        "TOO_LARGE",
        "request_id",
    ),
    (
        "Data/Propose",
        {"shard": "{shard}", "text": "x", "request_id": "x", "session": 5, "sequence": 1},
        BAD,
        "BAD_REQUEST",
        "request_id",
    ),
    ("Data/Watch", {}, BAD, "BAD_REQUEST", "shard"),
    ("Data/Watch", {"shard": "nowhere"}, MISSING, "NO_SUCH_SHARD", None),
    ("Snapshots/SaveSnapshot", {}, BAD, "BAD_REQUEST", "shard"),
    ("Snapshots/SaveSnapshot", {"shard": "nowhere"}, MISSING, "NO_SUCH_SHARD", None),
    ("Snapshots/RestoreSnapshot", {}, BAD, "BAD_REQUEST", "name"),
    *refusals_of_names("Repair/PlanRepair", "shard", "shard", "NO_SUCH_SHARD"),
    ("Repair/RunRepair", {"shard": "{shard}"}, BAD, "BAD_REQUEST", "hash"),
]
SERVICES = sorted({row[0].split("/")[0] for row in ROWS})


def filled(value, known):
    if isinstance(value, dict):
        return {key: filled(v, known) for key, v in value.items()}
    return known.get(value, value) if isinstance(value, str) else value


def error_info(details, fields, every):
    """Reason and metadata of the ErrorInfo in a google.rpc.Status."""
    for detail in every(details, 3):
        if every(detail, 1)[0].endswith(b"google.rpc.ErrorInfo"):
            info = every(detail, 2)[0]
            pairs = [dict(fields(entry)) for entry in every(info, 3)]
            metadata = {p[1].decode(): p.get(2, b"").decode() for p in pairs}
            return every(info, 1)[0].decode(), metadata
    return None, {}


def check(client, known, fields, every, timeout):
    """What is wrong with the answers, one line each."""
    wrong = []
    for method, values, code, reason, field in ROWS:
        shown = f"{method} {str(values)[:100]}"
        try:
            answer = client(f"thole.v1.{method}", timeout=timeout, **filled(values, known))
            for _ in answer if hasattr(answer, "__iter__") else []:
                raise AssertionError("an answer")
            wrong.append(f"{shown}: accepted")
        except AssertionError:
            wrong.append(f"{shown}: accepted")
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
            is_reason, metadata = error_info(details, fields, every)
            got = (error.code().name, is_reason, metadata.get("field"))
            if got != (code, reason, field):
                wrong.append(f"{shown}: wanted {(code, reason, field)}, got {got}: {error.details()}")
    return wrong
