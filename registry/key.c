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

struct key registry__packed_key(enum registry_index index, const struct packed *p)
{
    struct key key = {.id = registry__packed_id(p)};
    switch (index) {
    case INDEX_HOST_NAMES:
    case INDEX_SHARD_NAMES:
    case INDEX_POOLS:
    case INDEX_REQUESTS:
        key.name = registry__packed_name(p);
        break;
    case INDEX_SHARD_REPLICAS:
        key.shard = registry__packed_shard(p);
        break;
    case INDEX_HOSTS:
    case INDEX_HOST_REPLICAS:
        key.host = registry__packed_host(p);
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

static int compare_hosts(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

int registry__packed_compare(enum registry_index index, const struct packed *p,
                             const struct key *key)
{
    int order = 0;
    struct uuid host;
    switch (index) {
    case INDEX_HOST_NAMES:
    case INDEX_SHARD_NAMES:
    case INDEX_POOLS:
    case INDEX_REQUESTS:
        return slice_compare(registry__packed_name(p), key->name);
    case INDEX_SHARD_REPLICAS:
        order = compare_ids(registry__packed_shard(p), key->shard);
        break;
    case INDEX_HOSTS:
    case INDEX_HOST_REPLICAS:
        host = registry__packed_host(p);
        order = compare_hosts(&host, &key->host);
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
    return order != 0 ? order : compare_ids(registry__packed_id(p), key->id);
}
