/* Which rights a call needs: the names in its request, for the rules of agent/access/rules.c. */
#include <stdio.h>
#include <string.h>

#include "agent/services/services_internal.h"

#include "thole/v1/repair.upb.h"

/* ---- Names in requests ----------------------------------------------------------------------- */

#define NAME_OF(message, field, collection)                                                       \
    upb_StringView services__name_of_##message(const struct call *c)                              \
    {                                                                                             \
        return services__name_strip(thole_v1_##message##Request_##field(c->request), collection); \
    }

NAME_OF(GetHost, name, "hosts")
NAME_OF(DeleteHost, name, "hosts")
NAME_OF(GetShard, name, "shards")
NAME_OF(DeleteShard, name, "shards")
NAME_OF(TransferLeader, shard, "shards")
NAME_OF(GetPool, name, "pools")
NAME_OF(DeletePool, name, "pools")
NAME_OF(GetRole, name, "roles")
NAME_OF(DeleteRole, name, "roles")
NAME_OF(CreateToken, user, "users")
NAME_OF(CreateReplica, shard, "shards")
NAME_OF(DrainHost, name, "hosts")
NAME_OF(UndrainHost, name, "hosts")
NAME_OF(CordonHost, name, "hosts")
NAME_OF(UncordonHost, name, "hosts")
NAME_OF(DecommissionHost, name, "hosts")
NAME_OF(MoveShard, shard, "shards")
NAME_OF(RestoreSnapshot, name, "shards")
NAME_OF(GetLogLevels, name, "hosts")
NAME_OF(SetLogLevels, name, "hosts")
NAME_OF(GetHostReport, name, "hosts")
NAME_OF(PlanRepair, shard, "shards")
NAME_OF(RunRepair, shard, "shards")

/* The name of a row in the request; the row may be missing. */
#define NAME_OF_ROW(message, row, type, collection)                                    \
    upb_StringView services__name_of_##message(const struct call *c)                   \
    {                                                                                  \
        const thole_v1_##type *r = thole_v1_##message##Request_##row(c->request);      \
        return r != NULL ? services__name_strip(thole_v1_##type##_name(r), collection) \
                         : (upb_StringView){NULL, 0};                                  \
    }

NAME_OF_ROW(UpdateHost, host, Host, "hosts")
NAME_OF_ROW(CreateShard, shard, Shard, "shards")
NAME_OF_ROW(UpdateShard, shard, Shard, "shards")
NAME_OF_ROW(CreatePool, pool, ShardPool, "pools")
NAME_OF_ROW(UpdatePool, pool, ShardPool, "pools")
NAME_OF_ROW(CreateRole, role, Role, "roles")
NAME_OF_ROW(UpdateRole, role, Role, "roles")

static upb_StringView copy_name(const struct call *c, upb_StringView name)
{
    char *copy = upb_Arena_Malloc(c->arena, name.size + 1);
    if (name.size > 0) {
        memcpy(copy, name.data, name.size);
    }
    return (upb_StringView){copy, name.size};
}

/* The shard of a replica; for a replica that this host does not know the user needs the right for
 * all names. */
upb_StringView services__name_of_DeleteReplica(const struct call *c)
{
    struct registry_replica_buf buf;
    struct registry_view *v = registry_view_acquire(agent_registry(c->s->agent));
    const thole_v1_Replica *row =
        registry_replica(v, thole_v1_DeleteReplicaRequest_id(c->request), &buf);
    upb_StringView name = {NULL, 0};
    if (row != NULL) {
        name = copy_name(c, thole_v1_Replica_shard(row));
    }
    registry_view_release(v);
    return name;
}

/* The user whom a token names. */
upb_StringView services__name_of_RevokeToken(const struct call *c)
{
    struct registry_view *v = registry_view_acquire(agent_registry(c->s->agent));
    upb_StringView id = services__name_strip(thole_v1_RevokeTokenRequest_id(c->request), "tokens");
    const thole_v1_Token *row = registry_token(v, registry_str(id));
    upb_StringView name = {NULL, 0};
    if (row != NULL) {
        name = copy_name(c, thole_v1_Token_user(row));
    }
    registry_view_release(v);
    return name;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static bool refuse(struct call *c, const struct bus_denial *d)
{
    if (d->right[0] != '\0') {
        c->right = copy_name(c, upb_StringView_FromString(d->right)).data;
        ((char *)(uintptr_t)c->right)[strlen(d->right)] = '\0';
    }
    services__call_fail(c, &d->st);
    return false;
}

bool services__call_may(struct call *c, int32_t verb, uint32_t kinds, upb_StringView name)
{
    struct bus_denial d = {.right = ""};
    const struct access_right right = {.verb = verb, .kinds = kinds, .name = registry_str(name)};
    return access_require_of(agent_access(c->s->agent), c->rpc, &right, c->unary->path, &d) ==
               THOLE_OK ||
           refuse(c, &d);
}

/* An update that creates what is missing needs both rights, and without the second one it may still
 * change what is there. */
bool services__call_may_create(struct call *c, uint32_t kinds, upb_StringView name,
                               bool (*exists)(const struct registry_view *v, struct slice name),
                               bool *allow_missing)
{
    struct bus_denial d = {.right = ""};
    const struct access_right right = {
        .verb = thole_v1_ROLE_VERB_CREATE, .kinds = kinds, .name = registry_str(name)};
    struct access *a = agent_access(c->s->agent);
    if (!*allow_missing || access_require(a, bus_rpc_user(c->rpc), &right, &d) == THOLE_OK) {
        return true;
    }
    struct registry_view *v = registry_view_acquire(agent_registry(c->s->agent));
    bool updates = exists(v, right.name);
    registry_view_release(v);
    if (!updates) {
        access_report(a, bus_rpc_user(c->rpc), bus_rpc_peer(c->rpc), c->unary->path, &d);
        return refuse(c, &d);
    }
    *allow_missing = false;
    return true;
}

bool services__call_is_allowed(struct call *c)
{
    const struct access_rule *rule = access_rule(c->unary->path);
    struct bus_denial d = {.right = ""};
    if (rule == NULL || (rule->level != ACCESS_OBJECT && rule->level != ACCESS_DATA)) {
        return true; /* access_admit has already judged the call */
    }
    if (rule->level == ACCESS_DATA && c->unary->name == NULL) {
        return true; /* the right for some shard was judged already */
    }
    struct access_right right = {.data = rule->level == ACCESS_DATA, .verb = rule->verb};
    right.kinds = right.data ? 0 : UINT32_C(1) << rule->kind;
    if (c->unary->name != NULL) {
        right.name = registry_str(c->unary->name(c));
    }
    return access_require_of(agent_access(c->s->agent), c->rpc, &right, c->unary->path, &d) ==
               THOLE_OK ||
           refuse(c, &d);
}

/* ---- Streams and data ------------------------------------------------------------------------ */

bool services__stream_is_allowed(struct services *s, struct bus_rpc *rpc, const char *path,
                                 const struct access_right *right)
{
    struct bus_denial d = {.right = ""};
    if (access_require_of(agent_access(s->agent), rpc, right, path, &d) == THOLE_OK) {
        return true;
    }
    services__fail(rpc, &d.st,
                   d.right[0] != '\0' ? (const char *const[]){"right", d.right, NULL} : NULL);
    return false;
}

enum thole_code services__data_allowed(struct data_call *d, struct thole_status *st)
{
    static const char *const paths[] = {[ROUTER_PROPOSE] = "/thole.v1.Data/Propose",
                                        [ROUTER_OPEN_SESSION] = "/thole.v1.Data/OpenSession",
                                        [ROUTER_CLOSE_SESSION] = "/thole.v1.Data/CloseSession",
                                        [ROUTER_QUERY] = "/thole.v1.Data/Query"};
    struct bus_denial denial = {.right = ""};
    const struct access_right right = {.data = true,
                                       .verb = d->route.kind == ROUTER_QUERY
                                                   ? thole_v1_DATA_RIGHT_READ
                                                   : thole_v1_DATA_RIGHT_WRITE,
                                       .name = slice_str(d->shard)};
    enum thole_code code = access_require_of(
        agent_access(d->s->agent), d->rpc, &right,
        d->route.streamed ? "/thole.v1.Data/QueryStream" : paths[d->route.kind], &denial);
    if (code != THOLE_OK) {
        *st = denial.st;
        d->right = denial.right[0] != '\0' ? xstrdup(denial.right) : NULL;
    }
    return code;
}
