/* Parts of packed rows that many rows have in common, each held once: specs and conditions of shards,
 * which were made or reported in the same batch, and ids of hosts. What is shared is told by its type or
 * length alone (registry__shares), so that a row that goes knows what to give back. */
#include "registry/registry_internal.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/map.h"

struct part {
    struct part *next; /* of the same hash */
    uint64_t hash;
    const upb_MiniTable *table; /* NULL: the text of a UUID */
    _Atomic uint32_t refs;      /* becomes 0 under `lock` only */
    _Alignas(8) uint8_t data[];
};

/* One for the process: rows of all views, and their last readers may be any thread. The lock is held for a
 * few instructions, and by readers only when the last row goes that had a part. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map parts; /* hash -> struct part */

bool registry__shares(const upb_MiniTable *table)
{
    return table == &thole_v1_ShardSpec_msginit || table == &thole_v1_Condition_msginit;
}

bool registry__shares_string(upb_StringView s)
{
    return s.size == UUID_TEXT_BYTES - 1;
}

static const void *content(const struct part *p)
{
    return p->data + (p->table == NULL ? 0 : sizeof(upb_Message_Internal));
}

static struct part *find(uint64_t hash, const upb_MiniTable *table)
{
    pthread_mutex_lock(&lock);
    struct part *p = map_get(&parts, hash);
    while (p != NULL && p->table != table) {
        p = p->next;
    }
    if (p != NULL) {
        atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&lock);
    return p;
}

static const void *add(struct part *p, uint64_t hash, const upb_MiniTable *table)
{
    p->table = table;
    p->hash = hash;
    atomic_init(&p->refs, 1);
    pthread_mutex_lock(&lock);
    p->next = map_put(&parts, hash, p);
    pthread_mutex_unlock(&lock);
    return content(p);
}

static void take_out(const struct part *p)
{
    struct part *first = map_get(&parts, p->hash);
    struct part **at = &first;
    while (*at != p) {
        at = &(*at)->next;
    }
    *at = p->next;
    if (first != NULL) {
        (void)map_put(&parts, p->hash, first);
    } else {
        (void)map_remove(&parts, p->hash);
    }
    if (parts.count == 0) {
        map_deinit(&parts);
    }
}

static void drop(const void *data)
{
    struct part *p = (struct part *)((uintptr_t)data - offsetof(struct part, data));
    uint32_t refs = atomic_load_explicit(&p->refs, memory_order_relaxed);
    while (refs > 1) {
        if (atomic_compare_exchange_weak_explicit(&p->refs, &refs, refs - 1, memory_order_release,
                                                  memory_order_relaxed)) {
            return;
        }
    }
    pthread_mutex_lock(&lock);
    bool last = atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1;
    if (last) {
        take_out(p);
    }
    pthread_mutex_unlock(&lock);
    if (last) {
        free(p);
    }
}

const void *registry__share(const void *msg, const upb_MiniTable *table, upb_Arena *scratch)
{
    struct slice bytes = registry__encode(msg, table, scratch);
    uint64_t hash = hash64(bytes.data, bytes.size, 1);
    struct part *p = find(hash, table);
    if (p != NULL && slice_equal(bytes, registry__encode(content(p), table, scratch))) {
        return content(p);
    }
    if (p != NULL) {
        drop(p->data); /* by chance: that one has the same hash */
    }
    struct packed_size size = registry__packed_size(msg, table);
    p = xmalloc(sizeof(*p) + size.structs + size.strings);
    (void)registry__pack_into(p->data, size, msg, table);
    return add(p, hash, table);
}

const char *registry__share_string(upb_StringView s)
{
    uint64_t hash = hash64(s.data, s.size, 0);
    struct part *p = find(hash, NULL);
    if (p != NULL && memcmp(p->data, s.data, s.size) == 0) {
        return content(p);
    }
    if (p != NULL) {
        drop(p->data);
    }
    p = xmalloc(sizeof(*p) + s.size);
    memcpy(p->data, s.data, s.size);
    return add(p, hash, NULL);
}

void registry__unshare(const void *msg)
{
    drop((const upb_Message_Internal *)msg - 1);
}

void registry__unshare_string(const char *s)
{
    drop(s);
}

size_t registry__shared_count(void)
{
    pthread_mutex_lock(&lock);
    size_t n = 0;
    size_t it = 0;
    const struct part *p;
    while ((p = map_next(&parts, &it, NULL)) != NULL) {
        for (; p != NULL; p = p->next) {
            n++;
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}
