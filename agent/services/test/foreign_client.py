#!/usr/bin/python3
"""Usage: foreign_client.py ADDRESS [VOTERS]

A client that knows nothing but an address: no generated code, no .proto file. It learns everything
from server reflection, then lists the services, creates a shard, waits until it is ready, proposes,
queries and watches. Exits 0 only if all of it worked. Needs python3-grpcio and python3-protobuf.
"""
import sys
import threading
import time
import uuid

import grpc
import wrong_requests
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TIMEOUT_S = 20


# ---- Reflection, by hand: grpc.reflection.v1.ServerReflection/ServerReflectionInfo ---------------


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """(number, value) of each field of a message; sub-messages stay bytes."""
    at = 0

    def take():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = take()
        if key & 7 == 0:
            yield key >> 3, take()
        elif key & 7 == 2:
            size = take()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"unexpected wire type {key & 7}")


def every(data, number):
    return [value for key, value in fields(data) if key == number]


class Server:
    """What reflection says of a server."""

    FILE_BY_NAME, FILE_CONTAINING_SYMBOL, LIST_SERVICES = 3, 4, 7
    FILE_RESPONSE, LIST_RESPONSE, ERROR_RESPONSE = 4, 6, 7

    def __init__(self, channel, version):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        self.call = channel.stream_stream(path)
        self.pool = descriptor_pool.DescriptorPool()
        self.added = set()

    def ask(self, number, text):
        answers = list(self.call(iter([field(number, text.encode())]), timeout=TIMEOUT_S))
        assert len(answers) == 1, answers
        return answers[0]

    def services(self):
        found = every(self.ask(self.LIST_SERVICES, "*"), self.LIST_RESPONSE)
        assert found, "no list of services"
        return sorted(every(service, 1)[0].decode() for service in every(found[0], 1))

    def add_files(self, answer):
        found = every(answer, self.FILE_RESPONSE)
        assert found, "no file descriptors"
        protos = {}
        for data in every(found[0], 1):
            proto = descriptor_pb2.FileDescriptorProto.FromString(data)
            protos[proto.name] = proto
        for proto in protos.values():
            self.add(proto, protos)

    def add(self, proto, known):
        if proto.name in self.added:
            return
        self.added.add(proto.name)
        for name in proto.dependency: # imports first
            if name not in known:
                self.add_files(self.ask(self.FILE_BY_NAME, name))
            else:
                self.add(known[name], known)
        self.pool.Add(proto)

    def load(self, symbol):
        self.add_files(self.ask(self.FILE_CONTAINING_SYMBOL, symbol))

    def misses(self, symbol):
        return bool(every(self.ask(self.FILE_CONTAINING_SYMBOL, symbol), self.ERROR_RESPONSE))

    def message(self, name):
        return message_factory.MessageFactory(self.pool).GetPrototype(
            self.pool.FindMessageTypeByName(name)
        )


# ---- Calls ----------------------------------------------------------------------------------------


