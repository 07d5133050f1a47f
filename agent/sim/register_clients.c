/* Clients of the shards. Each client has one operation in flight on a register, through a random
 * host. Half of the clients use sessions and retry until they know the outcome. Some use request
 * ids and retry for as long as a repeat is safe. The others never retry. The history of every
 * register must be linearizable (shards/sim/linear.h). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/sim/play.h"
#include "agent/sim/register_machine.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "proto/decode.h"
#include "shards/sim/linear.h"
#include "thole/v1/data.upb.h"

#define CLIENTS 6
#define TIMEOUT_NS (3 * NS_PER_S)
#define THINK_NS_MAX (300 * NS_PER_MS)
/* After the client gave up, a hung host may still execute the call for this long. */
#define STRAY_NS (60 * NS_PER_S)

/* A repeat with the same request id begins before that, so that it is executed, if at all, while
 * the id is remembered. */
#define REPEAT_NS (LIMIT_REQUEST_ID_MS * NS_PER_MS - STRAY_NS - 10 * NS_PER_S)
static_assert(LIMIT_REQUEST_ID_MS * NS_PER_MS > STRAY_NS + 20 * NS_PER_S, "time to repeat");

/* A key of a shard. A shard that is created again under the same name has new registers. */
struct reg {
    struct linear *history; /* NULL: the value at the beginning is not known yet */
    bool lost;              /* the shard was deleted, and its values with it */
    uint64_t from_ns;       /* a read that began later tells the value at the beginning */
    uint64_t writes;        /* that may have taken effect, while there is no history */
};

struct op {
    struct op *next;
    int client;
    int shard, key;
    struct reg *reg;
    bool write;
    uint64_t value, number; /* index in the history */
    uint64_t session, sequence;
    bool with_id;             /* its request id is its value */
    uint64_t repeat_until_ns; /* with a request id */
    bool probe;
    bool unknown;                     /* an attempt may have taken effect */
    bool carried;                     /* it began before the shard of its history was created */
    uint64_t began_ns, writes_before; /* of the register */
    uint64_t ended_ns; /* it ended then, outcome unknown, and may still take effect; 0: in flight */
};

struct client {
    bool sessions, ids;
    int session_shard; /* -1: no open session */
    uint64_t session, sequence;
};

static struct client clients[CLIENTS];
static struct reg *regs[STORY_SHARDS][REGISTER_KEYS];
static uint64_t shard_ids[STORY_SHARDS];     /* the shards whose histories are recorded */
static uint64_t known_from_ns[STORY_SHARDS]; /* 0: registers begin with `initial` */
static uint64_t initial[STORY_SHARDS][REGISTER_KEYS];
static bool stopped;
static uint64_t last_value;
static int open_ops;
static struct op *ops; /* operations in flight, and ended ones that may still take effect */

static void think(int client);
static void notice_new_shards(void);

static struct reg *reg_of(int shard, int key)
{
    if (regs[shard][key] == NULL) {
        struct reg *reg = regs[shard][key] = xcalloc(1, sizeof *reg);
        reg->from_ns = known_from_ns[shard];
        reg->history = reg->from_ns == 0 ? linear_new(initial[shard][key]) : NULL;
    }
    return regs[shard][key];
}

static void check(const struct op *op)
{
    if (op->reg->lost || op->reg->history == NULL) {
        return;
    }
    if (linear_check(op->reg->history, false) == LINEAR_VIOLATION) {
        world__fail("register %d of s%d: the history is not linearizable", op->key, op->shard);
    }
    if (linear_open_count(op->reg->history) > 20) { /* too many unknown outcomes to check further */
        op->reg->lost = true;
        if (regs[op->shard][op->key] == op->reg) {
            regs[op->shard][op->key] = NULL;
        }
    }
}

