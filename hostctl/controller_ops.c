/* Engine calls and proposals of the controllers, and how their answers come back: the thread that
 * has the answer posts the operation to the worker as a message, or frees it if the controllers no
 * longer exist. */
#include "hostctl/hostctl_internal.h"
#include "proto/decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_DEADLINE_NS (5 * NS_PER_S)

struct ctl_port *hostctl__port_new(void)
{
    struct ctl_port *p = xcalloc(1, sizeof *p);
    atomic_init(&p->refs, 1);
    int failed = pthread_mutex_init(&p->lock, NULL);
    ASSERT(failed == 0);
    return p;
}

void hostctl__port_unref(struct ctl_port *p)
{
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_destroy(&p->lock);
        free(p);
    }
}

struct ctl_op *hostctl__op_new(struct hostctl *h, enum ctl_op_kind kind, uint64_t shard_id,
                               uint64_t replica_id)
{
    struct ctl_op *op = xcalloc(1, sizeof *op);
    op->msg.kind = MSG_OP;
    op->kind = kind;
    op->port = h->port;
    op->shard_id = shard_id;
    op->replica_id = replica_id;
    atomic_fetch_add_explicit(&h->port->refs, 1, memory_order_relaxed);
    return op;
}

void hostctl__op_free(struct ctl_op *op)
{
    hostctl__port_unref(op->port);
    free(op->shards);
    free(op->placed);
    free(op->move);
    free(op);
}

static void post(struct ctl_op *op)
{
    struct ctl_port *port = op->port;
    pthread_mutex_lock(&port->lock);
    bool posted = port->worker != NULL && worker_post_internal(port->worker, &op->msg);
    pthread_mutex_unlock(&port->lock);
    if (!posted) {
        hostctl__op_free(op);
    }
}

void hostctl__op_engine_done(void *ctx, const struct thole_status *st)
{
    struct ctl_op *op = ctx;
    op->st = *st;
    post(op);
}

struct query {
    struct engine_request r;
    struct ctl_op *op;
};

static void answered(struct engine_request *r)
{
    struct query *q = CONTAINER_OF(r, struct query, r);
    struct ctl_op *op = q->op;
    op->st = r->status;
    if (r->status.code == THOLE_OK && r->result.bytes.size == 8) {
        op->revision = get_le64(r->result.bytes.data);
    }
    bufslice_unref(r->result);
    free(q);
    post(op);
}

static void ask(struct hostctl *h, enum ctl_op_kind op, enum engine_request_kind kind,
                uint64_t shard_id)
{
    struct query *q = xcalloc(1, sizeof *q);
    q->op = hostctl__op_new(h, op, shard_id, 0);
    q->r.kind = kind;
    q->r.shard_id = shard_id;
    q->r.deadline_ns = clock_now(h->clock) + ASK_DEADLINE_NS;
    q->r.done = answered;
    engine_submit(h->o.engine, &q->r);
}

void hostctl__barrier(struct hostctl *h)
{
    ask(h, OP_BARRIER, ENGINE_QUERY, REGISTRY_SHARD_ID);
}

void hostctl__fence(struct hostctl *h, uint64_t shard_id)
{
    ask(h, OP_FENCE, ENGINE_OPEN_SESSION, shard_id);
}

static void reaches_answered(void *ctx, bool answered, bool reaches)
{
    struct ctl_op *op = ctx;
    op->answered = answered;
    op->reaches = reaches;
    post(op);
}

void hostctl__ask_reaches(struct hostctl *h, const struct uuid *asked, const struct uuid *about)
{
    struct ctl_op *op = hostctl__op_new(h, OP_REACHES, 0, 0);
    op->host = *about;
    op->asked = *asked;
    h->o.callbacks.reaches(h->o.callbacks.ctx, asked, about, reaches_answered, op);
}

static void proposed(void *ctx, const struct thole_status *st, uint64_t code, struct slice result)
{
    struct ctl_op *op = ctx;
    op->st = *st;
    op->code = code;
    if (st->code == THOLE_OK && code == THOLE_OK) {
        upb_Arena *arena = upb_Arena_New();
        const thole_registry_v1_Result *r = PROTO_DECODE(thole_registry_v1_Result, result, arena);
        op->revision = r == NULL ? 0 : thole_registry_v1_Result_revision(r);
        upb_Arena_Free(arena);
    }
    post(op);
}

thole_registry_v1_Command *hostctl__command(struct hostctl *h, const char *actor, upb_Arena *arena)
{
    return registry_command_new(actor, (int64_t)h->clock->wall_ms(h->clock), arena);
}

thole_registry_v1_Command *hostctl__host_command(struct hostctl *h, upb_Arena *arena)
{
    char actor[LIMIT_NAME_BYTES + 8] = "host";
    const thole_v1_Host *own = hostctl__own_row(h);
    if (own != NULL) {
        upb_StringView name = thole_v1_Host_name(own);
        snprintf(actor, sizeof actor, "host/%.*s", (int)name.size,
                 name.data != NULL ? name.data : "");
    }
    return hostctl__command(h, actor, arena);
}

void hostctl__propose(struct hostctl *h, const thole_registry_v1_Command *c, upb_Arena *arena,
                      struct ctl_op *op)
{
    h->o.callbacks.propose(h->o.callbacks.ctx, registry_command_encode(c, arena), proposed, op);
}
