#!/usr/bin/python3
"""A client that shares no code with us (python3-grpcio) over mutual TLS.

  tls_client.py ADDRESS CA CERT KEY [TOKEN]   prints the size of a status, and the services that
                                              reflection lists; exits 1 with the error's words
                                              CERT "-": without a certificate
                                              TOKEN: a file with a bearer token
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


def main():
    address, ca, cert, key = sys.argv[1:5]
    metadata = []
    if len(sys.argv) > 5:
        metadata = [("authorization", "Bearer " + read(sys.argv[5]).decode().strip())]
    own = (None, None) if cert == "-" else (read(key), read(cert))
    credentials = grpc.ssl_channel_credentials(read(ca), *own)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary("/thole.v1.Cluster/Status", lambda m: m, lambda m: m)
        try:
            print("status", len(call(b"", timeout=DEADLINE_S, metadata=metadata)))
            reflect = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            list_services = iter([b"\x3a\x01*"])
            for answer in reflect(list_services, timeout=DEADLINE_S, metadata=metadata):
                names = re.findall(rb"[a-z0-9]+(?:\.[A-Za-z0-9]+)+", answer)
                print("services", b" ".join(names).decode())
        except grpc.RpcError as error:
            print(error.code().name, error.details())
            sys.exit(1)


main()
