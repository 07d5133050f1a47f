/* Clients: each has one operation at a time, on a register of a shard, at a host that need not be
 * the leader's. Some write in a session and retry until they know the outcome. Some write with
 * request ids and retry while the id is remembered, by the slowest clock. The others never
 * retry. */
#include <inttypes.h>
#include <stdlib.h>

#include "shards/sim/sim_internal.h"

struct op {
    struct engine_request r;
    struct sim *s;
    struct client *c; /* NULL: a probe of the last phase */
    struct sim_host *host;
    struct shard *shard;
    struct key *key;
    uint64_t handle, value;
    bool maybe; /* an earlier attempt may have taken effect */
    uint8_t id[8];
    bool reused;         /* the id of an earlier command, which may be remembered or not */
    uint64_t give_up_ns; /* with a request id: no attempt may be under way later */
    void (*probed)(struct sim *s, struct shard *shard, int host, bool ok);
};

static void step(struct sim *s, void *arg);

static void op_done(struct engine_request *r);

static struct rand *dice(struct sim *s)
{
    return &s->rand[SIM_RAND_CLIENT];
}

static void again(struct client *c)
{
    struct sim *s = c->s;
    uint64_t pause = s->c.think_ns;
    if (!s->o.bench) {
        pause = rand_below(dice(s), 2 * pause + 1);
    }
    uint64_t from = s->lull_until_ns > s->now_ns ? s->lull_until_ns : s->now_ns;
    sim__at(s, from + pause, step, c);
}

/* ---- Operations ------------------------------------------------------------------------------ */

static struct bufslice payload_of(struct op *o)
{
    size_t size = 8;
    if (o->r.kind == ENGINE_PROPOSE) {
        size = KV_COMMAND_BYTES;
        if (!o->s->o.bench) { /* the padding depends on the value: a retry is the same command */
            size += o->value * 7919 % 200 + (o->value % 97 == 0 ? 20000 : 0);
        }
    }
    struct buf *b = buf_new(size);
    put_be64(b->data, o->key->number);
    if (size > 8) {
        put_be64(b->data + 8, o->value);
    }
    for (size_t i = KV_COMMAND_BYTES; i < size; i++) {
        b->data[i] = (uint8_t)(o->value + i);
    }
    return (struct bufslice){b, slice_of(b->data, b->size)};
}

static void submit(struct op *o, struct sim_host *h)
{
    struct sim *s = o->s;
    o->host = h;
    if (o->r.kind == ENGINE_PROPOSE || o->r.kind == ENGINE_QUERY) {
        o->r.payload = payload_of(o);
    }
    uint64_t patience_ns =
        rand_between(dice(s), 40, rand_chance(dice(s), 0.5) ? 400 : 4000) * SIM_MS;
    if (o->r.request_id.size > 0 && s->now_ns + patience_ns > o->give_up_ns) {
        patience_ns = o->give_up_ns > s->now_ns ? o->give_up_ns - s->now_ns : SIM_MS;
    }
    o->r.deadline_ns = sim__host_clock(h) + patience_ns;
    s->op_count++;
    ASSERT(o->shard != NULL);
    SIM_TRACE(s,
              "host %d: shard %" PRIu64 " is asked: kind %d, key %" PRIu64 ", value %" PRIx64
              ", session %" PRIu64 "/%" PRIu64,
              h->id, o->shard->id, (int)o->r.kind, o->key != NULL ? o->key->number : 0, o->value,
              o->r.session, o->r.sequence);
    engine_submit(h->engine, &o->r);
}

static struct op *op_new(struct sim *s, struct client *c, struct shard *shard,
                         enum engine_request_kind kind)
{
    struct op *o = xcalloc(1, sizeof *o);
    ASSERT(shard != NULL);
    o->s = s;
    o->c = c;
    o->shard = shard;
    o->r.kind = kind;
    o->r.shard_id = shard->id;
    o->r.done = op_done;
    return o;
}