/* Did the operation certainly have no effect? Follows the reasons in docs/operations.md. */
static bool certainly_not(const struct thole_status *st)
{
    return st->reason != THOLE_REASON_OUTCOME_UNKNOWN && st->code != THOLE_DEADLINE_EXCEEDED &&
           st->code != THOLE_CANCELLED && st->code != THOLE_UNKNOWN && st->code != THOLE_INTERNAL;
}

/* ---- One operation --------------------------------------------------------------------------- */

static void begin_in_history(struct op *op)
{
    op->began_ns = world__now_ns();
    op->writes_before = op->reg->writes;
    if (op->reg->history == NULL) {
        return;
    }
    op->number =
        op->write ? linear_swap(op->reg->history, op->value) : linear_read(op->reg->history);
}

/* A call names its shard. If the shard is deleted and created again during the call, the call may
 * reach either shard. */
static void carry_over(int shard)
{
    for (struct op *op = ops; op != NULL; op = op->next) {
        if (op->shard == shard) {
            op->carried = true;
            op->reg = reg_of(shard, op->key);
            begin_in_history(op);
            if (op->ended_ns != 0 && op->reg->history != NULL) {
                linear_open(op->reg->history, op->number);
            }
        }
    }
}

static void forget(struct op *op)
{
    struct op **at = &ops;
    while (*at != op) {
        at = &(*at)->next;
    }
    *at = op->next;
    free(op);
}

static void forget_old(void)
{
    for (struct op *op = ops, *next; op != NULL; op = next) {
        next = op->next;
        if (op->ended_ns != 0 && op->ended_ns + STRAY_NS < world__now_ns()) {
            forget(op);
        }
    }
}

static void send(struct op *op);

static void again(void *ctx)
{
    send(ctx);
}

static void finish(struct op *op)
{
    int client = op->client;
    open_ops--;
    if (!op->probe) {
        think(client);
    }
    op->ended_ns = world__now_ns();
    if (!op->write || !op->unknown) {
        forget(op);
    }
}

/* A read tells the value, unless a write that began later has already ended. Operations in flight
 * may take effect at any time. */
static void begin_history(const struct op *read, uint64_t value)
{
    struct reg *reg = read->reg;
    if (read->began_ns <= reg->from_ns || read->writes_before != reg->writes) {
        return;
    }
    reg->history = linear_new(value);
    for (struct op *op = ops; op != NULL; op = op->next) {
        if (op->reg == reg && op != read) {
            op->carried = true;
            begin_in_history(op);
            if (op->ended_ns != 0) {
                linear_open(reg->history, op->number);
            }
        }
    }
}

static void end_in_history(struct op *op, bool ok, uint64_t result)
{
    struct linear *history = op->reg->history;
    if (history == NULL) {
        op->reg->writes += op->write && (ok || op->unknown);
        if (ok && !op->write && !op->carried && !op->reg->lost) {
            begin_history(op, result);
        }
        return;
    }
    if (op->carried && op->write) { /* its result may be from the old shard */
        linear_open(history, op->number);
    } else if (ok && !op->carried) {
        linear_return(history, op->number, result);
    } else if (!op->unknown || !op->write) {
        linear_refused(history, op->number);
    } else {
        linear_open(history, op->number);
    }
    check(op);
}

