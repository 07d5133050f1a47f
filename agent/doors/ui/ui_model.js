// What the page knows of the cluster: rows that Cluster.Watch streams, and load that is asked of hosts.
"use strict";

const SHORT = /^(HOST_LIVENESS|HOST_STATE|HOST_DISK|REPLICA_PHASE|REPLICA_ROLE|REPLICA_DESIRED|OPERATION_STATE|OPERATION_KIND|REPLICA_OWNER)_/;

// "HOST_LIVENESS_LIVE" -> "live"
function word(value) {
  return String(value || "").replace(SHORT, "").toLowerCase().replaceAll("_", "-");
}

class CallError extends Error {
  constructor(status, body) {
    super(body.message || `HTTP ${status}`);
    this.status = status;
    this.code = body.code;
  }
}

const api = {
  token: sessionStorage.getItem("token") || "",

  async begin(call, request, signal) {
    const headers = { "Content-Type": "application/json" };
    if (api.token) {
      headers.Authorization = "Bearer " + api.token;
    }
    const answer = await fetch("/v1/" + call, { method: "POST", headers, body: JSON.stringify(request), signal });
    if (!answer.ok) {
      throw new CallError(answer.status, await answer.json().catch(() => ({})));
    }
    return answer;
  },

  async call(name, request) {
    return (await api.begin(name, request)).json();
  },

  // Each line is {"result": message}, or at the end {"error": status}.
  async stream(name, request, each) {
    const reader = (await api.begin(name, request)).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        return;
      }
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const message = line.trim() ? JSON.parse(line) : null;
        if (message && message.error) {
          throw new CallError(200, message.error);
        } else if (message && message.result) {
          each(message.result);
        }
      }
    }
  },
};

const EVENTS_MAX = 500;
const LOAD_MS = 3000;

