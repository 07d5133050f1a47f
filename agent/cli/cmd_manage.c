/* Commands that change one thing: delete, replicas, leadership. */
#include <inttypes.h>
#include <string.h>

#include "agent/cli/cmd_wait.h"
#include "thole/v1/control.upbdefs.h"

/* Prints what was done, and waits if --wait is given. A document says how the wait ended. */
static int done(struct cli *c, struct wait_item *item, const char *name, const char *what,
                const void *row)
{
    bool document = cli__is_document(c);
    int result = CLI_OK;
    if (!document) {
        printf("%s %s\n", name, what);
        result = cli__flush();
    }
    if (result == CLI_OK && item != NULL && cli_flag(c, OPT_WAIT)) {
        result = wait_all(c, item, 1, wait_timeout_ms(c));
        if (result == CLI_OK && item->what == WAIT_DELETED) {
            what = "deleted";
            if (!document) {
                printf("%s %s\n", name, what);
            }
        }
    }
    if (document && row != NULL) {
        cli__document(c, "Replica", row, rows_def(c, ROWS_REPLICAS));
    } else if (document) {
        struct bytes out = {0};
        cli__document_begin(&out, "Deletion");
        cli__document_text(&out, "name", name);
        cli__document_text(&out, "result", what);
        cli__document_end(c, &out);
    }
    int flushed = cli__flush();
    return result == CLI_OK ? flushed : result;
}

static int deleted(struct cli *c, struct wait_item *item, const char *collection, const char *name)
{
    char resource[ROWS_NAME_BYTES];
    snprintf(resource, sizeof resource, "%s/%s", collection, name);
    return done(c, item, resource, item->kind == ROWS_HOSTS ? "deleted" : "deleting", NULL);
}

/* ---- Delete ---------------------------------------------------------------------------------- */

static int delete_shard(struct cli *c, const char *name)
{
    struct thole_status st;
    const thole_v1_DeleteShardResponse *reply = NULL;
    const thole_v1_Shard *row = NULL;
    uint64_t id = 0;
    if (cli_flag(c, OPT_WAIT) && rows_get_shard(c, name, false, &row, &st) == THOLE_OK) {
        id = thole_v1_Shard_id(row); /* a pool may create another shard with this name */
    }
    thole_v1_DeleteShardRequest *request = thole_v1_DeleteShardRequest_new(c->arena);
    thole_v1_DeleteShardRequest_set_name(request, cli__sv(name));
    thole_v1_DeleteShardRequest_set_allow_missing(request, cli_flag(c, OPT_ALLOW_MISSING));
    thole_v1_DeleteShardRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Shards, DeleteShard, request, &reply, DeleteShardResponse, &st)) {
        return cli__say_status("cannot delete the shard", &st);
    }
    struct wait_item item = {.kind = ROWS_SHARDS, .what = WAIT_DELETED, .name = name, .id = id};
    return deleted(c, &item, "shards", name);
}

static int delete_pool(struct cli *c, const char *name)
{
    struct thole_status st;
    const thole_v1_DeletePoolResponse *reply = NULL;
    thole_v1_DeletePoolRequest *request = thole_v1_DeletePoolRequest_new(c->arena);
    thole_v1_DeletePoolRequest_set_name(request, cli__sv(name));
    thole_v1_DeletePoolRequest_set_allow_missing(request, cli_flag(c, OPT_ALLOW_MISSING));
    thole_v1_DeletePoolRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Pools, DeletePool, request, &reply, DeletePoolResponse, &st)) {
        return cli__say_status("cannot delete the pool", &st);
    }
    struct wait_item item = {.kind = ROWS_POOLS, .what = WAIT_DELETED, .name = name};
    return deleted(c, &item, "pools", name);
}

static int delete_replica(struct cli *c, const char *text)
{
    struct thole_status st;
    const thole_v1_DeleteReplicaResponse *reply = NULL;
    thole_v1_DeleteReplicaRequest *request = thole_v1_DeleteReplicaRequest_new(c->arena);
    const char *slash = strrchr(text, '/');
    uint64_t id = 0;
    if (!options_parse_number(slash != NULL ? slash + 1 : text, &id)) {
        return cli__say_usage(c, "\"%s\" is not a replica id", text);
    }
    thole_v1_DeleteReplicaRequest_set_id(request, id);
    thole_v1_DeleteReplicaRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Replicas, DeleteReplica, request, &reply, DeleteReplicaResponse, &st) &&
        !(st.code == THOLE_NOT_FOUND && cli_flag(c, OPT_ALLOW_MISSING))) {
        return cli__say_status("cannot delete the replica", &st);
    }
    struct wait_item item = {.kind = ROWS_REPLICAS, .what = WAIT_DELETED, .id = id};
    char number[24];
    snprintf(number, sizeof number, "%" PRIu64, id);
    return deleted(c, &item, "replicas", number);
}