static void answered(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct op *op = ctx;
    upb_Arena *arena = upb_Arena_New();
    uint64_t result = 0;
    notice_new_shards();
    bool ok = st->code == THOLE_OK, answered_ok = ok;
    play.operations++;
    if (ok && op->write) {
        const thole_v1_ProposeResponse *r = PROTO_DECODE(thole_v1_ProposeResponse, reply, arena);
        upb_StringView data = thole_v1_ProposeResponse_data(r);
        ok = data.size == 8;
        result = ok ? get_le64((const uint8_t *)data.data) : 0;
    } else if (ok) {
        const thole_v1_QueryResponse *r = PROTO_DECODE(thole_v1_QueryResponse, reply, arena);
        upb_StringView data = thole_v1_QueryResponse_data(r);
        ok = data.size == 8;
        result = ok ? get_le64((const uint8_t *)data.data) : 0;
    }
    upb_Arena_Free(arena);
    world__mix(st->code, result);
    op->unknown = op->unknown || (!answered_ok && !certainly_not(st));
    world__trace("client: %s register %d of s%d, %" PRIu64 " for %" PRIu64 ": %s",
                 op->write ? "swap" : "read", op->key, op->shard, op->value, result,
                 ok ? "OK" : st->message);
    if (!ok && op->session != 0 && !certainly_not(st) && !stopped) {
        world__at(world__now_ns() + 100 * NS_PER_MS, NULL, again, op);
        return; /* same sequence number: executed at most once */
    }
    if (!ok && op->with_id && !certainly_not(st) && !stopped && !op->carried &&
        world__now_ns() < op->repeat_until_ns) {
        world__at(world__now_ns() + 100 * NS_PER_MS, NULL, again, op);
        return;
    }
    play.operations_ok += ok;
    end_in_history(op, ok, result);
    if (op->session != 0 && !ok) {
        clients[op->client].session_shard = -1;
    }
    if (op->probe && !ok) {
        op->value = op->write ? ++last_value : 0;
        op->reg = reg_of(op->shard, op->key);
        op->unknown = op->carried = false;
        begin_in_history(op);
        world__at(world__now_ns() + 500 * NS_PER_MS, NULL, again, op);
        return;
    }
    finish(op);
}

static void send(struct op *op)
{
    char name[16];
    uint8_t bytes[REGISTER_COMMAND_BYTES];
    upb_Arena *a = upb_Arena_New();
    size_t size = 0;
    int host = (int)rand_below(world__rand(), (uint64_t)world__host_count());
    shard_name_of(op->shard, name);
    put_le64(bytes, (uint64_t)op->key);
    put_le64(bytes + 8, op->value);
    if (op->write) {
        thole_v1_ProposeRequest *q = thole_v1_ProposeRequest_new(a);
        thole_v1_ProposeRequest_set_shard(q, upb_StringView_FromString(name));
        thole_v1_ProposeRequest_set_data(
            q, upb_StringView_FromDataAndSize((const char *)bytes, sizeof bytes));
        thole_v1_ProposeRequest_set_session(q, op->session);
        thole_v1_ProposeRequest_set_sequence(q, op->sequence);
        char id[24];
        if (op->with_id) {
            snprintf(id, sizeof id, "value-%" PRIu64, op->value);
            thole_v1_ProposeRequest_set_request_id(q, upb_StringView_FromString(id));
        }
        const char *out = thole_v1_ProposeRequest_serialize(q, a, &size);
        world__call(host, "/thole.v1.Data/Propose", slice_of(out, size), TIMEOUT_NS, answered, op);
    } else {
        thole_v1_QueryRequest *q = thole_v1_QueryRequest_new(a);
        thole_v1_QueryRequest_set_shard(q, upb_StringView_FromString(name));
        thole_v1_QueryRequest_set_data(q, upb_StringView_FromDataAndSize((const char *)bytes, 8));
        const char *out = thole_v1_QueryRequest_serialize(q, a, &size);
        world__call(host, "/thole.v1.Data/Query", slice_of(out, size), TIMEOUT_NS, answered, op);
    }
    upb_Arena_Free(a);
}

static void begin(int client, int shard, int key, bool write, bool probe)
{
    struct op *op = xcalloc(1, sizeof *op);
    struct client *c = &clients[client];
    *op = (struct op){.client = client,
                      .shard = shard,
                      .key = key,
                      .reg = reg_of(shard, key),
                      .write = write,
                      .probe = probe};
    op->value = write ? ++last_value : 0;
    op->next = ops;
    ops = op;
    begin_in_history(op);
    if (write && !probe && c->sessions && c->session_shard == shard) {
        op->session = c->session;
        op->sequence = ++c->sequence;
    } else if (write && !probe && c->ids) {
        op->with_id = true;
        op->repeat_until_ns = world__now_ns() + REPEAT_NS;
    }
    open_ops++;
    send(op);
}

