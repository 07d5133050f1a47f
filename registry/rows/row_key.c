/* The order of rows in each index. */
#include "registry/rows/row.h"

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

/* The order of an index, before the id. */
enum order { ORDER_ID, ORDER_NAME, ORDER_SHARD, ORDER_HOST };

static enum order order_of(enum registry_index index)
{
    switch (index) {
    case INDEX_HOST_NAMES:
    case INDEX_SHARD_NAMES:
    case INDEX_POOLS:
    case INDEX_ROLES:
    case INDEX_TOKENS:
    case INDEX_REQUESTS:
        return ORDER_NAME;
    case INDEX_SHARD_REPLICAS:
        return ORDER_SHARD;
    case INDEX_HOSTS:
    case INDEX_HOST_REPLICAS:
        return ORDER_HOST;
    case INDEX_SHARDS:
    case INDEX_REPLICAS:
    case INDEX_OPERATIONS:
    case INDEX_EVENTS:
    case INDEX_JOURNAL:
    case INDEX_REQUEST_ORDER:
    case INDEX_COUNT:
        break;
    }
    return ORDER_ID;
}

struct key registry__packed_key(enum registry_index index, const struct packed *p)
{
    struct key key = {.id = registry__packed_id(p)};
    enum order order = order_of(index);
    if (order == ORDER_NAME) {
        key.name = registry__packed_name(p);
    } else if (order == ORDER_SHARD) {
        key.shard = registry__packed_shard(p);
    } else if (order == ORDER_HOST) {
        key.host = registry__packed_host(p);
    }
    return key;
}

static int compare_ids(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

int registry__packed_compare(enum registry_index index, const struct packed *p,
                             const struct key *key)
{
    int result = 0;
    enum order order = order_of(index);
    if (order == ORDER_NAME) {
        return slice_compare(registry__packed_name(p), key->name);
    }
    if (order == ORDER_SHARD) {
        result = compare_ids(registry__packed_shard(p), key->shard);
    } else if (order == ORDER_HOST) {
        struct uuid host = registry__packed_host(p);
        result = memcmp(host.bytes, key->host.bytes, sizeof host.bytes);
    }
    return result != 0 ? result : compare_ids(registry__packed_id(p), key->id);
}
