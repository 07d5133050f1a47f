/* Parts of packed rows that many rows have in common, each held once: specs and conditions of
 * shards (made or reported in the same batch), ids and names of hosts, names of pools. Whether a
 * part is shared follows from its type, or its field and length, so a reader needs no mark for it.
 */
#include "registry/rows/row.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/map.h"

/* One table for the process: the last reader of a row may be on any thread. The lock is held for a
 * few instructions. Readers take it only when the last row that refers to a part is freed. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map parts; /* hash -> struct part */

bool registry__shares(const upb_MiniTable *table)
{
    return table == &thole_v1_ShardSpec_msginit || table == &thole_v1_Condition_msginit;
}

bool registry__shares_string(const upb_MiniTable *table, const upb_MiniTable_Field *f, size_t size)
{
    bool common = (table == &thole_v1_Replica_msginit && f->number == 5) ||     /* host */
                  (table == &thole_v1_ShardStatus_msginit && f->number == 3) || /* leader_host */
                  (table == &thole_v1_Shard_msginit && f->number == 11);        /* pool */
    return size == UUID_TEXT_BYTES - 1 || (common && size > REGISTRY_REFERENCE_BYTES);
}

static struct part *find(uint64_t hash, struct slice packed, const upb_MiniTable *table)
{
    pthread_mutex_lock(&lock);
    struct part *p = map_get(&parts, hash);
    while (p != NULL && (p->table != table || !slice_equal(slice_of(p->packed, p->size), packed))) {
        p = p->next;
    }
    if (p != NULL) {
        atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&lock);
    return p;
}

static const struct part *add(struct part *p)
{
    atomic_init(&p->refs, 1);
    pthread_mutex_lock(&lock);
    p->next = map_put(&parts, p->hash, p);
    pthread_mutex_unlock(&lock);
    return p;
}

static void take_out(const struct part *p)
{
    struct part *first = map_get(&parts, p->hash);
    struct part **at = &first;
    while (*at != p) {
        ASSERT(*at != NULL);
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

const struct part *registry__share(struct slice packed, const upb_MiniTable *table, const void *msg)
{
    uint64_t hash = hash64(packed.data, packed.size, table != NULL);
    struct part *p = find(hash, packed, table);
    if (p != NULL) {
        return p;
    }
    size_t opened = 0;
    if (table != NULL) {
        (void)registry__can_pack(msg, table, false, &opened);
    }
    p = xmalloc(sizeof *p + opened + packed.size);
    uint8_t *bytes = p->data + opened;
    memcpy(bytes, packed.data, packed.size);
    p->table = table;
    p->hash = hash;
    p->packed = bytes;
    p->size = packed.size;
    p->content = bytes;
    if (table != NULL) {
        struct opening o = {.from = bytes, .to = p->data, .room = opened};
        p->content = registry__open_message(&o, table);
    } else if (!uuid_parse(packed, &p->uuid)) {
        p->uuid = (struct uuid){0};
    }
    return add(p);
}

void registry__unshare(const struct part *part)
{
    struct part *p = (struct part *)(uintptr_t)part; /* NOLINT */
    uint32_t refs = atomic_load_explicit(&p->refs, memory_order_relaxed);
    ASSERT(refs > 0);
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