/* ---- Clients --------------------------------------------------------------------------------- */

struct opening {
    int client, shard;
};

static void session_opened(void *ctx, const struct thole_status *st, struct slice reply)
{
    struct opening *o = ctx;
    struct client *c = &clients[o->client];
    if (st->code == THOLE_OK) {
        upb_Arena *arena = upb_Arena_New();
        const thole_v1_OpenSessionResponse *r =
            PROTO_DECODE(thole_v1_OpenSessionResponse, reply, arena);
        c->session_shard = o->shard;
        c->session = thole_v1_OpenSessionResponse_session(r);
        c->sequence = 0;
        upb_Arena_Free(arena);
    }
    think(o->client);
    free(o);
}

static void open_session(int client, int shard)
{
    char name[16];
    size_t size = 0;
    upb_Arena *a = upb_Arena_New();
    struct opening *o = xmalloc(sizeof *o);
    *o = (struct opening){client, shard};
    shard_name_of(shard, name);
    thole_v1_OpenSessionRequest *q = thole_v1_OpenSessionRequest_new(a);
    thole_v1_OpenSessionRequest_set_shard(q, upb_StringView_FromString(name));
    const char *out = thole_v1_OpenSessionRequest_serialize(q, a, &size);
    int host = (int)rand_below(world__rand(), (uint64_t)world__host_count());
    world__call(host, "/thole.v1.Data/OpenSession", slice_of(out, size), TIMEOUT_NS, session_opened,
                o);
    upb_Arena_Free(a);
}

static void new_registers(int shard)
{
    for (int key = 0; key < REGISTER_KEYS; key++) {
        if (regs[shard][key] != NULL) {
            regs[shard][key]->lost = true;
            regs[shard][key] = NULL;
        }
    }
}

/* A shard of that name exists that was not there before. */
static void begin_shard(int shard, const thole_v1_Shard *row)
{
    bool known = saves__initial(shard, row, initial[shard]);
    shard_ids[shard] = thole_v1_Shard_id(row);
    known_from_ns[shard] = known ? 0 : world__now_ns();
    carry_over(shard);
}

static void notice_shard(int shard, const thole_v1_Shard *row)
{
    bool deleting = thole_v1_Shard_deleting(row);
    uint64_t id = thole_v1_Shard_id(row);
    bool fresh = !deleting && id > shard_ids[shard] && !thole_v1_Shard_awaits_restore(row);
    if (fresh || (deleting && id == shard_ids[shard])) {
        new_registers(shard);
    }
    if (fresh) {
        begin_shard(shard, row);
    }
}

/* A shard that was deleted and created again has new registers: discard the old history. */
static void notice_new_shards(void)
{
    for (int n = 0; n < world__host_count(); n++) {
        struct registry_view *v = checks__view(n);
        for (int k = 0; v != NULL && k < STORY_SHARDS; k++) {
            char name[16];
            struct registry_shard_buf buf;
            shard_name_of(k, name);
            const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(name), &buf);
            if (row != NULL) {
                notice_shard(k, row);
            }
        }
        if (v != NULL) {
            registry_view_release(v);
        }
    }
}

/* ---- Lost and repaired shards ---------------------------------------------------------------- */

uint64_t clients__shard_id(int shard)
{
    return shard_ids[shard];
}

static int index_of(uint64_t shard_id)
{
    for (int k = 0; k < STORY_SHARDS; k++) {
        if (shard_id != 0 && shard_ids[k] == shard_id) {
            return k;
        }
    }
    return -1;
}

static void begin_again(int shard, uint64_t from_ns)
{
    known_from_ns[shard] = from_ns;
    new_registers(shard);
    carry_over(shard);
}

