/* Linear probing in a power of two of slots; an empty slot has value NULL. Removal shifts the rest
 * of the run back (Knuth, 6.4, algorithm R), so there are no tombstones and a map that saw many
 * removals is as fast as a fresh one. */
#include "base/map.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"

#define CAPACITY_MIN 8

/* Ids are sequential: spread them over all bits (finaliser of splitmix64), but keep neighbours
 * together, because they are often used together: four to a cache line, eight to a run. */
static uint64_t mix(uint64_t key)
{
    uint64_t place = key & 7;
    key >>= 3;
    key = (key ^ (key >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    key = (key ^ (key >> 27)) * UINT64_C(0x94d049bb133111eb);
    return ((key ^ (key >> 31)) << 3) + place;
}

static size_t home(const struct map *m, uint64_t key)
{
    return (size_t)mix(key) & (m->capacity - 1);
}

/* The slot that holds `key`, or the empty one where it would go. The table is never full. */
static struct map_slot *probe(const struct map *m, uint64_t key)
{
    ASSERT(m->count < m->capacity);
    size_t i = home(m, key);
    while (m->slots[i].value != NULL && m->slots[i].key != key) {
        i = (i + 1) & (m->capacity - 1);
    }
    return &m->slots[i];
}

static void grow(struct map *m)
{
    struct map old = *m;
    m->capacity = old.capacity == 0 ? CAPACITY_MIN : old.capacity * 2;
    m->slots = xcalloc(m->capacity, sizeof *m->slots);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i].value != NULL) {
            *probe(m, old.slots[i].key) = old.slots[i];
        }
    }
    free(old.slots);
}

void map_deinit(struct map *m)
{
    if (m == NULL) {
        return;
    }
    free(m->slots);
    *m = (struct map){0};
}

void *map_get(const struct map *m, uint64_t key)
{
    return m->count == 0 ? NULL : probe(m, key)->value;
}

void *map_put(struct map *m, uint64_t key, void *value)
{
    ASSERT(value != NULL);
    if (m->count >= m->capacity / 4 * 3) {
        grow(m);
    }
    struct map_slot *slot = probe(m, key);
    void *replaced = slot->value;
    *slot = (struct map_slot){.key = key, .value = value};
    if (replaced == NULL) {
        m->count++;
    }
    return replaced;
}

/* Whether going forward from `from`, cyclically, one meets `a` not later than `b`. */
static bool not_later(const struct map *m, size_t from, size_t a, size_t b)
{
    size_t mask = m->capacity - 1;
    return ((a - from) & mask) <= ((b - from) & mask);
}

void *map_remove(struct map *m, uint64_t key)
{
    if (m->count == 0) {
        return NULL;
    }
    struct map_slot *slot = probe(m, key);
    void *removed = slot->value;
    if (removed == NULL) {
        return NULL;
    }
    size_t hole = (size_t)(slot - m->slots);
    for (size_t i = hole;;) {
        i = (i + 1) & (m->capacity - 1);
        if (m->slots[i].value == NULL) {
            break;
        }
        /* An entry may move back into the hole if that is not before its home. */
        if (not_later(m, home(m, m->slots[i].key), hole, i)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = (struct map_slot){0};
    ASSERT(m->count > 0);
    m->count--;
    return removed;
}

void *map_next(const struct map *m, size_t *it, uint64_t *ret_key)
{
    while (*it < m->capacity) {
        const struct map_slot *slot = &m->slots[(*it)++];
        if (slot->value == NULL) {
            continue;
        }
        if (ret_key != NULL) {
            *ret_key = slot->key;
        }
        return slot->value;
    }
    return NULL;
}
