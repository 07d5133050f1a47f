#!/usr/bin/python3
"""A client that shares no code with us (python3-grpcio) against serve_bus: reflection, health,
status details, unknown methods, a watch that is cancelled. Without grpcio the test is skipped (77)."""
import subprocess
import sys
import threading

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool
except ImportError:
    sys.exit(77)

DEADLINE_S = 20


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """Number -> values of one message; bytes for strings and messages."""
    found, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            assert tag & 7 == 0, tag
            value, at = varint(data, at)
        found.setdefault(tag >> 3, []).append(value)
    return found


def text(number, value):
    value = value.encode()
    return bytes([number << 3 | 2, len(value)]) + value


def reflect(channel, package, requests):
    call = channel.stream_stream(f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo")
    return [fields(answer) for answer in call(iter(requests), timeout=DEADLINE_S)]


def check_reflection(channel, package):
    [listing] = reflect(channel, package, [text(7, "*")])
    services = sorted(fields(s)[1][0].decode() for s in fields(listing[6][0])[1])
    assert "thole.bus.v1.Bus" not in services and f"grpc.reflection.{package}.ServerReflection" in services
    answers = reflect(channel, package, [text(4, name) for name in services])
    assert len(answers) == len(services)
    for name, answer in zip(services, answers):
        files = {}
        for data in fields(answer[4][0])[1]:
            proto = descriptor_pb2.FileDescriptorProto.FromString(data)
            files[proto.name] = proto
        pool = descriptor_pool.DescriptorPool()

        def add(proto):
            for needed in proto.dependency:
                add(files[needed])  # every import is in the answer
            pool.Add(proto)

        for proto in files.values():
            add(proto)
        assert pool.FindServiceByName(name).methods
    missing, extensions = reflect(channel, package, [text(4, "no.Such"), text(6, services[0])])
    assert fields(missing[7][0])[1] == [grpc.StatusCode.NOT_FOUND.value[0]]
    assert 5 in extensions or 7 in extensions


def check_health(channel):
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert fields(check(b"", timeout=DEADLINE_S)) == {1: [1]}
    assert fields(check(text(1, "thole.bus.v1.Bus"), timeout=DEADLINE_S)) == {1: [1]}
    try:
        check(text(1, "no.Such"), timeout=DEADLINE_S)
        raise AssertionError("an unknown name is healthy")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(text(1, "shard/x"), timeout=DEADLINE_S)
    assert fields(next(watch)) == {1: [3]}
    watch.cancel()


def check_errors(channel):
    try:
        channel.unary_unary("/thole.v1.Test/Fail")(b"", timeout=DEADLINE_S)
        raise AssertionError("it should fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE and error.details() == "no leader"
        status = fields(dict(error.trailing_metadata())["grpc-status-details-bin"])
        assert status[1] == [grpc.StatusCode.UNAVAILABLE.value[0]]
        info, retry = (fields(detail) for detail in status[3])
        assert info[1] == [b"type.googleapis.com/google.rpc.ErrorInfo"]
        info = fields(info[2][0])
        assert info[1] == [b"NO_LEADER"] and info[2] == [b"thole"]
        assert fields(info[3][0]) == {1: [b"leader"], 2: [b"h2"]}
        assert fields(fields(retry[2][0])[1][0]) == {2: [250_000_000]}
    for path in ("/thole.v1.Test/Nothing", "/no.Service/Nothing"):
        try:
            channel.unary_unary(path)(b"", timeout=DEADLINE_S)
            raise AssertionError("it should be unknown")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def check_watch(channel):
    """Many at once, cancelled after the first message."""

    def one():
        stream = channel.unary_stream("/thole.v1.Test/Watch")(b"hello", timeout=DEADLINE_S)
        assert next(stream) == b"hello"
        stream.cancel()

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        port = int(server.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check_reflection(channel, "v1")
            check_reflection(channel, "v1alpha")
            check_health(channel)
            check_errors(channel)
            check_watch(channel)
        server.stdin.close()
        assert server.wait(DEADLINE_S) == 0
    finally:
        server.kill()


main()
