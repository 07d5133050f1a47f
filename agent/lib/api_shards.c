/* libthole: declaring shards and replicas, as commands to shard zero; and waiting for them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/availability.h"
#include "agent/lib/api_internal.h"
#include "agent/routing/registry_command.h"
#include "base/text.h"
#include "proto/decode.h"
#include "thole/v1/control.upb.h"

#define ASK_AGAIN_MS 100

static upb_StringView text(const char *s)
{
    return s != NULL ? upb_StringView_FromString(s) : upb_StringView_FromDataAndSize(NULL, 0);
}

/* ---- Commands -------------------------------------------------------------------------------- */

/* Propose and wait. Frees `arena`, in which `c` is. */
static enum thole_code run(struct thole *t, thole_registry_v1_Command *c, upb_Arena *arena,
                           uint32_t timeout_ms, uint64_t *ret_replica, struct thole_status *st)
{
    const thole_registry_v1_Result *result = NULL;
    struct thole_status out = {0};
    enum thole_code code = api__need_running(t, st);
    if (code == THOLE_OK) {
        struct api_request q = {
            .t = t,
            .r = {.kind = ROUTER_PROPOSE,
                  .shard_id = REGISTRY_SHARD_ID,
                  .payload = registry_command_encode(c, arena),
                  .deadline_ns = api__deadline(timeout_ms)},
        };
        api__run(&q);
        router_read_result(&q.r, arena, &out, &result);
        code = out.code;
        if (code != THOLE_OK && st != NULL) {
            *st = out;
        }
        const thole_v1_Replica *r =
            code == THOLE_OK ? thole_registry_v1_Result_replica(result) : NULL;
        if (ret_replica != NULL && r != NULL) {
            *ret_replica = thole_v1_Replica_id(r);
        }
        bufslice_unref(q.r.result);
    }
    upb_Arena_Free(arena);
    return code;
}

thole_v1_ShardSpec *api__shard_spec(const struct thole_shard_spec *s, upb_Arena *arena)
{
    thole_v1_ShardSpec *to = thole_v1_ShardSpec_new(arena);
    thole_v1_ShardSpec_set_type(to, text(s->type));
    if (s->config.size > 0) {
        thole_v1_ShardSpec_set_config(
            to, upb_StringView_FromDataAndSize(s->config.data, s->config.size));
    }
    thole_v1_ShardSpec_set_voters(to, s->voters);
    if (s->non_voting > 0) {
        thole_v1_ReplicaGroup_set_count(thole_v1_ShardSpec_add_non_voting(to, arena),
                                        s->non_voting);
    }
    thole_v1_ShardSpec_set_lease_reads(to, s->lease_reads);
    for (uint32_t i = 0; i < s->constraint_count; i++) {
        thole_v1_Constraint *c = thole_v1_ShardSpec_add_constraints(to, arena);
        thole_v1_Constraint_set_key(c, text(s->constraints[i].key));
        thole_v1_Constraint_set_operator(c, (int32_t)s->constraints[i].op);
        for (const char *const *v = s->constraints[i].values; v != NULL && *v != NULL; v++) {
            thole_v1_Constraint_add_values(c, text(*v), arena);
        }
    }
    return to;
}

/* Checked here, because the registry's refusal would not name the field. */
static enum thole_code check_name(const char *field, const char *name, struct thole_status *st)
{
    if (name != NULL && registry_name_is_valid(slice_str(name))) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "%s: \"%.64s\" is not a valid name: use lower case letters, digits, dots and "
                      "dashes, at most %d",
                      field, name != NULL ? name : "", LIMIT_NAME_BYTES);
}

static enum thole_code check_label(const char *field, const char *label, size_t bytes_min,
                                   struct thole_status *st)
{
    const char *problem = text_label_problem(slice_str(label != NULL ? label : ""), bytes_min);
    if (problem == NULL) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "%s: %s", field,
                      problem);
}

static enum thole_code check_spec(const struct thole_shard_spec *s, struct thole_status *st)
{
    enum thole_code code = check_name("spec.name", s->name, st);
    if (code == THOLE_OK) {
        code = check_label("spec.type", s->type, 1, st);
    }
    if (code == THOLE_OK) {
        code = check_label("spec.request_id", s->request_id, 0, st);
    }
    if (code == THOLE_OK) {
        code = check_label("spec.etag", s->etag, 0, st);
    }
    for (uint32_t i = 0; code == THOLE_OK && i < s->constraint_count; i++) {
        char field[64];
        snprintf(field, sizeof field, "spec.constraints[%u].key", i);
        code = check_label(field, s->constraints[i].key, 1, st);
        snprintf(field, sizeof field, "spec.constraints[%u].values", i);
        for (const char *const *v = s->constraints[i].values;
             code == THOLE_OK && v != NULL && *v != NULL; v++) {
            code = check_label(field, *v, 0, st);
        }
    }
    return code;
}