const model = {
  hosts: new Map(), // by name
  shards: new Map(), // by name
  operations: new Map(), // by id
  replicas: new Map(), // by id
  byShard: new Map(), // name of a shard -> Set of replicas
  events: [], // the newest first
  revision: "0",
  complete: false,
  problem: "",
  needsToken: false,
  load: new Map(), // host -> {replicas: Map by id, cpu, at}
  changed() {},

  see(m) {
    if (m.host) {
      model.hosts.set(m.host.name, m.host);
    } else if (m.shard) {
      model.shards.set(m.shard.name, m.shard);
    } else if (m.operation) {
      model.operations.set(m.operation.id, m.operation);
    } else if (m.replica) {
      model.seeReplica(m.replica);
    } else if (m.event) {
      model.events.unshift(m.event);
      model.events.length = Math.min(model.events.length, EVENTS_MAX);
    } else if (m.deleted) {
      model.forget(m.deleted);
    }
    if (m.bookmark) {
      model.revision = m.revision;
      model.problem = "";
      if (!model.complete) {
        model.complete = true;
        model.oldEvents();
      }
    }
    if (model.complete) {
      model.changed();
    }
  },

  seeReplica(r) {
    const before = model.replicas.get(r.id);
    if (before) {
      model.byShard.get(before.shard).delete(before);
    }
    model.replicas.set(r.id, r);
    if (!model.byShard.has(r.shard)) {
      model.byShard.set(r.shard, new Set());
    }
    model.byShard.get(r.shard).add(r);
  },

  // hosts/h1, shards/orders, shards/orders/replicas/12, operations/7
  forget(name) {
    const [kind, one, , id] = name.split("/");
    if (kind === "shards" && id) {
      const r = model.replicas.get(id);
      model.replicas.delete(id);
      if (r) {
        model.byShard.get(r.shard).delete(r);
      }
    } else if (["hosts", "shards", "operations"].includes(kind)) {
      model[kind].delete(one);
    }
  },

  clear() {
    for (const rows of ["hosts", "shards", "operations", "replicas", "byShard"]) {
      model[rows].clear();
    }
    model.revision = "0";
    model.complete = false;
  },

  // A snapshot has no events: list those of the last revisions.
  async oldEvents() {
    const revision = BigInt(model.revision);
    const after = revision > 400n ? revision - 400n : 0n;
    try {
      const list = await api.call("Events/ListEvents", { afterRevision: String(after), pageSize: 500, stale: true });
      const known = new Set(model.events.map((e) => e.revision + e.object + e.reason));
      const old = (list.events || []).filter((e) => !known.has(e.revision + e.object + e.reason)).reverse();
      model.events = model.events.concat(old).slice(0, EVENTS_MAX);
      model.changed();
    } catch {
      // The page goes on without them.
    }
  },

  async follow() {
    for (;;) {
      try {
        await api.stream("Cluster/Watch", { fromRevision: model.revision }, model.see);
      } catch (e) {
        model.needsToken = e instanceof CallError && (e.status === 401 || e.status === 403 || e.code === 16);
        if (e instanceof CallError && e.code === 11) {
          model.clear(); // OUT_OF_RANGE: begin with a snapshot
        } else {
          model.problem = e.message;
        }
        model.changed();
        if (model.needsToken) {
          return; // until a token is given
        }
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  },

  // There is no stream of load: ask the live hosts, while somebody looks.
  async askLoad() {
    for (;;) {
      if (model.complete && !document.hidden) {
        const live = [...model.hosts.values()].filter((h) => word(h.status?.liveness) === "live");
        const names = new Set(live.map((h) => h.name));
        for (const name of model.load.keys()) {
          if (!names.has(name)) {
            model.load.delete(name);
          }
        }
        await Promise.all(live.map(model.askHost));
        model.changed();
      }
      await new Promise((done) => setTimeout(done, LOAD_MS));
    }
  },

  async askHost(host) {
    try {
      const status = await api.call("Cluster/Status", { host: host.name });
      const before = model.load.get(host.name);
      const at = performance.now();
      const load = { at, cpuSeconds: status.cpuSeconds || 0, replicas: new Map(), before };
      for (const r of status.replicas || []) {
        load.replicas.set(r.replicaId, r);
      }
      load.cpu = before ? Math.max(0, (load.cpuSeconds - before.cpuSeconds) / ((at - before.at) / 1000)) : 0;
      if (before) {
        before.before = undefined;
      }
      model.load.set(host.name, load);
    } catch {
      model.load.delete(host.name);
    }
  },

  // ---- What follows from the rows ----

  condition(shard, type) {
    return (shard.status?.conditions || []).find((c) => c.type === type);
  },

  isReady(shard) {
    const c = model.condition(shard, "Ready");
    return Boolean(c && c.status) && (shard.status.observedGeneration || "0") === (shard.generation || "0");
  },

  isDegraded(shard) {
    return Boolean(model.condition(shard, "Degraded")?.status);
  },

  why(shard) {
    const c = !model.isReady(shard) ? model.condition(shard, "Ready") : model.isDegraded(shard) ? model.condition(shard, "Degraded") : null;
    return c ? `${c.reason}: ${c.message || ""}` : model.isReady(shard) ? "" : "no report yet";
  },

  replicasOf(shard) {
    return [...(model.byShard.get(shard.name) || [])];
  },

  // Entries per second of a replica that leads, from two loads of its host.
  rateOf(load, replica) {
    const before = load.before?.replicas.get(replica.replicaId);
    return before ? Math.max(0, (Number(replica.commit || 0) - Number(before.commit || 0)) / ((load.at - load.before.at) / 1000)) : 0;
  },

  // Commit and rate of the leader, and each replica's lag in entries.
  loadOf(shard) {
    const result = { rate: 0, lag: 0, leader: shard.status?.leaderHost || "", lags: new Map() };
    let commit = 0;
    for (const r of model.replicasOf(shard)) {
      const load = model.load.get(r.host);
      const now = load?.replicas.get(r.id);
      if (now && now.role === "leader") {
        commit = Number(now.commit || 0);
        result.leader = r.host;
        result.rate = model.rateOf(load, now);
      }
    }
    for (const r of model.replicasOf(shard)) {
      const now = model.load.get(r.host)?.replicas.get(r.id);
      const lag = now && commit ? Math.max(0, commit - Number(now.applied || 0)) : 0;
      result.lags.set(r.id, lag);
      result.lag = Math.max(result.lag, word(r.role) === "witness" ? 0 : lag);
    }
    return result;
  },

  zone(host) {
    return host?.spec?.tags?.zone || "";
  },

  sortedHosts() {
    return [...model.hosts.values()].sort((a, b) => model.zone(a).localeCompare(model.zone(b)) || byName(a, b));
  },
};

const collator = new Intl.Collator("en", { numeric: true });
function byName(a, b) {
  return collator.compare(a.name, b.name);
}
