#include "shards/store/test/random_updates.h"

#include <stdlib.h>

enum { SLOTS = 6 };

static struct raft_entry *random_entry(struct rand *r, uint64_t index, uint64_t term)
{
    size_t size = rand_chance(r, 0.02) ? rand_below(r, 300000) : rand_below(r, 40);
    struct buf *b = buf_new(size);
    struct bufslice p = {b, slice_of(b->data, size)};
    struct raft_entry *e;

    for (size_t i = 0; i < size; i++) {
        b->data[i] = (uint8_t)rand_u64(r);
    }
    e = raft_entry_new((enum raft_entry_kind)rand_below(r, 4),
                       rand_chance(r, 0.3) ? rand_u64(r) : 0, rand_below(r, 1000), p);
    e->index = index;
    e->term = term;
    return e;
}

static void random_log_change(struct rand *r, struct guess *g, struct store_update *u,
                              struct raft_entry **entries)
{
    g->term += rand_chance(r, 0.2);
    u->has_hard = rand_chance(r, 0.8);
    u->hard = (struct raft_hard){g->term, rand_below(r, 5), g->start};
    if (rand_chance(r, 0.15)) {
        u->has_start = true;
        u->start_reset = rand_chance(r, 0.2);
        u->start_index = u->start_reset ? g->start + rand_below(r, 50)
                                        : rand_between(r, g->start, g->last + rand_below(r, 2));
        u->start_term = 0; /* the generator does not know the real term; lower is harmless */
        u->start_config = slice_str(rand_chance(r, 0.5) ? "one" : "another");
        u->machine_generation = rand_below(r, 9);
        g->last = u->start_reset || u->start_index > g->last ? u->start_index : g->last;
        g->start = u->start_index;
    }
    if (rand_chance(r, 0.8)) {
        size_t n = 1 + rand_below(r, RANDOM_ENTRIES_MAX);
        uint64_t first =
            rand_chance(r, 0.2) ? rand_between(r, g->start + 1, g->last + 1) : g->last + 1;

        g->term += first <= g->last;   /* a truncated log goes on with a higher term */
        first += rand_chance(r, 0.01); /* a gap */
        for (size_t i = 0; i < n; i++) {
            g->term += rand_chance(r, 0.05);
            entries[i] = random_entry(r, first + i, g->term);
        }
        u->entries = entries;
        u->entry_count = n;
        g->last = first + n - 1;
    }
}

/* One of a few replicas in use; now and then a new replica takes the slot of a removed one. */
static size_t pick(struct rand *r, struct guess *guesses)
{
    static size_t active[SLOTS] = {0, 1, 2, 3, 4, 5}, next = SLOTS;
    size_t *id = &active[rand_below(r, SLOTS)];

    if (guesses[*id].used && !guesses[*id].live && rand_chance(r, 0.3)) {
        *id = next < RANDOM_IDS - 1 ? next++ : next;
    }
    return *id;
}

void random_batch(struct rand *r, struct guess *guesses, struct random_batch *b)
{
    *b = (struct random_batch){.count = 1 + rand_below(r, RANDOM_UPDATES_MAX)};
    for (size_t i = 0; i < b->count; i++) {
        size_t id = pick(r, guesses);
        struct guess *g = &guesses[id];
        struct store_update *u = &b->u[i];

        u->replica_id = id + 1;
        /* Ids are never reused: a reopened store may have forgotten that an id was used. */
        if (!g->used) {
            b->identity[i] = (struct store_identity){
                .replica_id = id + 1, .shard_id = 5, .descriptor = slice_str("d")};
            u->create = &b->identity[i];
            *g = (struct guess){.live = true, .used = true};
        }
        if (g->live && rand_chance(r, 0.01)) {
            u->create = NULL;
            u->remove = true;
            g->live = false;
        } else if (!g->live && rand_chance(r, 0.3)) {
            u->forget = true;
        } else {
            random_log_change(r, g, u, b->entries[i]);
        }
    }
}

void random_batch_free(struct random_batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        for (size_t j = 0; j < b->u[i].entry_count; j++) {
            raft_entry_unref(b->entries[i][j]);
        }
    }
}

uint64_t random_option(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

void random_correct(struct guess *guesses, struct log_store *s)
{
    const struct store_replica *x;
    size_t it = 0;

    for (size_t i = 0; i < RANDOM_IDS; i++) {
        guesses[i].live = false;
    }
    while ((x = s->ops->next(s, &it)) != NULL) {
        struct guess *g = &guesses[x->replica_id - 1];
        g->used = true;
        if (!x->removed) {
            uint64_t term = x->run_count > 0 ? x->runs[x->run_count - 1].term : x->start_term;
            *g = (struct guess){true, true, x->start_index, x->last_index,
                                term > x->hard.term ? term : x->hard.term};
        }
    }
}
