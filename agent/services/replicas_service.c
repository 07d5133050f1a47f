/* thole.v1.Replicas. */
#include <string.h>

#include "agent/services/services_internal.h"

/* The filter of a list, with resolved names. */
struct filter {
    bool of_shard, of_host;
    uint64_t shard_id;
    struct uuid host_id;
};

static const thole_v1_Replica *next_replica(struct registry_view *v, const struct filter *f,
                                            uint64_t after, struct registry_replica_buf *buf)
{
    if (!f->of_shard) {
        return f->of_host ? registry_next_replica_of_host(v, &f->host_id, after, buf)
                          : registry_next_replica(v, after, buf);
    }
    const thole_v1_Replica *row = NULL;
    while ((row = registry_next_replica_of_shard(v, f->shard_id, after, buf)) != NULL) {
        struct uuid host;
        struct slice id = registry_str(thole_v1_Replica_host_id(row));
        if (!f->of_host || (uuid_parse(id, &host) && uuid_equal(&host, &f->host_id))) {
            break;
        }
        after = thole_v1_Replica_id(row);
    }
    return row;
}

static bool resolve(struct call *c, struct filter *f)
{
    struct registry_shard_buf shard_buf;
    const thole_v1_ListReplicasRequest *q = c->request;
    upb_StringView shard = services__name_strip(thole_v1_ListReplicasRequest_shard(q), "shards");
    upb_StringView host = services__name_strip(thole_v1_ListReplicasRequest_host(q), "hosts");
    struct thole_status st;
    if (shard.size > 0) {
        const thole_v1_Shard *row =
            registry_shard_by_name(c->view, registry_str(shard), &shard_buf);
        if (row == NULL) {
            (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                             "shard \"%.*s\" not found", (int)shard.size, shard.data);
            services__call_fail(c, &st);
            return false;
        }
        f->of_shard = true;
        f->shard_id = thole_v1_Shard_id(row);
    }
    if (host.size > 0) {
        const thole_v1_Host *row = registry_host_by_name(c->view, registry_str(host));
        if (row == NULL || !uuid_parse(registry_str(thole_v1_Host_id(row)), &f->host_id)) {
            (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST,
                             "host \"%.*s\" not found", (int)host.size, host.data);
            services__call_fail(c, &st);
            return false;
        }
        f->of_host = true;
    }
    return true;
}

static void list_run(struct call *c)
{
    const thole_v1_ListReplicasRequest *q = c->request;
    struct filter f = {0};
    struct page p;
    struct bytes key = {0};
    struct registry_replica_buf buf;
    if (!resolve(c, &f) ||
        !services__page_begin(&p, c, PAGE_REPLICAS, thole_v1_ListReplicasRequest_page_size(q),
                              thole_v1_ListReplicasRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    uint64_t last = key.size == 8 ? get_be64(key.data) : 0;
    bytes_deinit(&key);
    const thole_v1_Replica *row = NULL;
    while ((row = next_replica(c->view, &f, last, &buf)) != NULL) {
        if (!services__page_add(&p, c, row, &thole_v1_Replica_msginit)) {
            break;
        }
        last = thole_v1_Replica_id(row);
    }
    uint8_t last_key[8];
    put_be64(last_key, last);
    struct slice token = slice_of(last_key, sizeof last_key);
    services__page_reply(&p, c, PAGE_REPLICAS, row != NULL ? &token : NULL);
}

void services__replicas_list(struct call *c)
{
    const thole_v1_ListReplicasRequest *q = c->request;
    services__call_read(c, thole_v1_ListReplicasRequest_stale(q), list_run);
}

void services__replicas_create(struct call *c)
{
    const thole_v1_CreateReplicaRequest *q = c->request;
    upb_StringView shard = services__name_strip(thole_v1_CreateReplicaRequest_shard(q), "shards");
    upb_StringView host = services__name_strip(thole_v1_CreateReplicaRequest_host(q), "hosts");
    upb_StringView request_id = thole_v1_CreateReplicaRequest_request_id(q);
    int32_t role = thole_v1_CreateReplicaRequest_role(q);
    services__call_about(c, "shard", shard);
    if (!services__call_name(c, "shard", shard) || !services__call_name(c, "host", host) ||
        !services__call_request_id(c, request_id)) {
        return;
    }
    if (role == thole_v1_REPLICA_ROLE_UNSPECIFIED) {
        role = thole_v1_REPLICA_ROLE_VOTER;
    }
    struct registry_violation v;
    if (!services__call_checked(c, registry_check_user_role(role, &v), &v)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_CreateReplica *create =
        thole_registry_v1_Operation_mutable_create_replica(op, c->arena);
    thole_registry_v1_CreateReplica_set_shard(create, shard);
    thole_registry_v1_CreateReplica_set_host(create, host);
    thole_registry_v1_CreateReplica_set_role(create, role);
    services__call_command(c, op, request_id, false, &thole_v1_Replica_msginit);
}

void services__replicas_delete(struct call *c)
{
    const thole_v1_DeleteReplicaRequest *q = c->request;
    upb_StringView request_id = thole_v1_DeleteReplicaRequest_request_id(q);
    if (thole_v1_DeleteReplicaRequest_id(q) == 0) {
        services__call_refuse(c, "id", "is needed");
        return;
    }
    if (!services__call_request_id(c, request_id)) {
        return;
    }
    thole_registry_v1_Operation *op = services__call_operation(c);
    thole_registry_v1_RemoveReplica *del =
        thole_registry_v1_Operation_mutable_remove_replica(op, c->arena);
    thole_registry_v1_RemoveReplica_set_replica_id(del, thole_v1_DeleteReplicaRequest_id(q));
    thole_registry_v1_RemoveReplica_set_reason(del,
                                               upb_StringView_FromString("requested by the user"));
    services__call_command(c, op, request_id, false, NULL);
}
