// The pages. Everything is built from text nodes, so nothing that a row says can become markup.
"use strict";

const ROWS_MAX = 200; // of a table, before somebody asks for more
const FRAME_MS = 300; // changes are drawn together

const view = { filter: "", limit: ROWS_MAX, report: null, reportOf: "" };
const main = document.getElementById("main");
const search = document.getElementById("search");

// h("td", {class: "number"}, "7", node, [more])
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(2).filter((c) => c !== undefined && c !== null && c !== ""));
  return node;
}

function pill(text, kind) {
  return h("span", { class: "pill " + (kind || "") }, text);
}

function number(value) {
  return value < 0.05 ? "0" : value < 10 ? value.toFixed(1) : value < 1e4 ? value.toFixed(0) : value < 1e6 ? (value / 1e3).toFixed(1) + "k" : (value / 1e6).toFixed(1) + "M";
}

function clock(ms) {
  return ms ? new Date(Number(ms)).toLocaleTimeString([], { hour12: false }) : "";
}

function ago(ms) {
  const s = Math.max(0, (Date.now() - Number(ms)) / 1000);
  return !Number(ms) ? "" : s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

function bytes(n) {
  return n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(0)} KiB` : n < 1073741824 ? `${(n / 1048576).toFixed(0)} MiB` : `${(n / 1073741824).toFixed(1)} GiB`;
}

const shardLink = (name) => h("a", { href: "#/shard/" + encodeURIComponent(name) }, name);
const hostLink = (name) => (name ? h("a", { href: "#/host/" + encodeURIComponent(name) }, name) : h("span", { class: "soft" }, "none"));

function table(heads, rows, empty) {
  const head = h("tr", {}, heads.map((t) => (typeof t === "string" ? h("th", { class: t.startsWith(">") ? "number" : "", scope: "col" }, t.replace(/^>/, "")) : t)));
  const body = rows.length ? rows : [h("tr", {}, h("td", { colspan: heads.length, class: "soft" }, empty || "none"))];
  return h("div", { class: "wide" }, h("table", {}, h("thead", {}, head), h("tbody", {}, body)));
}

function livenessPill(host) {
  const is = word(host.status?.liveness) || "unknown";
  return pill(is, is === "live" ? "good" : is === "dead" ? "bad" : "warn");
}

function statePill(host) {
  const is = word(host.spec?.state) || "active";
  return is === "active" ? h("span", { class: "soft" }, "active") : pill(is, "warn");
}

// ---- Overview ----

function card(label, value, kind, href) {
  return h(href ? "a" : "div", { class: "card " + (kind || ""), href }, h("b", {}, String(value)), h("span", {}, label));
}

function counts() {
  const hosts = [...model.hosts.values()];
  const shards = [...model.shards.values()];
  let rate = 0;
  for (const load of model.load.values()) {
    for (const r of load.replicas.values()) {
      rate += r.role === "leader" ? model.rateOf(load, r) : 0;
    }
  }
  return {
    hosts: hosts.length, live: hosts.filter((x) => word(x.status?.liveness) === "live").length,
    shards: shards.length, ready: shards.filter(model.isReady).length, degraded: shards.filter(model.isDegraded).length,
    running: [...model.operations.values()].filter((o) => !Number(o.endTimeMs)).length, rate,
  };
}

function overview() {
  const c = counts();
  const problems = [...model.shards.values()].filter((s) => !model.isReady(s) || model.isDegraded(s)).sort(byName);
  return [
    h("div", { class: "cards" },
      card("hosts live", `${c.live}/${c.hosts}`, c.live < c.hosts ? "bad" : "", "#/hosts"),
      card("shards ready", `${c.ready}/${c.shards}`, c.ready < c.shards ? "bad" : "", "#/shards"),
      card("shards degraded", c.degraded, c.degraded ? "warn" : "", "#/shards"),
      card("entries per second", number(c.rate)),
      card("operations running", c.running, "", "#/operations")),
    h("h2", {}, "Hosts"), hostTable(),
    h("h2", {}, "Not as wanted"),
    table(["Shard", "Why"], problems.slice(0, 8).map((s) => h("tr", {}, h("td", { class: "name" }, shardLink(s.name)), h("td", { class: "what" }, model.why(s)))), "all shards are as their specs want them"),
    problems.length > 8 ? h("p", { class: "more" }, h("a", { href: "#/shards" }, `and ${problems.length - 8} more`)) : "",
    c.running ? [h("h2", {}, "Operations"), operationTable(true)] : "",
    h("h2", {}, "Newest events"), eventTable(model.events.slice(0, 12)),
  ];
}

// ---- Hosts ----

function hostTable() {
  const onHost = new Map();
  for (const r of model.replicas.values()) {
    onHost.set(r.host, (onHost.get(r.host) || 0) + 1);
  }
  const leaders = new Map();
  for (const s of model.shards.values()) {
    const leader = s.status?.leaderHost;
    leaders.set(leader, (leaders.get(leader) || 0) + 1);
  }
  return table(["Host", "Zone", "Liveness", "State", ">Leaders", ">Replicas", ">CPU", "Address", "Version"],
    model.sortedHosts().filter((x) => matches(x.name, model.zone(x), word(x.status?.liveness), word(x.spec?.state))).map((x) => {
      const load = model.load.get(x.name);
      return h("tr", {}, h("td", { class: "name" }, hostLink(x.name)), h("td", {}, model.zone(x)), h("td", {}, livenessPill(x)),
        h("td", {}, statePill(x)), h("td", { class: "number" }, String(leaders.get(x.name) || 0)),
        h("td", { class: "number" }, String(onHost.get(x.name) || 0)), h("td", { class: "number" }, load ? (100 * load.cpu).toFixed(0) + "%" : ""),
        h("td", {}, x.status?.address), h("td", { class: "soft" }, x.status?.version));
    }));
}

async function askReport(name) {
  view.reportOf = name;
  view.report = { waiting: true };
  draw();
  try {
    view.report = await api.call("Diagnostics/GetHostReport", { name });
    view.report.proposals = histogram(view.report.metrics || "", "thole_engine_proposal_seconds");
  } catch (e) {
    view.report = { error: e.message };
  }
  draw();
}

// The buckets of one histogram in Prometheus' text: [[upper bound, count], ...], not cumulated.
function histogram(text, name) {
  const found = [];
  let before = 0;
  for (const line of text.split("\n")) {
    const match = line.startsWith(name + "_bucket{") && /le="([^"]+)"\} (\d+)/.exec(line);
    if (match) {
      found.push([Number(match[1].replace("+Inf", "Infinity")), Number(match[2]) - before]);
      before = Number(match[2]);
    }
  }
  return found;
}

function duration(s) {
  return !isFinite(s) ? "more" : s < 1e-3 ? `${Math.round(s * 1e6)} µs` : s < 1 ? `${Math.round(s * 1e3)} ms` : `${s.toFixed(0)} s`;
}

function latency(all) {
  const total = all.reduce((sum, [, n]) => sum + n, 0);
  if (!total) {
    return h("p", { class: "soft" }, "No proposal was appended here since the start.");
  }
  const first = all.findIndex(([, n]) => n > 0);
  const last = all.findLastIndex(([, n]) => n > 0);
  const shown = all.slice(Math.max(0, first - 1), last + 2);
  const most = Math.max(...shown.map(([, n]) => n));
  const bars = shown.map(([le, n]) => {
    const bar = h("div", { class: "bar", title: `up to ${duration(le)}: ${n}` });
    bar.style.height = `${(100 * n) / most}%`;
    return bar;
  });
  return h("div", { class: "wide", role: "img", "aria-label": `Histogram of ${total} proposals` },
    h("div", { class: "bars" }, bars), h("div", { class: "axis" }, shown.map(([le]) => h("span", {}, duration(le)))));
}

function hostReport(name) {
  const report = view.reportOf === name ? view.report : null;
  const again = h("button", { type: "button", onclick: () => askReport(name) }, "Refresh");
  if (!report || report.waiting) {
    return h("p", { class: "soft" }, "Asking the host ...");
  } else if (report.error) {
    return [h("p", {}, "No report: " + report.error), again];
  }
  const lines = (report.log || "").trimEnd().split("\n").slice(-80).reverse();
  return [
    h("h2", {}, "Latency of proposals, from append to answer, since its start"), latency(report.proposals),
    h("h2", {}, "Newest log lines ", pill("levels " + (report.logLevels || ""))), h("div", { class: "wide" }, h("pre", { tabindex: "0" }, lines.join("\n"))),
    h("p", { class: "more" }, again),
    h("h2", {}, "Settings"), h("div", { class: "wide" }, h("dl", {}, (report.settings || []).map((s) => [h("dt", {}, s.name), h("dd", {}, s.value || "")]), h("dt", {}, "system"), h("dd", {}, report.system || ""))),
  ];
}

function hostPage(name) {
  const x = model.hosts.get(name);
  if (!x) {
    return [h("h1", {}, name), h("p", {}, "There is no such host.")];
  }
  if (view.reportOf !== name) {
    setTimeout(() => askReport(name));
  }
  const load = model.load.get(name);
  const mine = [...model.replicas.values()].filter((r) => r.host === name && matches(r.shard)).sort((a, b) => collator.compare(a.shard, b.shard));
  const tags = Object.entries(x.spec?.tags || {}).map(([k, v]) => `${k}=${v}`).join(", ");
  return [
    h("h1", {}, name, " ", livenessPill(x), " ", statePill(x)),
    h("div", { class: "wide" }, h("dl", {},
      h("dt", {}, "Address"), h("dd", {}, x.status?.address || ""), h("dt", {}, "Tags"), h("dd", {}, tags || "none"),
      h("dt", {}, "Version"), h("dd", {}, x.status?.version || ""), h("dt", {}, "Starts"), h("dd", {}, x.status?.incarnation || ""),
      h("dt", {}, "Disk"), h("dd", {}, word(x.status?.disk) || "not reported"), h("dt", {}, "CPU"), h("dd", {}, load ? `${(100 * load.cpu).toFixed(0)}% of a processor` : "unknown"),
      h("dt", {}, "Machine types"), h("dd", {}, (x.status?.machineTypes || []).map((t) => t.name).join(", ")))),
    hostReport(name),
    h("h2", {}, `Replicas (${mine.length})`),
    table(["Shard", "Role", "Phase", ">Applied", ">Log", "Message"], mine.slice(0, view.limit).map((r) => {
      const now = load?.replicas.get(r.id);
      return h("tr", {}, h("td", { class: "name" }, shardLink(r.shard)), h("td", {}, now?.role === "leader" ? pill("leader", "good") : word(r.role)), h("td", {}, word(r.phase)),
        h("td", { class: "number" }, now?.applied || ""), h("td", { class: "number" }, now ? bytes(Number(now.logBytes || 0)) : ""), h("td", { class: "what" }, r.message));
    })), moreButton(mine.length),
    h("h2", {}, "Events"), eventTable(model.events.filter((e) => e.object === "hosts/" + name || e.actor === "host/" + name).slice(0, 20)),
  ];
}

// ---- Shards ----

function matches(...texts) {
  return !view.filter || texts.some((t) => String(t || "").toLowerCase().includes(view.filter));
}

function moreButton(count) {
  return count > view.limit ? h("p", { class: "more" }, h("button", { type: "button", onclick: () => { view.limit += 1000; draw(); } }, `Show more (${count - view.limit} left)`)) : "";
}

// What a host has of a shard: [sign, kind, words].
function cellOf(replica, host, load) {
  const phase = word(replica.phase);
  if (phase === "failed") {
    return ["!", "bad", "failed"];
  } else if (word(host.status?.liveness) !== "live") {
    return ["?", "bad", "its host does not answer"];
  } else if (word(replica.desired) === "remove") {
    return ["x", "warn", "being removed"];
  } else if (phase !== "running") {
    return ["+", "warn", phase || "waiting"];
  } else if (load.leader === host.name) {
    return ["L", "lead", "leader"];
  }
  const role = word(replica.role);
  return [role === "voter" ? "v" : role === "witness" ? "w" : "n", "", role];
}

function shardCell(shard, host, load) {
  const replica = model.replicasOf(shard).find((r) => r.host === host.name);
  if (!replica) {
    return h("td", { class: "cell" }, h("span", { class: "glyph none" }, "·"));
  }
  const [sign, kind, words] = cellOf(replica, host, load);
  const lag = load.lags.get(replica.id) || 0;
  return h("td", { class: "cell" }, h("span", { class: "glyph " + kind, title: `${host.name}: ${words}` }, sign), lag > 0 ? h("span", { class: "lag" }, `−${number(lag)}`) : "");
}

function shardRow(shard, hosts) {
  const load = model.loadOf(shard);
  const ready = model.isReady(shard);
  return h("tr", { class: ready ? (model.isDegraded(shard) ? "warn" : "") : "bad" }, h("td", { class: "name" }, shardLink(shard.name)), h("td", { class: "soft" }, shard.spec?.type), hosts.map((x) => shardCell(shard, x, load)),
    h("td", { class: "number" }, number(load.rate)), h("td", { class: "number" }, String(load.lag)),
    h("td", { class: "what" }, ready ? pill(model.isDegraded(shard) ? "degraded" : "ready", model.isDegraded(shard) ? "warn" : "good") : pill("not ready", "bad"), " ", h("span", { class: "soft" }, model.why(shard))));
}

// Many shards with one spec are one row, unless somebody looks for them.
function poolRow(pool, shards, hosts) {
  const ready = shards.filter(model.isReady).length;
  const loads = shards.map(model.loadOf);
  const open = () => { search.value = pool + "-"; view.filter = search.value.toLowerCase(); draw(); };
  return h("tr", {}, h("td", { class: "name" }, h("button", { type: "button", onclick: open }, `${pool} (${shards.length} shards)`)), h("td", { class: "soft" }, "pool"),
    hosts.map((x) => h("td", { class: "cell" }, h("span", { class: "glyph", title: "leaders on " + x.name }, String(shards.filter((s) => s.status?.leaderHost === x.name).length)))),
    h("td", { class: "number" }, number(loads.reduce((sum, l) => sum + l.rate, 0))), h("td", { class: "number" }, String(Math.max(0, ...loads.map((l) => l.lag)))),
    h("td", { class: "what" }, pill(`${ready} of ${shards.length} ready`, ready < shards.length ? "bad" : "good")));
}

function shardsPage() {
  const hosts = model.sortedHosts().slice(0, 24);
  const zoned = hosts.some(model.zone);
  const heads = ["Shard", "Type", ...hosts.map((x) => h("th", { class: "host", scope: "col" }, hostLink(x.name), zoned ? h("span", { class: "zone" }, model.zone(x)) : "")), ">Entries/s", ">Lag", "State"];
  let shards = [...model.shards.values()].filter((s) => matches(s.name, s.spec?.type, s.status?.leaderHost, model.why(s)));
  const bad = (s) => !model.isReady(s) || model.isDegraded(s);
  const rows = [];
  if (!view.filter && shards.length > ROWS_MAX) {
    const pools = Map.groupBy ? Map.groupBy(shards, (s) => s.pool || "") : new Map([["", shards]]);
    for (const [pool, members] of [...pools].sort(([a], [b]) => collator.compare(a, b))) {
      if (pool) {
        rows.push(poolRow(pool, members, hosts));
      }
    }
    shards = shards.filter((s) => !s.pool || bad(s));
  }
  shards.sort((a, b) => bad(b) - bad(a) || byName(a, b));
  rows.push(...shards.slice(0, view.limit).map((s) => shardRow(s, hosts)));
  return [
    h("h1", {}, "Shards"),
    h("p", { class: "legend" }, "L leader · v voter · n non-voting · w witness · + not running yet · x being removed · ! failed · ? its host does not answer · −N entries behind"),
    table(heads, rows, view.filter ? "no shard matches the filter" : "none"), moreButton(shards.length),
  ];
}

function shardPage(name) {
  const s = model.shards.get(name);
  if (!s) {
    return [h("h1", {}, name), h("p", {}, "There is no such shard.")];
  }
  const load = model.loadOf(s);
  const replicas = model.replicasOf(s).sort((a, b) => collator.compare(a.host, b.host));
  const good = (c) => Boolean(c.status) !== (c.type === "Degraded");
  return [
    h("h1", {}, name, " ", model.isReady(s) ? pill("ready", "good") : pill("not ready", "bad"), " ", s.deleting ? pill("being deleted", "warn") : ""),
    h("div", { class: "cards" }, card("machine type", s.spec?.type || ""), card("leader", load.leader || "none", load.leader ? "" : "bad"), card("term", s.status?.leaderTerm || "0"), card("entries per second", number(load.rate)), card("entries behind", load.lag)),
    h("h2", {}, "Conditions"),
    table(["Condition", "Is", "Reason", "Why", "Since"], (s.status?.conditions || []).map((c) => h("tr", {}, h("td", {}, c.type), h("td", {}, pill(c.status ? "true" : "false", good(c) ? "good" : "bad")), h("td", {}, c.reason), h("td", { class: "what" }, c.message), h("td", { class: "time" }, ago(c.transitionTimeMs))))),
    h("h2", {}, "Replicas"),
    table(["Host", "Zone", "Role", "Phase", ">Term", ">Commit", ">Applied", ">Behind", ">Log", "Message"], replicas.map((r) => {
      const host = model.hosts.get(r.host);
      const now = model.load.get(r.host)?.replicas.get(r.id);
      const [, kind, words] = cellOf(r, host || { name: r.host }, load);
      return h("tr", {}, h("td", {}, hostLink(r.host)), h("td", {}, model.zone(host)), h("td", {}, pill(words, kind === "lead" ? "good" : kind)), h("td", {}, word(r.phase)), h("td", { class: "number" }, now?.term || ""), h("td", { class: "number" }, now?.commit || ""),
        h("td", { class: "number" }, now?.applied || ""), h("td", { class: "number" }, String(load.lags.get(r.id) || 0)), h("td", { class: "number" }, now ? bytes(Number(now.logBytes || 0)) : ""), h("td", { class: "what" }, now?.failure || r.message));
    })),
    h("h2", {}, "Spec"), h("div", { class: "wide" }, h("pre", { tabindex: "0" }, JSON.stringify({ ...s.spec, config: s.spec?.config ? "(hidden)" : undefined }, null, 2))),
    h("h2", {}, "Events"), eventTable(model.events.filter((e) => e.object === "shards/" + name || e.object?.startsWith(`shards/${name}/`)).slice(0, 50)),
    h("p", { class: "soft" }, "How long proposals take is on the page of the leader's host."),
  ];
}

// ---- Operations and events ----

async function cancel(operation) {
  if (confirm(`Cancel operation ${operation.id}, ${word(operation.kind)} ${operation.target || ""}? What has moved stays where it is.`)) {
    try {
      await api.call("Operations/CancelOperation", { id: operation.id });
    } catch (e) {
      alert("Not cancelled: " + e.message);
    }
  }
}

function operationTable(running) {
  const all = [...model.operations.values()].filter((o) => !running || !Number(o.endTimeMs)).filter((o) => matches(o.target, word(o.kind), o.actor, word(o.state)))
    .sort((a, b) => !Number(b.endTimeMs) - !Number(a.endTimeMs) || Number(b.id) - Number(a.id));
  return table([">Id", "Operation", "Target", "State", "Progress", "What", "By", "Began", ""], all.slice(0, view.limit).map((o) => {
    const over = Number(o.endTimeMs) > 0;
    const state = word(o.state);
    return h("tr", {}, h("td", { class: "number" }, o.id), h("td", {}, word(o.kind)), h("td", {}, o.target), h("td", {}, pill(state, state === "done" ? "good" : state === "failed" ? "bad" : state === "cancelled" ? "warn" : "")),
      h("td", {}, o.total ? [h("progress", { max: o.total, value: o.done || 0, "aria-label": "Progress" }), ` ${o.done || 0}/${o.total}`] : ""), h("td", { class: "what" }, [over ? "" : o.step, o.message].filter(Boolean).join(": ")), h("td", {}, o.actor), h("td", { class: "time" }, ago(o.startTimeMs)),
      h("td", {}, over ? "" : h("button", { type: "button", onclick: () => cancel(o) }, "Cancel")));
  }), "no operation");
}

function objectLink(object) {
  const [kind, name, ...rest] = String(object || "").split("/");
  const tail = rest.length ? " " + rest.join(" ") : "";
  return kind === "shards" ? [shardLink(name), tail] : kind === "hosts" ? hostLink(name) : object;
}

function eventTable(events) {
  return table(["Time", "Object", "Event", "What", "By"], events.map((e) => h("tr", {}, h("td", { class: "soft", title: new Date(Number(e.timeMs)).toISOString() }, clock(e.timeMs)), h("td", { class: "name" }, objectLink(e.object)), h("td", {}, e.reason), h("td", { class: "what" }, e.message, Number(e.count) > 1 ? ` (${e.count} times)` : ""), h("td", { class: "soft" }, e.actor))), "no event yet");
}

// ---- The page ----

function tokenForm() {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const form = h("form", { class: "token" }, h("h1", {}, "A token is needed"), h("p", {}, model.problem), h("label", { for: "token" }, "thole token create --for USER prints one. It stays in this tab."), input, h("button", {}, "Use it"));
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    api.token = input.value.trim();
    sessionStorage.setItem("token", api.token);
    model.needsToken = false;
    model.follow();
    draw();
  });
  return form;
}

function pageOf(hash) {
  const [, page, name] = hash.replace(/^#/, "").split("/");
  return { page: page || "overview", name: name ? decodeURIComponent(name) : "" };
}

function content({ page, name }) {
  if (model.needsToken) {
    return main.querySelector("form.token") || tokenForm(); // what was typed stays
  } else if (!model.complete) {
    return h("p", { class: "soft" }, model.problem || "Reading the cluster's rows ...");
  }
  switch (page) {
    case "shards": return shardsPage();
    case "shard": return shardPage(name);
    case "hosts": return [h("h1", {}, "Hosts"), hostTable()];
    case "host": return hostPage(name);
    case "operations": return [h("h1", {}, "Operations"), operationTable(false)];
    case "events": return [h("h1", {}, "Events"), eventTable(model.events.filter((e) => matches(e.object, e.reason, e.message, e.actor)).slice(0, view.limit))];
    default: return overview();
  }
}

// What has the focus, or is scrolled, in a page that is drawn anew.
function placeOf(node) {
  const all = [...main.querySelectorAll("a, button, pre, input")];
  return { index: all.indexOf(node), scrolls: [...main.querySelectorAll("pre, .wide")].map((n) => [n.scrollTop, n.scrollLeft]) };
}

function draw() {
  const where = pageOf(location.hash);
  const place = placeOf(document.activeElement);
  if (!main.contains(document.activeElement) || document.activeElement.tagName !== "INPUT" || !model.needsToken) {
    main.replaceChildren(...[content(where)].flat(3).filter(Boolean));
  }
  [...main.querySelectorAll("pre, .wide")].forEach((n, i) => ([n.scrollTop, n.scrollLeft] = place.scrolls[i] || [0, 0]));
  if (place.index >= 0) {
    main.querySelectorAll("a, button, pre, input")[place.index]?.focus({ preventScroll: true });
  }
  for (const a of document.querySelectorAll("nav a")) {
    const current = a.dataset.page === where.page || a.dataset.page === where.page + "s";
    a.toggleAttribute("aria-current", current);
  }
  const link = document.getElementById("link");
  link.textContent = model.problem ? "not connected: " + model.problem : model.complete ? "live" : "";
  link.className = model.problem ? "bad" : "";
  document.title = (where.name || where.page[0].toUpperCase() + where.page.slice(1)) + " · Thole";
}

let due = 0;
model.changed = () => {
  if (!due) {
    due = setTimeout(() => { due = 0; requestAnimationFrame(draw); }, FRAME_MS);
  }
};

search.addEventListener("input", () => {
  view.filter = search.value.trim().toLowerCase();
  view.limit = ROWS_MAX;
  const page = pageOf(location.hash).page;
  if (view.filter && page === "overview") {
    location.hash = "#/shards";
  }
  draw();
});
addEventListener("hashchange", () => { view.limit = ROWS_MAX; draw(); scrollTo(0, 0); main.focus({ preventScroll: true }); });
addEventListener("keydown", (e) => {
  const typing = e.target.tagName === "INPUT";
  if (e.key === "Escape" && e.target === search) {
    search.value = view.filter = "";
    search.blur();
    draw();
  } else if (!typing && !e.ctrlKey && !e.metaKey && !e.altKey) {
    if (e.key === "/") {
      e.preventDefault();
      search.focus();
    } else if (e.key >= "1" && e.key <= "5") {
      document.querySelectorAll("nav a")[Number(e.key) - 1].click();
    }
  }
});
model.follow();
model.askLoad();
draw();
