/* Inspecting the replicas of a shard, and making one of them its only voter. See shard_repair.h. */
#include "agent/repair/shard_repair.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "base/assert.h"
#include "base/log.h"
#include "proto/decode.h"
#include "proto/status_decode.h"

#define INSPECT_MS 2000

struct repair {
    struct agent *agent;
    struct repair_plan plan;
    bool run;
    uint64_t wanted_hash, deadline_ns;
    _Atomic size_t unanswered;
    repair_done_fn done;
    void *ctx;
};

struct inspection {
    struct repair *repair;
    size_t of; /* index of the replica */
};

static struct bufslice encode(const void *message, const upb_MiniTable *kind, upb_Arena *arena)
{
    char *bytes = NULL;
    size_t size = 0;
    upb_EncodeStatus status = upb_Encode(message, kind, 0, arena, &bytes, &size);
    ASSERT(status == kUpb_EncodeStatus_Ok);
    struct buf *b = buf_copy(bytes, size);
    return (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
}

static upb_StringView text_view(const char *text)
{
    return upb_StringView_FromString(text);
}

static void finish(struct repair *r, const struct thole_status *st)
{
    r->done(r->ctx, st, st->code == THOLE_OK ? &r->plan : NULL);
    for (size_t i = 0; i < r->plan.count; i++) {
        raft_config_deinit(&r->plan.replicas[i].config);
    }
    free(r);
}

/* ---- Inspection ------------------------------------------------------------------------------ */

static void inspect(struct agent *a, uint64_t shard_id, struct repair_replica *ret)
{
    struct engine_replica_status s;
    if (!engine_shard_status(a->engine, shard_id, &s) || s.replica_id != ret->replica_id) {
        snprintf(ret->problem, sizeof ret->problem, "the host has no such replica");
        return;
    }
    ret->leads = s.role == RAFT_LEADER && s.leader_ready;
    ret->epoch = s.epoch;
    ret->last_term = s.last_term;
    ret->last_index = s.last_index;
    ret->applied = s.applied;
    if (s.failed) {
        snprintf(ret->problem, sizeof ret->problem, "failed: %.120s", s.failure);
    }
    if (!engine_shard_config(a->engine, shard_id, &ret->config)) {
        return;
    }
    const struct raft_member *m = raft_config_find(&ret->config, ret->replica_id);
    ret->witness = m != NULL && m->role == RAFT_WITNESS;
}

void repair_serve_inspect(struct agent *a, struct bus_request *q)
{
    upb_Arena *arena = upb_Arena_New();
    struct slice body = bus_request_body(q);
    const thole_bus_v1_Inspect *in = PROTO_DECODE(thole_bus_v1_Inspect, body, arena);
    struct engine_replica_status s;
    thole_bus_v1_InspectReply *out = thole_bus_v1_InspectReply_new(arena);
    struct repair_replica have = {0};
    struct bytes config = {0};
    if (in != NULL && engine_shard_status(a->engine, thole_bus_v1_Inspect_shard_id(in), &s)) {
        have.replica_id = s.replica_id;
        inspect(a, s.shard_id, &have);
        raft_config_encode(&have.config, &config);
        thole_bus_v1_InspectReply_set_replica_id(out, have.replica_id);
        thole_bus_v1_InspectReply_set_leads(out, have.leads);
        thole_bus_v1_InspectReply_set_witness(out, have.witness);
        thole_bus_v1_InspectReply_set_failure(out, text_view(have.problem));
        thole_bus_v1_InspectReply_set_epoch(out, have.epoch);
        thole_bus_v1_InspectReply_set_last_term(out, have.last_term);
        thole_bus_v1_InspectReply_set_last_index(out, have.last_index);
        thole_bus_v1_InspectReply_set_applied(out, have.applied);
        thole_bus_v1_InspectReply_set_config(
            out, upb_StringView_FromDataAndSize((const char *)config.data, config.size));
    }
    bus_answer(q, encode(out, &thole_bus_v1_InspectReply_msginit, arena), false);
    raft_config_deinit(&have.config);
    bytes_deinit(&config);
    upb_Arena_Free(arena);
}

static void read_inspected(struct repair_replica *r, struct slice body)
{
    upb_Arena *arena = upb_Arena_New();
    struct thole_status st;
    const thole_bus_v1_InspectReply *in = PROTO_DECODE(thole_bus_v1_InspectReply, body, arena);
    if (in == NULL) {
        snprintf(r->problem, sizeof r->problem, "malformed reply");
    } else if (thole_bus_v1_InspectReply_replica_id(in) != r->replica_id) {
        snprintf(r->problem, sizeof r->problem, "the host has no such replica");
    } else {
        upb_StringView failure = thole_bus_v1_InspectReply_failure(in);
        upb_StringView config = thole_bus_v1_InspectReply_config(in);
        r->leads = thole_bus_v1_InspectReply_leads(in);
        r->witness = thole_bus_v1_InspectReply_witness(in);
        r->epoch = thole_bus_v1_InspectReply_epoch(in);
        r->last_term = thole_bus_v1_InspectReply_last_term(in);
        r->last_index = thole_bus_v1_InspectReply_last_index(in);
        r->applied = thole_bus_v1_InspectReply_applied(in);
        snprintf(r->problem, sizeof r->problem, "%.*s", (int)failure.size,
                 failure.size > 0 ? failure.data : "");
        if (raft_config_decode(slice_of(config.data, config.size), &r->config, &st) != THOLE_OK) {
            snprintf(r->problem, sizeof r->problem, "malformed configuration");
        }
    }
    r->answered = true;
    upb_Arena_Free(arena);
}

/* ---- Execution ------------------------------------------------------------------------------- */

static void on_forced_local(void *ctx, const struct thole_status *st)
{
    finish(ctx, st != NULL ? st : &(struct thole_status){0});
}

static void on_forced_remote(void *ctx, const struct thole_status *st, struct bufslice body,
                             bool more)
{
    struct repair *r = ctx;
    struct thole_status result = *st;
    if (more) {
        return;
    }
    if (st->code == THOLE_OK) {
        upb_Arena *arena = upb_Arena_New();
        const thole_bus_v1_ForceReply *in =
            PROTO_DECODE(thole_bus_v1_ForceReply, body.bytes, arena);
        if (in == NULL) {
            (void)THOLE_FAIL(&result, THOLE_INTERNAL, THOLE_REASON_NONE,
                             "the host's answer does not decode");
        } else if (thole_bus_v1_ForceReply_code(in) != THOLE_OK) {
            upb_StringView reason = thole_bus_v1_ForceReply_reason(in);
            upb_StringView message = thole_bus_v1_ForceReply_message(in);
            proto_status_decode(thole_bus_v1_ForceReply_code(in),
                                slice_of(reason.data, reason.size),
                                slice_of(message.data, message.size), &result);
        }
        upb_Arena_Free(arena);
    }
    finish(r, &result);
}

static void execute_plan(struct repair *r)
{
    const struct repair_plan *p = &r->plan;
    const struct repair_replica *best = &p->replicas[p->chosen];
    LOG_WARN(AGENT, "repairing shard=%" PRIu64 " only_voter=%" PRIu64 " peer=%s epoch=%" PRIu64,
             p->shard_id, best->replica_id, best->host, p->epoch);
    if (uuid_equal(&best->host_id, agent_host_id(r->agent))) {
        engine_force(r->agent->engine, p->shard_id, p->epoch, on_forced_local, r);
        return;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_Force *f = thole_bus_v1_Force_new(arena);
    thole_bus_v1_Force_set_shard_id(f, p->shard_id);
    thole_bus_v1_Force_set_replica_id(f, best->replica_id);
    thole_bus_v1_Force_set_epoch(f, p->epoch);
    thole_bus_v1_Force_set_last_term(f, best->last_term);
    thole_bus_v1_Force_set_last_index(f, best->last_index);
    struct bufslice body = encode(f, &thole_bus_v1_Force_msginit, arena);
    upb_Arena_Free(arena);
    uint64_t now = clock_now(&clock_system);
    uint64_t left = r->deadline_ns > now ? (r->deadline_ns - now) / NS_PER_MS + 1 : 1;
    (void)bus_exchange(r->agent->bus, &best->host_id, METHOD_FORCE, body,
                       left < UINT32_MAX ? (uint32_t)left : UINT32_MAX, on_forced_remote, r);
}

static void force_answer(struct bus_request *q, const struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_ForceReply *out = thole_bus_v1_ForceReply_new(arena);
    if (st != NULL && st->code != THOLE_OK) {
        thole_bus_v1_ForceReply_set_code(out, st->code);
        thole_bus_v1_ForceReply_set_reason(out, text_view(thole_reason_name(st->reason)));
        thole_bus_v1_ForceReply_set_message(out, text_view(st->message));
    }
    bus_answer(q, encode(out, &thole_bus_v1_ForceReply_msginit, arena), false);
    upb_Arena_Free(arena);
}

static void force_served(void *ctx, const struct thole_status *st)
{
    force_answer(ctx, st);
}

/* In plain text a host is one because it says so; but at least it must say which. */
static bool is_known_host(struct agent *a, struct bus_request *q, struct thole_status *st)
{
    struct bus_identity who;
    bus_request_identity(q, &who);
    struct registry_view *v = registry_view_acquire(a->registry);
    bool known = registry_host(v, &who.host_id) != NULL || !agent_has_view(a, NULL);
    registry_view_release(v);
    if (!known) {
        thole_status_set(st, THOLE_PERMISSION_DENIED, THOLE_REASON_HOSTS_ONLY, __FILE__, __LINE__,
                         "only a host of this cluster may do this");
    }
    return known;
}

void repair_serve_force(struct agent *a, struct bus_request *q)
{
    upb_Arena *arena = upb_Arena_New();
    struct slice body = bus_request_body(q);
    struct thole_status st = {0};
    struct engine_replica_status s;
    const thole_bus_v1_Force *in = PROTO_DECODE(thole_bus_v1_Force, body, arena);
    uint64_t shard_id = in != NULL ? thole_bus_v1_Force_shard_id(in) : 0;
    uint64_t epoch = in != NULL ? thole_bus_v1_Force_epoch(in) : 0;
    if (in == NULL || !engine_shard_status(a->engine, shard_id, &s) ||
        s.replica_id != thole_bus_v1_Force_replica_id(in) ||
        s.last_term != thole_bus_v1_Force_last_term(in) ||
        s.last_index != thole_bus_v1_Force_last_index(in) || s.role == RAFT_LEADER) {
        (void)THOLE_FAIL(&st, THOLE_ABORTED, THOLE_REASON_STALE_REVISION,
                         "the replica changed since the plan was made; plan again");
        force_answer(q, &st);
    } else if (s.leader_replica != 0) {
        (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_REVISION,
                         "replica %" PRIu64
                         " leads the shard, so its quorum is not lost; plan again",
                         s.leader_replica);
        force_answer(q, &st);
    } else if (!is_known_host(a, q, &st)) {
        force_answer(q, &st);
    } else {
        LOG_WARN(AGENT, "repair makes this host's replica the only voter shard=%" PRIu64, shard_id);
        engine_force(a->engine, shard_id, epoch, force_served, q);
    }
    upb_Arena_Free(arena);
}

/* ---- The plan -------------------------------------------------------------------------------- */

static void decide(struct repair *r)
{
    struct thole_status st = {0};
    repair_decide(&r->plan);
    if (r->run && r->wanted_hash != r->plan.hash) {
        (void)THOLE_FAIL(&st, THOLE_ABORTED, THOLE_REASON_STALE_REVISION,
                         "the plan changed; review it again");
    } else if (r->run && !r->plan.possible) {
        (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE, "%s",
                         r->plan.refused);
    }
    if (r->run && st.code == THOLE_OK) {
        execute_plan(r);
    } else {
        finish(r, &st);
    }
}

static void on_inspected(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct inspection *q = ctx;
    struct repair *r = q->repair;
    struct repair_replica *about = &r->plan.replicas[q->of];
    if (more) {
        return;
    }
    if (st->code == THOLE_OK) {
        read_inspected(about, body.bytes);
    } else {
        snprintf(about->problem, sizeof about->problem, "no answer: %.120s", st->message);
    }
    free(q);
    if (atomic_fetch_sub(&r->unanswered, 1) == 1) {
        decide(r);
    }
}

static void inspect_all(struct repair *r)
{
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_Inspect *in = thole_bus_v1_Inspect_new(arena);
    thole_bus_v1_Inspect_set_shard_id(in, r->plan.shard_id);
    struct bufslice body = encode(in, &thole_bus_v1_Inspect_msginit, arena);
    size_t count = r->plan.count; /* the last answer may free the plan */
    upb_Arena_Free(arena);
    atomic_store(&r->unanswered, count + 1);
    for (size_t i = 0; i < count; i++) {
        struct repair_replica *about = &r->plan.replicas[i];
        if (uuid_equal(&about->host_id, agent_host_id(r->agent))) {
            inspect(r->agent, r->plan.shard_id, about);
            about->answered = true;
            atomic_fetch_sub(&r->unanswered, 1);
            continue;
        }
        struct inspection *q = xmalloc(sizeof *q);
        *q = (struct inspection){r, i};
        (void)bus_exchange(r->agent->bus, &about->host_id, METHOD_INSPECT, bufslice_ref(body),
                           INSPECT_MS, on_inspected, q);
    }
    bufslice_unref(body);
    if (atomic_fetch_sub(&r->unanswered, 1) == 1) {
        decide(r);
    }
}

static void list_replicas(struct repair_plan *p, const struct registry_view *v)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *row;
    for (uint64_t after = 0;
         p->count < LIMIT_MEMBERS &&
         (row = registry_next_replica_of_shard(v, p->shard_id, after, &replica_buf)) != NULL;) {
        struct repair_replica *r = &p->replicas[p->count];
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT ||
            !uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &r->host_id)) {
            continue;
        }
        upb_StringView host = thole_v1_Replica_host(row);
        r->replica_id = after;
        snprintf(r->host, sizeof r->host, "%.*s", (int)host.size, host.size ? host.data : "");
        p->count++;
    }
}

void repair_shard(struct agent *a, uint64_t shard_id, const uint64_t *hash, uint64_t deadline_ns,
                  repair_done_fn done, void *ctx)
{
    struct registry_shard_buf shard_buf;
    struct repair *r = xcalloc(1, sizeof *r);
    r->agent = a;
    r->run = hash != NULL;
    r->wanted_hash = hash != NULL ? *hash : 0;
    r->deadline_ns = deadline_ns;
    r->done = done;
    r->ctx = ctx;
    r->plan.shard_id = shard_id;
    struct registry_view *v = registry_view_acquire(a->registry);
    const thole_v1_Shard *shard = registry_shard(v, shard_id, &shard_buf);
    if (shard != NULL) {
        upb_StringView name = thole_v1_Shard_name(shard);
        snprintf(r->plan.shard, sizeof r->plan.shard, "%.*s", (int)name.size, name.data);
        list_replicas(&r->plan, v);
    }
    registry_view_release(v);
    inspect_all(r);
}