static int delete_host(struct cli *c, const char *name)
{
    struct thole_status st;
    const thole_v1_DeleteHostResponse *reply = NULL;
    thole_v1_DeleteHostRequest *request = thole_v1_DeleteHostRequest_new(c->arena);
    thole_v1_DeleteHostRequest_set_name(request, cli__sv(name));
    thole_v1_DeleteHostRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Hosts, DeleteHost, request, &reply, DeleteHostResponse, &st) &&
        !(st.code == THOLE_NOT_FOUND && cli_flag(c, OPT_ALLOW_MISSING))) {
        return cli__say_status("cannot delete the host", &st);
    }
    struct wait_item item = {.kind = ROWS_HOSTS, .what = WAIT_DELETED, .name = name};
    return deleted(c, &item, "hosts", name);
}

static int delete_role(struct cli *c, const char *name)
{
    struct thole_status st;
    const thole_v1_DeleteRoleResponse *reply = NULL;
    thole_v1_DeleteRoleRequest *request = thole_v1_DeleteRoleRequest_new(c->arena);
    thole_v1_DeleteRoleRequest_set_name(request, cli__sv(name));
    thole_v1_DeleteRoleRequest_set_allow_missing(request, cli_flag(c, OPT_ALLOW_MISSING));
    thole_v1_DeleteRoleRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Roles, DeleteRole, request, &reply, DeleteRoleResponse, &st)) {
        return cli__say_status("cannot delete the role", &st);
    }
    char resource[ROWS_NAME_BYTES];
    snprintf(resource, sizeof resource, "roles/%s", name);
    return done(c, NULL, resource, "deleted", NULL); /* there is nothing to wait for */
}

int cli__command_delete(struct cli *c)
{
    const char *kind = c->args[0];
    if (strcmp(kind, "shard") == 0 || strcmp(kind, "shards") == 0) {
        return delete_shard(c, cli__strip(c->args[1], "shard"));
    }
    if (strcmp(kind, "replica") == 0 || strcmp(kind, "replicas") == 0) {
        return delete_replica(c, c->args[1]);
    }
    if (strcmp(kind, "host") == 0 || strcmp(kind, "hosts") == 0) {
        return delete_host(c, cli__strip(c->args[1], "host"));
    }
    if (strcmp(kind, "pool") == 0 || strcmp(kind, "pools") == 0) {
        return delete_pool(c, cli__strip(c->args[1], "pool"));
    }
    if (strcmp(kind, "role") == 0 || strcmp(kind, "roles") == 0) {
        return delete_role(c, cli__strip(c->args[1], "role"));
    }
    return cli__say_usage(c, "\"%s\" is not one of shard, pool, replica, host, role", kind);
}

/* ---- Replicas -------------------------------------------------------------------------------- */

int cli__command_replica_create(struct cli *c)
{
    struct thole_status st;
    const thole_v1_Replica *reply = NULL;
    thole_v1_CreateReplicaRequest *request = thole_v1_CreateReplicaRequest_new(c->arena);
    thole_v1_CreateReplicaRequest_set_shard(request, cli__sv(cli__strip(c->args[0], "shard")));
    thole_v1_CreateReplicaRequest_set_host(request, cli__sv(cli__strip(c->args[1], "host")));
    thole_v1_CreateReplicaRequest_set_role(request, cli_flag(c, OPT_NON_VOTING)
                                                        ? thole_v1_REPLICA_ROLE_NON_VOTING
                                                        : thole_v1_REPLICA_ROLE_VOTER);
    thole_v1_CreateReplicaRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Replicas, CreateReplica, request, &reply, Replica, &st)) {
        return cli__say_status("cannot create the replica", &st);
    }
    char name[ROWS_NAME_BYTES];
    struct wait_item item = {
        .kind = ROWS_REPLICAS, .what = WAIT_RUNNING, .id = thole_v1_Replica_id(reply)};
    return done(c, &item, rows_name(ROWS_REPLICAS, reply, name, sizeof name), "created", reply);
}

int cli__command_replica_delete(struct cli *c)
{
    return delete_replica(c, c->args[0]);
}

/* ---- Leadership ------------------------------------------------------------------------------ */

int cli__command_shard_transfer(struct cli *c)
{
    struct thole_status st;
    const thole_v1_TransferLeaderResponse *reply = NULL;
    const char *name = cli__strip(c->args[0], "shard");
    uint64_t to = 0;
    thole_v1_TransferLeaderRequest *request = thole_v1_TransferLeaderRequest_new(c->arena);
    if (cli_given(c, OPT_TO) && !options_parse_number(cli_text(c, OPT_TO), &to)) {
        thole_v1_TransferLeaderRequest_set_host(request,
                                                cli__sv(cli__strip(cli_text(c, OPT_TO), "host")));
    }
    thole_v1_TransferLeaderRequest_set_shard(request, cli__sv(name));
    thole_v1_TransferLeaderRequest_set_replica_id(request, to);
    if (CLI_CALL(c, Shards, TransferLeader, request, &reply, TransferLeaderResponse, &st)) {
        return cli__say_status("cannot transfer the leadership", &st);
    }
    if (cli__is_document(c)) {
        cli__document(c, "LeaderTransfer", reply,
                      thole_v1_TransferLeaderResponse_getmsgdef(c->pool));
        return cli__flush();
    }
    printf("shards/%s is led by replica %" PRIu64 " on %.*s\n", name,
           thole_v1_TransferLeaderResponse_leader_replica(reply),
           CLI_SV(thole_v1_TransferLeaderResponse_leader_host(reply)));
    return cli__flush();
}