void clients__lose_shard(uint64_t shard_id)
{
    int k = index_of(shard_id);
    if (k >= 0) {
        begin_again(k, CLOCK_NEVER);
    }
    register_split(shard_id, 0, UINT64_MAX);
}

void clients__resume_shard(uint64_t shard_id, uint64_t kept, uint64_t first_replica)
{
    int k = index_of(shard_id);
    if (k >= 0) {
        begin_again(k, world__now_ns());
    }
    register_split(shard_id, kept, first_replica);
}

/* ---- Reading all registers of a file --------------------------------------------------------- */

struct file_read {
    struct op *ops[REGISTER_KEYS];
};

struct file_read *clients__begin_file(int shard)
{
    struct file_read *f = xcalloc(1, sizeof *f);
    notice_new_shards();
    for (int key = 0; key < REGISTER_KEYS; key++) {
        struct op *op = f->ops[key] = xcalloc(1, sizeof *op);
        *op = (struct op){
            .client = -1, .shard = shard, .key = key, .reg = reg_of(shard, key), .next = ops};
        ops = op;
        begin_in_history(op);
    }
    return f;
}

void clients__end_file(struct file_read *f, const uint64_t *values)
{
    notice_new_shards();
    for (int key = 0; key < REGISTER_KEYS; key++) {
        end_in_history(f->ops[key], values != NULL, values != NULL ? values[key] : 0);
        forget(f->ops[key]);
    }
    free(f);
}

/* ---- Clients --------------------------------------------------------------------------------- */

static void act(void *ctx)
{
    int client = (int)(intptr_t)ctx;
    struct client *c = &clients[client];
    struct rand *r = world__rand();
    if (stopped) {
        return;
    }
    notice_new_shards();
    forget_old();
    int shard = (int)rand_below(r, STORY_SHARDS);
    if (shard_ids[shard] == 0) {
        think(client);
    } else if (c->sessions && c->session_shard < 0) {
        open_session(client, shard);
    } else {
        shard = c->sessions && c->session_shard >= 0 ? c->session_shard : shard;
        begin(client, shard, (int)rand_below(r, REGISTER_KEYS), rand_below(r, 2) == 0, false);
    }
}

static void think(int client)
{
    if (!stopped) {
        world__at(world__now_ns() + rand_below(world__rand(), THINK_NS_MAX), NULL, act,
                  (void *)(intptr_t)client);
    }
}

void clients__start(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] =
            (struct client){.sessions = i % 2 == 0, .ids = i % 4 == 1, .session_shard = -1};
        think(i);
    }
}

void clients__stop(void)
{
    stopped = true;
}

/* ---- The end --------------------------------------------------------------------------------- */

void clients__probe(void)
{
    notice_new_shards();
    for (int k = 0; k < STORY_SHARDS; k++) {
        char name[16];
        struct registry_shard_buf buf;
        struct registry_view *v = NULL;
        for (int n = 0; n < world__host_count() && v == NULL; n++) {
            v = checks__view(n);
        }
        shard_name_of(k, name);
        const thole_v1_Shard *row =
            v != NULL ? registry_shard_by_name(v, slice_str(name), &buf) : NULL;
        if (row != NULL && checks__is_ready(row)) {
            begin(0, k, 0, true, true);
            begin(0, k, 1, false, true);
        }
        if (v != NULL) {
            registry_view_release(v);
        }
    }
}

bool clients__probed(void)
{
    return open_ops == 0;
}

void clients__check_end(void)
{
    for (int k = 0; k < STORY_SHARDS; k++) {
        for (int key = 0; key < REGISTER_KEYS; key++) {
            struct reg *reg = regs[k][key];
            if (reg != NULL && !reg->lost && reg->history != NULL &&
                linear_check(reg->history, true) == LINEAR_VIOLATION) {
                world__fail("register %d of s%d: the history is not linearizable", key, k);
            }
        }
    }
}
