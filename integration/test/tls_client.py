#!/usr/bin/python3
"""A client that shares no code with us (python3-grpcio) over mutual TLS.

  tls_client.py ADDRESS CA CERT KEY [TOKEN]   prints the size of a status, and the services that
                                              reflection lists; exits 1 with the error's words
                                              CERT "-": without a certificate
                                              TOKEN: a file with a bearer token
  tls_client.py ADDRESS CA CERT KEY --services   only the services
  tls_client.py ADDRESS CA CERT KEY --rights SHARD   prints, for each way to use the shard, the
                                              right that the refusal names
Without grpcio it exits with 77."""
import re
import sys

try:
    import grpc
except ImportError:
    sys.exit(77)

DEADLINE_S = 5


def read(path):
    with open(path, "rb") as file:
        return file.read()


def text(field, value):
    """A field of a message with a text of at most 127 bytes."""
    return bytes([field << 3 | 2, len(value)]) + value


def right_of(error):
    """In the metadata of its ErrorInfo, whose entries are messages with a key and a value."""
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    entry = re.search(rb"\x0a\x05right\x12(.)", details, re.DOTALL)
    if entry is None:
        return "-"
    return details[entry.end():entry.end() + entry[1][0]].decode()


def print_rights(channel, shard):
    of_shard = text(1, shard.encode())
    calls = (
        ("/thole.v1.Data/Propose", of_shard),
        ("/thole.v1.Data/Query", of_shard),
        ("/thole.v1.Data/OpenSession", of_shard),
        ("/thole.v1.Data/CloseSession", of_shard + b"\x10\x01"),
        ("/thole.v1.Data/Watch", of_shard),
        ("/thole.v1.Snapshots/SaveSnapshot", of_shard),
        ("/thole.v1.Shards/DeleteShard", of_shard),
        ("/etcdserverpb.KV/Range", text(1, b"key")),
    )
    for path, message in calls:
        try:
            for _ in channel.unary_stream(path)(message, timeout=DEADLINE_S):
                pass
            print(path, "is allowed")
        except grpc.RpcError as error:
            print(path, error.code().name, right_of(error))


def print_services(channel, metadata):
    reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    list_services = iter([b"\x3a\x01*"])
    for answer in reflect(list_services, timeout=DEADLINE_S, metadata=metadata):
        names = re.findall(rb"[a-z0-9]+(?:\.[A-Za-z0-9]+)+", answer)
        print("services", b" ".join(names).decode())


def main():
    address, ca, cert, key = sys.argv[1:5]
    metadata = []
    if len(sys.argv) > 5 and sys.argv[5] == "--rights":
        credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
        with grpc.secure_channel(address, credentials) as channel:
            print_rights(channel, sys.argv[6])
        return
    only_services = len(sys.argv) > 5 and sys.argv[5] == "--services"
    if len(sys.argv) > 5 and not only_services:
        metadata = [("authorization", "Bearer " + read(sys.argv[5]).decode().strip())]
    own = (None, None) if cert == "-" else (read(key), read(cert))
    credentials = grpc.ssl_channel_credentials(read(ca), *own)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary("/thole.v1.Cluster/Status", lambda m: m, lambda m: m)
        try:
            if not only_services:
                print("status", len(call(b"", timeout=DEADLINE_S, metadata=metadata)))
            print_services(channel, metadata)
        except grpc.RpcError as error:
            print(error.code().name, error.details())
            sys.exit(1)


main()
