/* Commands and linearizable reads of shard zero. */
#include <stdlib.h>
#include <string.h>

#include "agent/access/access.h"
#include "agent/core/agent_internal.h"
#include "agent/routing/registry_command.h"
#include "agent/routing/router.h"
#include "base/assert.h"
#include "proto/decode.h"
#include "proto/status_decode.h"

void agent_route(struct agent *a, struct router_request *r)
{
    router_route(a->router, r, NULL);
}

/* ---- Commands -------------------------------------------------------------------------------- */

struct command {
    struct router_request r;
    agent_command_fn done;
    void *ctx;
};

void router_read_result(const struct router_request *r, upb_Arena *arena,
                        struct thole_status *ret_st, const thole_registry_v1_Result **ret)
{
    *ret_st = r->status;
    *ret = NULL;
    if (r->status.code != THOLE_OK) {
        return;
    }
    *ret = PROTO_DECODE(thole_registry_v1_Result, r->result.bytes, arena);
    if (*ret == NULL) {
        thole_status_set(ret_st, THOLE_INTERNAL, THOLE_REASON_NONE, __FILE__, __LINE__,
                         "malformed result of a command");
    } else if (r->code != 0) {
        proto_status_decode(r->code, registry_str(thole_registry_v1_Result_reason(*ret)),
                            registry_str(thole_registry_v1_Result_message(*ret)), ret_st);
    }
}

static void command_done(struct router_request *r)
{
    struct command *c = CONTAINER_OF(r, struct command, r);
    upb_Arena *arena = upb_Arena_New();
    struct thole_status st;
    const thole_registry_v1_Result *result;
    router_read_result(r, arena, &st, &result);
    c->done(c->ctx, &st, result);
    upb_Arena_Free(arena);
    bufslice_unref(r->result);
    free(c);
}

/* ---- Commands of clients --------------------------------------------------------------------- */

enum thole_code agent_refuse_zero(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "shard: zero is the registry; read and change it through the services "
                      "Hosts, Shards, Pools, Replicas, Operations, Events and Cluster");
}

static int64_t now_ms(void)
{
    return (int64_t)clock_system.wall_ms(&clock_system);
}

static bool right_is(struct access_right *ret, int32_t verb, uint32_t kinds, upb_StringView name)
{
    *ret = (struct access_right){.verb = verb, .kinds = kinds, .name = registry_str(name)};
    return true;
}

/* The right that an operation needs. Those that are not here are for hosts only: false. */
static bool right_of(const thole_registry_v1_Operation *op, struct access_right *ret)
{
    if (thole_registry_v1_Operation_has_create_shard(op)) {
        return right_is(
            ret, thole_v1_ROLE_VERB_CREATE, ACCESS_KIND(SHARDS),
            thole_registry_v1_CreateShard_name(thole_registry_v1_Operation_create_shard(op)));
    }
    if (thole_registry_v1_Operation_has_update_shard(op)) {
        const thole_registry_v1_UpdateShard *u = thole_registry_v1_Operation_update_shard(op);
        return right_is(ret,
                        thole_registry_v1_UpdateShard_allow_missing(u) ? thole_v1_ROLE_VERB_CREATE
                                                                       : thole_v1_ROLE_VERB_UPDATE,
                        ACCESS_KIND(SHARDS), thole_registry_v1_UpdateShard_name(u));
    }
    if (thole_registry_v1_Operation_has_delete_shard(op)) {
        return right_is(
            ret, thole_v1_ROLE_VERB_DELETE, ACCESS_KIND(SHARDS),
            thole_registry_v1_DeleteShard_name(thole_registry_v1_Operation_delete_shard(op)));
    }
    if (thole_registry_v1_Operation_has_create_replica(op)) {
        return right_is(
            ret, thole_v1_ROLE_VERB_CREATE, ACCESS_KIND(REPLICAS),
            thole_registry_v1_CreateReplica_shard(thole_registry_v1_Operation_create_replica(op)));
    }
    /* A replica is named by its id, so the right must be for all shards. */
    return thole_registry_v1_Operation_has_remove_replica(op) &&
           right_is(ret, thole_v1_ROLE_VERB_DELETE, ACCESS_KIND(REPLICAS),
                    (upb_StringView){NULL, 0});
}