class Client:
    def __init__(self, channel, server):
        self.channel = channel
        self.server = server

    def method(self, service, name):
        method = self.server.pool.FindServiceByName(service).FindMethodByName(name)
        request = self.server.message(method.input_type.full_name)
        response = self.server.message(method.output_type.full_name)
        kinds = {"Stream": self.channel.stream_stream, "SaveSnapshot": self.channel.unary_stream}
        streams = name.startswith("Watch")
        kind = self.channel.unary_stream if streams else kinds.get(name, self.channel.unary_unary)
        call = kind(
            f"/{service}/{name}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return call, request

    def __call__(self, path, timeout=TIMEOUT_S, **values):
        service, name = path.split("/")
        call, request = self.method(service, name)
        return call(request(**values), timeout=timeout)


def wait_ready(client, name):
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        shard = client("thole.v1.Shards/GetShard", name=name)
        conditions = {c.type: c.status for c in shard.status.conditions}
        if conditions.get("Ready") and shard.status.observed_generation >= shard.generation:
            return shard
        time.sleep(0.1)
    raise AssertionError(f"{name} is not ready:\n{shard}")


def expect_error(code, function):
    try:
        function()
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
        assert details is not None, "no details"
        return details
    raise AssertionError(f"expected {code}")


def main():
    address = sys.argv[1]
    voters = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)

    for version in ("v1alpha", "v1"): # the last one stays
        server = Server(channel, version)
        services = server.services()
        wanted = wrong_requests.SERVICES
        for name in wanted:
            assert f"thole.v1.{name}" in services, services
        assert server.misses("no.such.Symbol")
    for name in wanted:
        server.load(f"thole.v1.{name}")
    print("services:", " ".join(services))

    client = Client(channel, server)
    shard = "foreign-" + uuid.uuid4().hex[:8]
    created = client(
        "thole.v1.Shards/CreateShard",
        shard={"name": shard, "spec": {"type": "counter", "voters": voters}},
        request_id=shard,
    )
    assert created.id > 0 and created.etag, created
    again = client(
        "thole.v1.Shards/CreateShard",
        shard={"name": shard, "spec": {"type": "counter", "voters": voters}},
        request_id=shard,
    )
    assert again.id == created.id, "the request id was not honoured"
    wait_ready(client, shard)
    print("created:", shard, "id", created.id)

    events = []
    begun, seen = threading.Event(), threading.Event()
    stream = client("thole.v1.Data/Watch", timeout=TIMEOUT_S * 2, shard=shard)

    def watch():
        try:
            for event in stream:
                if event.bookmark:
                    begun.set()
                else:
                    events.append(event)
                    seen.set()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                print("watch:", error, file=sys.stderr)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    assert begun.wait(TIMEOUT_S), "no bookmark"

    proposed = client("thole.v1.Data/Propose", shard=shard, text="add 42")
    assert proposed.index > 0 and proposed.text == "42", proposed
    session = client("thole.v1.Data/OpenSession", shard=shard).session
    for attempt in range(2):
        proposed = client(
            "thole.v1.Data/Propose", shard=shard, text="add 1", session=session, sequence=1
        )
        assert proposed.text == "43" and proposed.duplicate == (attempt == 1), proposed
    client("thole.v1.Data/CloseSession", shard=shard, session=session)
    for attempt in range(2):
        proposed = client("thole.v1.Data/Propose", shard=shard, text="add 0", request_id="a-1")
        assert proposed.text == "43" and proposed.duplicate == (attempt == 1), proposed
    answer = client("thole.v1.Data/Query", shard=shard, text="get")
    assert answer.text == "43", answer
    assert seen.wait(TIMEOUT_S), "no event"
    stream.cancel()
    thread.join(TIMEOUT_S)
    print("proposed, queried and watched:", answer.text, "with", len(events), "events")

    call, request = client.method("thole.v1.Data", "Stream")
    propose = {"shard": shard, "text": "add 1"}
    asked = [request(id=i, propose=propose) for i in range(1, 11)]
    asked.append(request(id=99, propose={"shard": "no-such-shard", "text": "x"}))
    answers = {a.id: a for a in call(iter(asked), timeout=TIMEOUT_S)}
    assert sorted(answers) == [*range(1, 11), 99], answers
    assert answers[99].code == 5 and answers[99].reason == "NO_SUCH_SHARD", answers[99]
    assert max(int(answers[i].response.text) for i in range(1, 11)) == 53, answers
    print("streamed:", len(answers), "answers")

    propose, request = client.method("thole.v1.Data", "Propose")
    details = expect_error(
        grpc.StatusCode.NOT_FOUND,
        lambda: propose(request(shard="no-such-shard", text="x"), timeout=TIMEOUT_S),
    )
    assert b"NO_SUCH_SHARD" in details, details
    wrong = wrong_requests.check(client, {"{shard}": shard}, fields, every, TIMEOUT_S)
    assert not wrong, "\n".join(wrong)
    print("refused:", len(wrong_requests.ROWS), "wrong requests")
    client("thole.v1.Shards/DeleteShard", name=shard)
    print("deleted:", shard)


main()
