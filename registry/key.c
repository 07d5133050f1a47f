/* What rows are ordered by in each index. */
#include "registry/registry_internal.h"

#include <string.h>

struct key registry__key_id(uint64_t id)
{
    return (struct key){.id = id};
}

struct key registry__key_name(struct slice name)
{
    return (struct key){.name = name};
}

struct key registry__key_host(const struct uuid *host, uint64_t id)
{
    return (struct key){.host = *host, .id = id};
}

struct key registry__key_shard(uint64_t shard, uint64_t id)
{
    return (struct key){.shard = shard, .id = id};
}

static struct slice name_of(const struct row *row)
{
    switch ((enum row_kind)row->kind) {
    case ROW_HOST:
        return registry_str(thole_v1_Host_name(row->host));
    case ROW_SHARD:
        return registry_str(thole_v1_Shard_name(row->shard));
    case ROW_POOL:
        return registry_str(thole_v1_ShardPool_name(row->pool));
    case ROW_REQUEST:
        return registry_str(thole_registry_v1_RememberedRequest_request_id(row->request));
    case ROW_REPLICA:
    case ROW_OPERATION:
    case ROW_EVENT:
    case ROW_MARK:
        break;
    }
    return (struct slice){0};
}

static uint64_t id_of(const struct row *row)
{
    switch ((enum row_kind)row->kind) {
    case ROW_SHARD:
        return thole_v1_Shard_id(row->shard);
    case ROW_REPLICA:
        return thole_v1_Replica_id(row->replica);
    case ROW_OPERATION:
        return thole_v1_Operation_id(row->operation);
    case ROW_HOST:
    case ROW_POOL:
        break;
    case ROW_EVENT:
    case ROW_REQUEST:
    case ROW_MARK:
        return row->sequence;
    }
    return 0;
}

struct key registry__row_key(enum registry_index index, const struct row *row)
{
    struct key key = {.id = id_of(row)};
    switch (index) {
    case INDEX_HOST_NAMES:
    case INDEX_SHARD_NAMES:
    case INDEX_POOLS:
    case INDEX_REQUESTS:
        key.name = name_of(row);
        break;
    case INDEX_SHARD_REPLICAS:
        key.shard = thole_v1_Replica_shard_id(row->replica);
        break;
    case INDEX_HOSTS:
    case INDEX_HOST_REPLICAS:
        key.host = row->host_id;
        break;
    case INDEX_SHARDS:
    case INDEX_REPLICAS:
    case INDEX_OPERATIONS:
    case INDEX_EVENTS:
    case INDEX_JOURNAL:
    case INDEX_REQUEST_ORDER:
    case INDEX_COUNT:
        break;
    }
    return key;
}

static int compare_ids(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

/* Lexicographic, a prefix first. */
static int compare_names(struct slice a, struct slice b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size == 0 ? 0 : memcmp(a.data, b.data, size);
    return order != 0 ? order : compare_ids(a.size, b.size);
}

int registry__row_compare(enum registry_index index, const struct row *row, const struct key *key)
{
    int order = 0;
    switch (index) {
    case INDEX_HOST_NAMES:
    case INDEX_SHARD_NAMES:
    case INDEX_POOLS:
    case INDEX_REQUESTS:
        return compare_names(name_of(row), key->name);
    case INDEX_SHARD_REPLICAS:
        order = compare_ids(thole_v1_Replica_shard_id(row->replica), key->shard);
        break;
    case INDEX_HOSTS:
    case INDEX_HOST_REPLICAS:
        order = memcmp(row->host_id.bytes, key->host.bytes, sizeof(key->host.bytes));
        break;
    case INDEX_SHARDS:
    case INDEX_REPLICAS:
    case INDEX_OPERATIONS:
    case INDEX_EVENTS:
    case INDEX_JOURNAL:
    case INDEX_REQUEST_ORDER:
    case INDEX_COUNT:
        break;
    }
    return order != 0 ? order : compare_ids(id_of(row), key->id);
}