/* A register that may be used; NULL if all are being replaced. */
static struct key *pick_key(struct sim *s, struct shard *shard)
{
    struct key *key = &shard->keys[rand_below(dice(s), SIM_KEYS)];
    if (linear_open_count(key->history) < SIM_OPEN_MAX && !key->lost) {
        return key;
    }
    if (key->running > 0) {
        return NULL;
    }
    enum linear_verdict v = key->lost ? LINEAR_OK : linear_check(key->history, true);
    if (v == LINEAR_VIOLATION) {
        sim__fail(s, "shard %" PRIu64 ", key %" PRIu64 ": the history is not linearizable",
                  shard->id, key->number);
    }
    s->report->inconclusive += v == LINEAR_INCONCLUSIVE;
    linear_free(key->history);
    *key = (struct key){++shard->key_number, linear_new(0), 0, false};
    return key;
}

static void begin(struct op *o, struct key *key, bool write)
{
    o->key = key;
    key->running++;
    if (write) {
        o->value = ++o->s->value;
        o->handle = linear_swap(key->history, o->value);
        o->s->report->proposals++;
    } else {
        o->handle = linear_read(key->history);
        o->s->report->reads++;
    }
}

/* ---- Clients --------------------------------------------------------------------------------- */

static struct sim_host *pick_host(struct client *c, struct shard *shard, bool read)
{
    struct sim *s = c->s;
    int h = c->host;
    if (s->o.bench) {
        h = sim__leader(s, shard);
    } else if (read || rand_chance(dice(s), 0.05)) {
        h = (int)rand_below(dice(s), (uint64_t)s->c.hosts);
    }
    if (h < 0 || s->hosts[h].engine == NULL || s->hosts[h].ending) {
        return NULL;
    }
    return &s->hosts[h];
}

static void elsewhere(struct client *c)
{
    c->host = (int)rand_below(dice(c->s), (uint64_t)c->s->c.hosts);
}

static void open_session(struct client *c)
{
    struct sim_host *h = pick_host(c, c->shard, false);
    if (h == NULL) {
        elsewhere(c);
        again(c);
        return;
    }
    submit(op_new(c->s, c, c->shard, ENGINE_OPEN_SESSION), h);
}

static void close_session(struct client *c)
{
    struct sim_host *h = pick_host(c, c->shard, false);
    if (h != NULL) {
        struct op *o = op_new(c->s, c, c->shard, ENGINE_CLOSE_SESSION);
        o->r.session = c->session;
        submit(o, h);
        return;
    }
    elsewhere(c);
    again(c);
}

/* Mostly a new id. Sometimes that of an earlier command of this client, about when it is forgotten:
 * then all replicas must agree on whether it is. */
static void choose_id(struct client *c, struct op *o)
{
    struct sim *s = c->s;
    uint64_t window_ns = s->c.request_id_ms * SIM_MS, id = o->value;
    struct used_id *used = &c->used;
    bool old = used->id != 0 && s->now_ns - used->used_ns > window_ns / 10 * 8;
    if (old && used->shard == o->shard) {
        id = used->id;
        o->reused = true;
    }
    if (used->id == 0 || old) {
        *used = (struct used_id){o->shard, o->reused ? 0 : id, s->now_ns};
    }
    put_be64(o->id, id);
    o->r.request_id = slice_of(o->id, sizeof o->id);
    /* The leader's clock may run 10% fast, and a leader that was cut off may count too much. */
    o->give_up_ns = s->now_ns + window_ns / 10 * 4;
}

/* The id may be forgotten before another attempt arrives: the outcome stays unknown. */
static void give_up(struct client *c)
{
    struct op *o = c->retry;
    c->retry = NULL;
    linear_open(o->key->history, o->handle);
    o->key->running--;
    free(o);
    again(c);
}

