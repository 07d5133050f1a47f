"""Clusters of this build on loopback, their metrics, and what they use: shared by the benchmarks."""
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request

TICKS = os.sysconf('SC_CLK_TCK')
HOSTS = 3


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def until(seconds, what, test):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = test()
        if found:
            return found
        time.sleep(0.02)
    raise RuntimeError(f'never came true within {seconds} s: {what}')


# ---- Metrics --------------------------------------------------------------------------------------


class Metrics:
    """The sum of the Prometheus text of several hosts."""

    def __init__(self, texts):
        self.values, self.buckets = {}, {}
        for text in texts:
            for line in text.splitlines():
                m = re.match(r'(\w+)(?:\{le="([^"]+)"\})? (\S+)$', line)
                if not m:
                    continue
                name, le, value = m[1], m[2], float(m[3])
                if le is None:
                    self.values[name] = self.values.get(name, 0) + value
                else:
                    to = self.buckets.setdefault(name.removesuffix('_bucket'), {})
                    to[float(le)] = to.get(float(le), 0) + value

    def since(self, before):
        d = Metrics([])
        d.values = {k: v - before.values.get(k, 0) for k, v in self.values.items()}
        for name, at in self.buckets.items():
            old = before.buckets.get(name, {})
            d.buckets[name] = {le: v - old.get(le, 0) for le, v in at.items()}
        return d

    def mean(self, name):
        n = self.values.get(name + '_count', 0)
        return self.values.get(name + '_sum', 0) / n if n else 0.0

    def p99(self, name):
        at = sorted(self.buckets.get(name, {}).items())
        n = self.values.get(name + '_count', 0)
        return next((le for le, v in at if n and v >= 0.99 * n), 0.0)

    def histogram(self, name):
        """The number of values in each bucket: at most its bound, and above the one before."""
        out, below = {}, 0
        for le, v in sorted(self.buckets.get(name, {}).items()):
            if v > below:
                out[f'{le:g}'] = round(v - below)
            below = v
        return out

    def summary(self):
        return {
            'histograms': {key: self.histogram(name) for key, name in HISTOGRAMS.items()},
            'entriesPerWrite': round(self.mean('thole_engine_log_write_entries'), 1),
            'entriesPerWriteP99': self.p99('thole_engine_log_write_entries'),
            'entriesPerFrame': round(self.mean('thole_engine_frame_entries'), 1),
            'commitMs': round(self.mean('thole_engine_commit_seconds') * 1e3, 3),
            'turnMs': round(self.mean('thole_engine_loop_turn_seconds') * 1e3, 3),
            'entriesPerApply': round(self.mean('thole_engine_apply_batch_entries'), 1),
            'writeMs': round(self.mean('thole_engine_log_write_seconds') * 1e3, 3),
            'writeMsP99': round(self.p99('thole_engine_log_write_seconds') * 1e3, 3),
            'messagesPerTurn': round(self.mean('thole_engine_loop_messages'), 1),
            'applyLagMs': round(self.mean('thole_engine_apply_lag_seconds') * 1e3, 3),
        }


HISTOGRAMS = {
    'entriesPerWrite': 'thole_engine_log_write_entries',
    'entriesPerFrame': 'thole_engine_frame_entries',
    'entriesPerApply': 'thole_engine_apply_batch_entries',
    'messagesPerTurn': 'thole_engine_loop_messages',
    'writeSeconds': 'thole_engine_log_write_seconds',
    'commitSeconds': 'thole_engine_commit_seconds',
}


# ---- A cluster ------------------------------------------------------------------------------------


