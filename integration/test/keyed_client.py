#!/usr/bin/python3
"""A client of a pool with keys that shares no code with us (python3-grpcio).

  keyed_client.py POOL COUNT SECONDS ADDRESS...

It computes slots and shards itself, as docs/specs.md says. For SECONDS it writes keys, half of them to the pool
with a key and half to the shard that it names itself, through any host. Then it reads each key both ways. Exits 0
if every key had its value both ways. Without grpcio it exits with 77."""
import binascii
import random
import sys
import time

try:
    import grpc
except ImportError:
    sys.exit(77)

SLOTS = 16384
TIMEOUT_S = 20


def slot_of(key):
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1) if begin >= 0 else -1
    tag = key[begin + 1 : end] if end > begin + 1 else key
    return binascii.crc_hqx(tag, 0) % SLOTS # CRC-16 of the XMODEM protocol


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def call(channels, method, shard, key, text):
    """Through any host; what certainly had no effect, and what can be repeated, is."""
    message = field(1, shard.encode()) + field(3, text) + (field(10, key) if key else b"")
    end = time.monotonic() + TIMEOUT_S
    while True:
        channel = random.choice(channels)
        unary = channel.unary_unary(f"/thole.v1.Data/{method}", lambda m: m, lambda m: m)
        try:
            return unary(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            transient = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
            if not transient or time.monotonic() > end:
                print(method, shard, key, error.code().name, error.details())
                sys.exit(1)
            time.sleep(0.05)


def main():
    pool, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    channels = [grpc.insecure_channel(address) for address in sys.argv[4:]]
    written = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        n = len(written)
        key = (f"key{n}" if n % 5 else f"x{{tag{n % 7}}}{n}").encode()
        shard = f"{pool}-{slot_of(key) * count // SLOTS}"
        text = b"put " + key + f" value{n}".encode()
        if n % 2:
            call(channels, "Propose", pool, key, text)
        else:
            call(channels, "Propose", shard, b"", text)
        written[key] = shard
    for n, (key, shard) in enumerate(written.items()):
        for name, by in ((pool, key), (shard, b"")):
            answer = call(channels, "Query", name, by, b"get " + key)
            if f"value{n}".encode() not in answer:
                print("key", key, "of", name, "has", answer)
                sys.exit(1)
    print("wrote and read", len(written), "keys in", len(set(written.values())), "shards")


main()
