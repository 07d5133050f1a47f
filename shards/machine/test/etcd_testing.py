"""What the tests beside Debian's etcd, and those with clients of its API, have in common."""
import ctypes
import signal
import socket
import subprocess
import time

DEADLINE_S = 30
PR_SET_PDEATHSIG = 1


def load(path):
    """The classes of messages by their full names, from the descriptors that the build made (python3-grpcio)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    with open(path, "rb") as file:
        for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(proto)
    factory = message_factory.MessageFactory(pool)
    return lambda name: factory.GetPrototype(pool.FindMessageTypeByName(name))


def eventually(what, check):
    deadline = time.monotonic() + DEADLINE_S
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_etcd(directory, *options):
    """An etcd that ends with this process, however that ends: its process and the address of its clients."""
    client, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
    url, peer_url = "http://" + client, "http://" + peer
    libc = ctypes.CDLL(None)
    process = subprocess.Popen(
        ["etcd", "--data-dir", directory, "--listen-client-urls", url, "--advertise-client-urls", url]
        + ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        + ["--initial-cluster", f"default={peer_url}", "--logger", "zap", "--log-level", "error", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    return process, client