class Cluster:
    """Daemons of this build on loopback, with a directory that is deleted at the end."""

    def __init__(self, bench, hosts=HOSTS, options=(), tls=False):
        self.bench, self.options = bench, list(options)
        self.dir = tempfile.mkdtemp(prefix='thole-bench.', dir=bench.dir)
        self.pki = bench.certificates(self.dir) if tls else None
        ports = free_ports(2 * (hosts + 1))
        self.addresses = [f'127.0.0.1:{p}' for p in ports[:hosts + 1]]
        self.https = [f'127.0.0.1:{p}' for p in ports[hosts + 1:]]
        self.daemons = [None] * (hosts + 1)
        self.hosts = hosts
        peers = ','.join(self.addresses[:hosts])
        for i in range(hosts):
            self.start(i, '--peers', peers, '--tag', 'bench=first')
        for i in range(hosts):
            self.await_ready(i)

    def start(self, i, *more):
        if self.pki:
            more += ('--tls-ca', f'{self.pki}/ca.crt', '--tls-cert', f'{self.pki}/h{i}.crt', '--tls-key',
                     f'{self.pki}/h{i}.key')
        self.daemons[i] = subprocess.Popen(
            [self.bench.tool('tholed'), '--data-dir', f'{self.dir}/h{i}', '--name', f'h{i}', '--listen',
             self.addresses[i], '--http', self.https[i], '--log-level', 'warn', *self.options, *more],
            stdout=subprocess.DEVNULL, stderr=open(f'{self.dir}/log{i}', 'a'))

    def http(self, i, path):
        secure = ssl.create_default_context(cafile=f'{self.pki}/ca.crt') if self.pki else None
        url = f'http{"s" if secure else ""}://{self.https[i]}{path}'
        try:
            return urllib.request.urlopen(url, timeout=5, context=secure).read().decode()
        except OSError:
            return ''

    def await_ready(self, i, seconds=60):
        until(seconds, f'h{i} is ready', lambda: self.http(i, '/readyz'))

    def kill(self, i):
        self.daemons[i].kill()
        self.daemons[i].wait()
        self.daemons[i] = None

    def running(self):
        return [(i, d) for i, d in enumerate(self.daemons) if d]

    def endpoints(self):
        return ','.join(self.addresses[i] for i, _ in self.running())

    def thole(self, *args, check=True, text=None):
        p = subprocess.run([self.bench.tool('thole'), '-e', self.endpoints(), '--command-timeout', '60s',
                            *(['--tls-ca', f'{self.pki}/ca.crt', '--tls-cert', f'{self.pki}/admin.crt',
                               '--tls-key', f'{self.pki}/admin.key'] if self.pki else []), *args],
                           input=text, capture_output=True, text=True)
        if check and p.returncode:
            raise RuntimeError(f'thole {" ".join(args)}: {p.stderr.strip()[-300:]}')
        return p.stdout

    def metrics(self):
        return Metrics([self.http(i, '/metrics') for i, _ in self.running()])

    def cpu(self):
        total = 0
        for _, d in self.running():
            fields = open(f'/proc/{d.pid}/stat').read().rsplit(')', 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def disk(self):
        """Bytes written to the disk below the directory by all processes: the counts of a process are of dirty pages."""
        device = os.stat(self.dir).st_dev
        try:
            with open(f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat') as f:
                return int(f.read().split()[6]) * 512
        except OSError:
            return 0

    def memory(self):
        return sum(int(re.search(r'^VmRSS:\s+(\d+)', open(f'/proc/{d.pid}/status').read(), re.M)[1]) * 1024
                   for _, d in self.running())

    def forget_peaks(self):
        for _, d in self.running():
            with open(f'/proc/{d.pid}/clear_refs', 'w') as f:
                f.write('5')

    def peaks(self):
        """The largest memory of each daemon since forget_peaks, in bytes."""
        return [int(re.search(r'^VmHWM:\s+(\d+)', open(f'/proc/{d.pid}/status').read(), re.M)[1]) * 1024
                for _, d in self.running()]

    def stored(self):
        total = 0
        for at, _, files in os.walk(self.dir):
            for f in files:
                try:
                    total += os.stat(os.path.join(at, f)).st_blocks * 512
                except OSError:
                    pass
        return total

    def make_shards(self, prefix, count, kind, seconds=600):
        # A host that joins later gets no replicas by itself.
        spec = f'type: {kind}, voters: 3, constraints: [{{key: bench, operator: EXISTS}}]'
        specs = '\n---\n'.join(f'kind: Shard\nname: {prefix}-{i}\nspec: {{{spec}}}' for i in range(count))
        self.thole('apply', '-f', '-', '--wait', '--timeout', f'{seconds}s', text=specs)

    def load(self, *args):
        """Starts shard_load; load_result returns its JSON."""
        p = subprocess.Popen([self.bench.tool('shard_load'), '--endpoints', self.endpoints(), *map(str, args)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.bench.started.append(p)
        return p

    def close(self):
        for _, d in self.running():
            d.terminate()
        for _, d in self.running():
            try:
                d.wait(20)
            except subprocess.TimeoutExpired:
                d.kill()
                d.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def measuring(p):
    """Wait until a shard_load is past its warm-up."""
    if not any(line.startswith('measuring') for line in p.stderr):
        raise RuntimeError('the load ended before it began')


def load_result(p):
    out, err = p.communicate()
    if p.returncode:
        raise RuntimeError(err.strip()[-300:])
    return json.loads(out)