static enum thole_code check_client(const struct router_client *client,
                                    const thole_registry_v1_Command *c, struct bus_denial *ret)
{
    size_t n = 0;
    const thole_registry_v1_Operation *const *ops = thole_registry_v1_Command_operations(c, &n);
    for (size_t i = 0; i < n; i++) {
        struct access_right right = {0};
        if (!right_of(ops[i], &right)) {
            return THOLE_FAIL(&ret->st, THOLE_PERMISSION_DENIED, THOLE_REASON_BAD_REQUEST,
                              "command: only hosts may propose this operation");
        }
        if (access_require(client->access, client->user, &right, ret) != THOLE_OK) {
            return ret->st.code;
        }
    }
    return THOLE_OK;
}

enum thole_code router_admit_command(struct slice given, const struct router_client *client,
                                     struct bufslice *ret, struct bus_denial *ret_why)
{
    upb_Arena *arena = upb_Arena_New();
    const char *why = NULL;
    enum thole_code code = THOLE_OK;
    thole_registry_v1_Command *c =
        proto_decode(&thole_registry_v1_Command_msginit, given, false, arena, &why);
    *ret = (struct bufslice){.bytes = given};
    ret_why->right[0] = '\0';
    if (c == NULL) {
        code = THOLE_FAIL(&ret_why->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "command: %s", why);
    } else if (client != NULL) {
        code = check_client(client, c, ret_why);
    }
    if (code == THOLE_OK && client != NULL) {
        char actor[ACCESS_ACTOR_BYTES];
        ASSERT(c != NULL);
        registry_command_stamp(c, access_actor(client->user, actor), now_ms(), arena);
        registry_command_set_origin(c, client->address, "Library.Propose", arena);
        thole_registry_v1_Command_set_decided_at(c, 0);
        *ret = registry_command_encode(c, arena);
    }
    upb_Arena_Free(arena);
    return code;
}

/* ---- Commands of this host ------------------------------------------------------------------- */

thole_registry_v1_Command *agent_command_new(const char *actor, upb_Arena *arena)
{
    return registry_command_new(actor, now_ms(), arena);
}

void agent_command(struct agent *a, struct bufslice command, uint64_t deadline_ns,
                   agent_command_fn done, void *ctx)
{
    struct command *c = xcalloc(1, sizeof *c);
    c->done = done;
    c->ctx = ctx;
    c->r.kind = ROUTER_PROPOSE;
    c->r.shard_id = REGISTRY_SHARD_ID;
    c->r.payload = command;
    c->r.deadline_ns = deadline_ns;
    c->r.done = command_done;
    agent_route(a, &c->r);
}

/* ---- The barrier ----------------------------------------------------------------------------- */

struct barrier {
    struct router_request r;
    struct agent *agent;
    void (*done)(void *ctx, const struct thole_status *st);
    void *ctx;
};

/* The local replica has applied the read point, so its view was published. The machine's answer
 * does not matter. */
static void barrier_done(struct router_request *r)
{
    struct barrier *b = CONTAINER_OF(r, struct barrier, r);
    struct thole_status st = r->status;
    b->done(b->ctx, &st);
    bufslice_unref(r->result);
    free(b);
}

void agent_barrier(struct agent *a, uint64_t deadline_ns,
                   void (*done)(void *ctx, const struct thole_status *st), void *ctx)
{
    struct barrier *b = xcalloc(1, sizeof *b);
    b->agent = a;
    b->done = done;
    b->ctx = ctx;
    b->r.kind = ROUTER_QUERY;
    b->r.shard_id = REGISTRY_SHARD_ID;
    b->r.deadline_ns = deadline_ns;
    b->r.done = barrier_done;
    agent_route(a, &b->r);
}

/* ---- Names ----------------------------------------------------------------------------------- */

bool agent__view_is_formed(const struct registry_view *v, struct thole_status *st)
{
    struct uuid cluster;
    bool formed = registry_view_cluster(v, &cluster);
    if (!formed) {
        (void)THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "this host has no view of the registry yet: retry, or use another host");
    }
    return formed;
}

bool agent_has_view(struct agent *a, struct thole_status *st)
{
    struct registry_view *v = registry_view_acquire(a->registry);
    bool has = agent__view_is_formed(v, st);
    registry_view_release(v);
    return has;
}