enum thole_code api__read_shard_spec(const struct thole_shard_spec *given,
                                     struct thole_shard_spec *ret, struct thole_status *st)
{
    if (given == NULL || given->size < offsetof(struct thole_shard_spec, constraints)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "spec.size is not set");
    }
    api__copy_struct(ret, sizeof *ret, given, given->size);
    if (ret->name == NULL || ret->type == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "spec.name and spec.type are required");
    }
    return check_spec(ret, st);
}

static thole_registry_v1_Operation *begin(upb_Arena *arena, thole_registry_v1_Command **ret)
{
    *ret = agent_command_new("user", arena);
    return thole_registry_v1_Command_add_operations(*ret, arena);
}

enum thole_code thole_shard_create(struct thole *t, const struct thole_shard_spec *given,
                                   uint32_t timeout_ms, struct thole_status *st)
{
    struct thole_shard_spec s;
    enum thole_code code = api__read_shard_spec(given, &s, st);
    if (code != THOLE_OK) {
        return code;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c;
    thole_registry_v1_Operation *op = begin(arena, &c);
    thole_registry_v1_CreateShard *create =
        thole_registry_v1_Operation_mutable_create_shard(op, arena);
    thole_registry_v1_CreateShard_set_name(create, text(s.name));
    thole_registry_v1_CreateShard_set_spec(create, api__shard_spec(&s, arena));
    registry_command_set_request_id(c, registry_str(text(s.request_id)), arena);
    thole_registry_v1_Command_set_validate_only(c, s.validate_only);
    return run(t, c, arena, timeout_ms, NULL, st);
}

enum thole_code thole_shard_apply(struct thole *t, const struct thole_shard_spec *given,
                                  uint32_t timeout_ms, struct thole_status *st)
{
    struct thole_shard_spec s;
    enum thole_code code = api__read_shard_spec(given, &s, st);
    if (code != THOLE_OK) {
        return code;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c;
    thole_registry_v1_Operation *op = begin(arena, &c);
    thole_registry_v1_UpdateShard *update =
        thole_registry_v1_Operation_mutable_update_shard(op, arena);
    thole_registry_v1_UpdateShard_set_name(update, text(s.name));
    thole_registry_v1_UpdateShard_set_spec(update, api__shard_spec(&s, arena));
    thole_registry_v1_UpdateShard_set_etag(update, text(s.etag));
    thole_registry_v1_UpdateShard_set_allow_missing(update, s.etag == NULL);
    registry_command_set_request_id(c, registry_str(text(s.request_id)), arena);
    thole_registry_v1_Command_set_validate_only(c, s.validate_only);
    return run(t, c, arena, timeout_ms, NULL, st);
}

enum thole_code thole_shard_delete(struct thole *t, const char *name, uint32_t timeout_ms,
                                   struct thole_status *st)
{
    enum thole_code code = check_name("name", name, st);
    if (code != THOLE_OK) {
        return code;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c;
    thole_registry_v1_Operation *op = begin(arena, &c);
    thole_registry_v1_DeleteShard_set_name(
        thole_registry_v1_Operation_mutable_delete_shard(op, arena), text(name));
    return run(t, c, arena, timeout_ms, NULL, st);
}

enum thole_code thole_replica_create(struct thole *t, const char *shard, const char *host,
                                     uint32_t role, uint32_t timeout_ms, uint64_t *ret_replica,
                                     struct thole_status *st)
{
    enum thole_code code = check_name("shard", shard, st);
    if (code == THOLE_OK) {
        code = check_name("host", host, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c;
    thole_registry_v1_Operation *op = begin(arena, &c);
    thole_registry_v1_CreateReplica *create =
        thole_registry_v1_Operation_mutable_create_replica(op, arena);
    thole_registry_v1_CreateReplica_set_shard(create, text(shard));
    thole_registry_v1_CreateReplica_set_host(create, text(host));
    thole_registry_v1_CreateReplica_set_role(create, (int32_t)role);
    return run(t, c, arena, timeout_ms, ret_replica, st);
}

enum thole_code thole_replica_delete(struct thole *t, uint64_t replica, uint32_t timeout_ms,
                                     struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c;
    thole_registry_v1_Operation *op = begin(arena, &c);
    thole_registry_v1_RemoveReplica *remove =
        thole_registry_v1_Operation_mutable_remove_replica(op, arena);
    thole_registry_v1_RemoveReplica_set_replica_id(remove, replica);
    thole_registry_v1_RemoveReplica_set_reason(remove, text("requested by the user"));
    return run(t, c, arena, timeout_ms, NULL, st);
}

/* ---- Waiting --------------------------------------------------------------------------------- */

/* Formed, and Ready in a status of the current generation. */
static bool shard_ready(const thole_v1_Shard *s, char *why, size_t size)
{
    const thole_v1_ShardStatus *st = s != NULL ? thole_v1_Shard_status(s) : NULL;
    snprintf(why, size, "%s", s != NULL ? "no status was reported yet" : "shard not found");
    if (st == NULL) {
        return false;
    }
    size_t n = 0;
    const thole_v1_Condition *const *conditions = thole_v1_ShardStatus_conditions(st, &n);
    bool ready = false;
    for (size_t i = 0; i < n; i++) {
        upb_StringView type = thole_v1_Condition_type(conditions[i]);
        bool ok = thole_v1_Condition_status(conditions[i]);
        if (type.size == 5 && memcmp(type.data, "Ready", 5) == 0) {
            ready = ok;
        }
        if (!ok) {
            snprintf(why, size, "%.*s: %.*s", (int)type.size, type.data,
                     (int)thole_v1_Condition_message(conditions[i]).size,
                     thole_v1_Condition_message(conditions[i]).data);
        }
    }
    bool formed = thole_v1_ShardStatus_formed(st);
    if (!formed && n == 0) {
        snprintf(why, size, "the shard has not formed yet");
    }
    return formed && ready &&
           thole_v1_ShardStatus_observed_generation(st) >= thole_v1_Shard_generation(s);
}

struct ready_wait {
    const char *name;
    char why[200];
};

static bool ready_here(struct agent *a, void *ctx)
{
    struct registry_shard_buf shard_buf;
    struct ready_wait *w = ctx;
    struct registry_view *v = registry_view_acquire(agent_registry(a));
    const thole_v1_Shard *row = registry_shard_by_name(v, slice_str(w->name), &shard_buf);
    bool ready = shard_ready(row, w->why, sizeof w->why);
    if (ready) {
        const struct availability_check check = agent_availability_begin(a, v);
        struct shard_availability now;
        agent_check_shard(&check, row, &now);
        ready = now.available;
        snprintf(w->why, sizeof w->why, "%.190s", now.message);
    }
    registry_view_release(v);
    return ready;
}

/* A client polls a host's control plane. */
static bool ready_there(struct thole *t, struct ready_wait *w, uint64_t deadline)
{
    struct bus_channel *channel = NULL;
    struct thole_status st = {0};
    bool ready = false;
    size_t size = 0;
    if (bus_channel_new_tls(api__client_addresses(t->client), api__client_tls(t->client), &channel,
                            &st) != THOLE_OK) {
        return false;
    }
    upb_Arena *request_arena = upb_Arena_New();
    thole_v1_GetShardRequest *q = thole_v1_GetShardRequest_new(request_arena);
    thole_v1_GetShardRequest_set_name(q, text(w->name));
    const char *request = thole_v1_GetShardRequest_serialize(q, request_arena, &size);
    while (!ready && clock_now(&clock_system) < deadline) {
        struct buf *reply = NULL;
        if (bus_channel_call(channel, "/thole.v1.Shards/GetShard", slice_of(request, size), 2000,
                             &reply, &st) == THOLE_OK) {
            upb_Arena *arena = upb_Arena_New();
            ready =
                shard_ready(PROTO_DECODE(thole_v1_Shard, slice_of(reply->data, reply->size), arena),
                            w->why, sizeof w->why);
            upb_Arena_Free(arena);
            buf_unref(reply);
        } else {
            snprintf(w->why, sizeof w->why, "%.190s", st.message);
        }
        if (!ready) {
            nanosleep(&(struct timespec){.tv_nsec = ASK_AGAIN_MS * 1000000L}, NULL);
        }
    }
    upb_Arena_Free(request_arena);
    bus_channel_free(channel);
    return ready;
}

enum thole_code thole_shard_wait_ready(struct thole *t, const char *name, uint32_t timeout_ms,
                                       struct thole_status *st)
{
    struct ready_wait w = {.name = name};
    enum thole_code code = check_name("name", name, st);
    if (code == THOLE_OK) {
        code = api__need_running(t, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    uint64_t deadline = clock_now(&clock_system) + timeout_ms * NS_PER_MS;
    bool ready = t->is_client ? ready_there(t, &w, deadline)
                              : agent_wait(t->agent, deadline, ready_here, &w);
    if (ready) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NOT_READY,
                      "shard \"%.64s\" is not ready: %.160s", name, w.why);
}