static void step(struct sim *s, void *arg)
{
    struct client *c = arg;
    if (s->calm && c->retry == NULL) {
        return;
    }
    if (c->shard != NULL && c->session == 0 && c->retry == NULL) {
        open_session(c);
        return;
    }
    if (c->session != 0 && c->retry == NULL && rand_chance(dice(s), 0.02)) {
        close_session(c);
        return;
    }
    struct op *o = c->retry;
    if (o != NULL && o->r.request_id.size > 0 && s->now_ns >= o->give_up_ns) {
        give_up(c);
        return;
    }
    struct shard *shard = o != NULL ? o->shard : c->shard;
    bool read = o == NULL && rand_chance(dice(s), s->c.reads);
    if (shard == NULL) {
        shard = &s->shards[rand_below(dice(s), (uint64_t)s->c.groups)];
    }
    struct sim_host *h = pick_host(c, shard, read);
    struct key *key = o != NULL ? NULL : pick_key(s, shard);
    if (h == NULL || (o == NULL && key == NULL)) {
        elsewhere(c);
        again(c);
        return;
    }
    c->retry = NULL;
    if (o == NULL) {
        o = op_new(s, c, shard, read ? ENGINE_QUERY : ENGINE_PROPOSE);
        begin(o, key, !read);
        if (!read && c->shard != NULL) {
            o->r.session = c->session;
            o->r.sequence = ++c->sequence;
        } else if (!read && c->with_ids) {
            choose_id(c, o);
        }
    }
    submit(o, h);
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void redirect(struct client *c, const struct engine_request *r)
{
    if (r->status.reason == THOLE_REASON_NOT_LEADER && !uuid_is_nil(&r->leader_host)) {
        c->host = r->leader_host.bytes[15] - 1;
    } else {
        elsewhere(c);
    }
}

static void refused(struct op *o)
{
    struct sim *s = o->s;
    linear_refused(o->key->history, o->handle);
    if (o->r.kind != ENGINE_PROPOSE) {
        return;
    }
    (void)map_put(&o->shard->refused, o->value, s);
    if (map_get(&o->shard->executed, o->value) != NULL) {
        sim__fail(s, "shard %" PRIu64 ": command %" PRIx64 " was executed and is refused (%s): %s",
                  o->shard->id, o->value, thole_reason_name(o->r.status.reason),
                  o->r.status.message);
    }
}

/* An answer of a replica of a lost group: only the history shows whether it is right. */
static bool answered_by_superseded(const struct op *o)
{
    const struct replica *r =
        o->host->engine != NULL ? map_get(&o->host->engine->by_shard, o->shard->id) : NULL;
    const struct member *m = r != NULL ? sim__shadow_member(o->s, r->replica_id) : NULL;
    return m != NULL && sim__replica_superseded(m, r);
}

static void wrote(struct op *o)
{
    struct sim *s = o->s;
    const struct executed *e = map_get(&o->shard->executed, o->value);
    bool own = e != NULL && e->index == o->r.index;
    if (o->reused && o->r.duplicate && !own && o->maybe) {
        linear_open(o->key->history, o->handle); /* an earlier attempt may still take effect */
        return;
    }
    if (o->reused && o->r.duplicate && !own) {
        refused(o); /* the id is that of the earlier command */
        return;
    }
    linear_return(o->key->history, o->handle, o->r.code);
    if (answered_by_superseded(o)) {
        return;
    }
    bool same = o->r.result.bytes.size == 8 && get_be64(o->r.result.bytes.data) == o->r.code;
    if (e == NULL || e->index != o->r.index || e->result != o->r.code || !same) {
        sim__fail(s,
                  "shard %" PRIu64 ": command %" PRIx64 " is answered with index %" PRIu64
                  " and %" PRIx64 " (%zu bytes), it was executed at %" PRIu64 " with %" PRIx64,
                  o->shard->id, o->value, o->r.index, o->r.code, o->r.result.bytes.size,
                  e != NULL ? e->index : 0, e != NULL ? e->result : 0);
    }
    if (o->r.index > o->shard->committed) {
        sim__fail(s, "shard %" PRIu64 ": %" PRIu64 " is acknowledged and not committed",
                  o->shard->id, o->r.index);
    }
}

/* True if the operation is over. */
static bool conclude(struct op *o, bool crashed)
{
    const struct thole_status *st = &o->r.status;
    bool expired =
        st->reason == THOLE_REASON_SESSION_EXPIRED || st->reason == THOLE_REASON_SEQUENCE_TOO_OLD;
    bool unknown = crashed || st->code == THOLE_UNKNOWN;
    if (o->r.kind == ENGINE_QUERY) {
        if (crashed || st->code != THOLE_OK) {
            refused(o);
        } else {
            linear_return(o->key->history, o->handle, get_be64(o->r.result.bytes.data));
        }
        return true;
    }
    if (!unknown && st->code == THOLE_OK) {
        wrote(o);
        return true;
    }
    o->s->report->unknown += unknown;
    if (!unknown && !o->maybe) {
        refused(o);
        if (o->c != NULL && o->r.session != 0 && expired) {
            o->c->session = 0;
        }
        return true;
    }
    o->maybe = true;
    bool with_id = o->r.request_id.size > 0 && o->s->now_ns < o->give_up_ns && o->c != NULL;
    if ((with_id || (o->r.session != 0 && !expired)) && !(o->s->calm && o->s->report->failed)) {
        return false;
    }
    if (o->c != NULL && o->r.session != 0) {
        o->c->session = 0;
    }
    linear_open(o->key->history, o->handle);
    return true;
}

static void session_opened(struct op *o, bool crashed)
{
    struct client *c = o->c;
    ASSERT(c != NULL);
    if (crashed || o->r.status.code != THOLE_OK) {
        return;
    }
    c->session = o->r.code;
    c->sequence = 0;
}

static void op_done(struct engine_request *r)
{
    struct op *o = CONTAINER_OF(r, struct op, r);
    struct sim *s = o->s;
    struct client *c = o->c;
    bool crashed = o->host->ending, over = true;
    ASSERT(s->op_count > 0);
    s->op_count--;
    sim__mix(s, r->status.code, r->index);
    SIM_TRACE(s,
              "host %d: shard %" PRIu64 " answers value %" PRIx64 ": %s %s index %" PRIu64
              " result %" PRIx64 "%s",
              o->host->id, o->shard->id, o->value, thole_code_name(r->status.code),
              thole_reason_name(r->status.reason), r->index, r->code, crashed ? " (crashed)" : "");
    if (c != NULL && (crashed || r->status.code != THOLE_OK)) {
        redirect(c, r);
    }
    bool ok = !crashed && r->status.code == THOLE_OK;
    if (r->kind == ENGINE_OPEN_SESSION) {
        session_opened(o, crashed);
    } else if (r->kind == ENGINE_CLOSE_SESSION) {
        ASSERT(c != NULL);
        c->session = 0;
    } else {
        over = conclude(o, crashed);
    }
    bufslice_unref(r->result);
    r->result = (struct bufslice){0};
    if (o->probed != NULL) {
        o->probed(s, o->shard, o->host->id, ok);
    }
    if (over) {
        if (o->key != NULL) {
            o->key->running--;
        }
        free(o);
    } else {
        ASSERT(c != NULL);
        c->retry = o;
    }
    if (c != NULL) {
        again(c);
    }
}

void sim__client_probe(struct sim *s, struct shard *shard, int host, bool write,
                       void (*done)(struct sim *s, struct shard *shard, int host, bool ok))
{
    struct op *o = op_new(s, NULL, shard, write ? ENGINE_PROPOSE : ENGINE_QUERY);
    begin(o, &shard->keys[0], write);
    o->probed = done;
    submit(o, &s->hosts[host]);
}

void sim__clients_start(struct sim *s)
{
    for (int i = 0; i < s->c.clients; i++) {
        struct client *c = &s->clients[i];
        c->s = s;
        elsewhere(c);
        if (sim_has(&s->c, SIM_SESSIONS) && i % 2 == 0) {
            c->shard = &s->shards[rand_below(&s->rand[SIM_SESSIONS], (uint64_t)s->c.groups)];
        }
        c->with_ids = sim_has(&s->c, SIM_REQUEST_IDS) && i % 4 == 1;
        again(c);
    }
}

void sim__clients_free(struct sim *s)
{
    for (int i = 0; i < s->c.clients; i++) {
        free(s->clients[i].retry);
    }
}
