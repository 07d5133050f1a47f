/* The shadow, kept beside the code under test: every log entry that any replica has ever written,
 * which of them were committed, and the contents of each replica's disk. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shards/sim/sim_internal.h"

struct member *sim__shadow_member(struct sim *s, uint64_t replica_id)
{
    return map_get(&s->members, replica_id);
}

struct member *sim__shadow_add_member(struct sim *s, struct shard *shard, uint64_t replica_id,
                                      int host)
{
    struct member *m = xcalloc(1, sizeof *m);
    m->replica_id = replica_id;
    m->shard = shard;
    m->host = host;
    ASSERT(map_put(&s->members, replica_id, m) == NULL);
    return m;
}

static void free_shard(struct shard *shard)
{
    for (size_t i = 0; i < shard->slot_count; i++) {
        while (shard->slots[i].entries != NULL) {
            struct shadow_entry *e = shard->slots[i].entries;
            shard->slots[i].entries = e->other;
            free(e);
        }
    }
    free(shard->slots);
    for (size_t i = 0; i < shard->config_count; i++) {
        raft_config_deinit(&shard->configs[i].config);
    }
    free(shard->configs);
    for (int k = 0; k < SIM_KEYS; k++) {
        linear_free(shard->keys[k].history);
    }
    size_t it = 0;
    struct executed *e;
    while ((e = map_next(&shard->executed, &it, NULL)) != NULL) {
        free(e);
    }
    map_deinit(&shard->executed);
    map_deinit(&shard->refused);
    map_deinit(&shard->leaders);
}

void sim__shadow_free(struct sim *s)
{
    size_t it = 0;
    struct member *m;
    while ((m = map_next(&s->members, &it, NULL)) != NULL) {
        raft_config_deinit(&m->config);
        free(m->terms);
        free(m);
    }
    map_deinit(&s->members);
    for (int i = 0; i < s->c.groups; i++) {
        free_shard(&s->shards[i]);
    }
}

struct shadow_slot *sim__shadow_slot(struct shard *shard, uint64_t index)
{
    if (index >= shard->slot_count) {
        size_t n = (size_t)index * 2 + 64;
        shard->slots = xrealloc(shard->slots, n * sizeof shard->slots[0]);
        memset(shard->slots + shard->slot_count, 0,
               (n - shard->slot_count) * sizeof shard->slots[0]);
        shard->slot_count = n;
    }
    return &shard->slots[index];
}

uint64_t sim__member_last(const struct member *m)
{
    return m->start + m->count;
}

bool sim__member_term_at(const struct member *m, uint64_t index, uint64_t *ret)
{
    if (index < m->start || index > sim__member_last(m)) {
        return false;
    }
    *ret = index == m->start ? m->start_term : m->terms[index - m->start - 1];
    return true;
}

/* Log matching, by induction: an entry is known by (index, term); all logs that hold it agree on
 * its content and on the term of the entry before it. */
static void note_entry(struct sim *s, struct member *m, const struct raft_entry *e,
                       uint64_t prev_term)
{
    struct shadow_slot *slot = sim__shadow_slot(m->shard, e->index);
    struct slice id = raft_entry_id(e);
    uint64_t hash = hash64(e->payload.bytes.data, e->payload.bytes.size,
                           e->session * 31 + e->sequence * 7 + e->kind + e->stamp.now_ms * 13 +
                               e->stamp.alive_ms * 17);
    hash = hash64(id.data, id.size, hash);
    struct shadow_entry *known = slot->entries;
    if (m->witness) {
        hash = 0; /* holds no payloads */
    }
    while (known != NULL && known->term != e->term) {
        known = known->other;
    }
    if (known == NULL) {
        known = xmalloc(sizeof *known);
        *known = (struct shadow_entry){e->term, prev_term, hash, e->kind, slot->entries};
        slot->entries = known;
        return;
    }
    if (known->hash == 0) {
        known->hash = hash;
    }
    if (known->prev_term != prev_term || known->kind != e->kind ||
        (hash != 0 && known->hash != hash)) {
        sim__fail(s,
                  "log matching: shard %" PRIu64 ", replica %" PRIu64 ": entry %" PRIu64
                  " of term %" PRIu64 " is not what another log holds",
                  m->shard->id, m->replica_id, e->index, e->term);
    }
}

/* The epoch that the entry begins, or 0. */
static uint64_t epoch_of(const struct raft_entry *e)
{
    struct raft_change change;
    if (e->kind != RAFT_ENTRY_CONFIG ||
        raft_change_decode(e->payload.bytes, &change, NULL) != THOLE_OK) {
        return 0;
    }
    return change.epoch;
}

static void write_entries(struct sim *s, struct member *m, const struct store_update *u)
{
    uint64_t first = u->entries[0]->index, prev_term = 0;
    if (!sim__member_term_at(m, first - 1, &prev_term)) {
        sim__fail(s, "replica %" PRIu64 ": a gap in its log before %" PRIu64, m->replica_id, first);
        return;
    }
    /* A committed entry that is on this disk is never replaced by another one. (An entry that is
     * only in memory may come after a write of other entries at its index that was under way.) */
    for (size_t i = 0; i < u->entry_count; i++) {
        const struct shadow_slot *slot = sim__shadow_slot(m->shard, first + i);
        uint64_t term;
        if (!sim__member_superseded(m) && slot->committed_term != 0 &&
            sim__member_term_at(m, first + i, &term) && term == slot->committed_term &&
            term != u->entries[i]->term) {
            sim__fail(s,
                      "shard %" PRIu64 ", replica %" PRIu64 ": committed entry %" PRIu64
                      " is overwritten",
                      m->shard->id, m->replica_id, first + i);
        }
    }
    m->count = (size_t)(first - m->start - 1);
    if (m->count + u->entry_count > m->capacity) {
        m->capacity = (m->count + u->entry_count) * 2;
        m->terms = xrealloc(m->terms, m->capacity * sizeof m->terms[0]);
    }
    for (size_t i = 0; i < u->entry_count; i++) {
        const struct raft_entry *e = u->entries[i];
        m->has_data = true;
        if (epoch_of(e) > m->epoch) {
            sim__force_written(s, m, e, epoch_of(e));
        }
        if (!sim__member_superseded(m)) {
            note_entry(s, m, e, prev_term);
        }
        m->terms[m->count++] = prev_term = e->term;
    }
}

static void write_config(struct sim *s, struct member *m, struct slice encoded)
{
    struct raft_config c = {0};
    struct thole_status st;
    if (raft_config_decode(encoded, &c, &st) != THOLE_OK) {
        sim__fail(s, "replica %" PRIu64 ": the configuration of its log start is unreadable",
                  m->replica_id);
    }
    m->has_data = c.member_count > 0;
    m->joined = raft_config_find(&c, m->replica_id) != NULL;
    m->epoch = c.epoch > m->epoch ? c.epoch : m->epoch;
    raft_config_deinit(&c);
}

static void write_start(struct sim *s, struct member *m, const struct store_update *u)
{
    write_config(s, m, u->start_config);
    if (u->start_index > m->shard->committed && !sim__member_superseded(m)) {
        sim__fail(s, "replica %" PRIu64 ": its log starts at %" PRIu64 ", beyond what is committed",
                  m->replica_id, u->start_index);
    }
    if (u->start_reset || u->start_index >= sim__member_last(m)) {
        m->count = 0;
    } else if (u->start_index > m->start) {
        size_t gone = (size_t)(u->start_index - m->start);
        m->count -= gone;
        memmove(m->terms, m->terms + gone, m->count * sizeof m->terms[0]);
    }
    s->report->snapshots += u->start_reset;
    m->start = u->start_index;
    m->start_term = u->start_term;
}

void sim__shadow_write(struct sim *s, struct sim_host *h, const struct store_update *u)
{
    struct member *m = sim__shadow_member(s, u->replica_id);
    ASSERT(m != NULL && m->host == h->id);
    if (u->remove || u->forget) {
        m->gone = true;
        m->count = 0;
        return;
    }
    m->created = m->created || u->create != NULL;
    if (u->has_hard) {
        if (u->hard.term < m->hard.term || u->hard.commit < m->hard.commit) {
            sim__fail(s, "replica %" PRIu64 ": term or commit goes back on disk", m->replica_id);
        }
        if (u->hard.term == m->hard.term && m->hard.vote != 0 && u->hard.vote != m->hard.vote) {
            sim__fail(s, "replica %" PRIu64 ": votes twice in term %" PRIu64, m->replica_id,
                      u->hard.term);
        }
        m->hard = u->hard;
    }
    if (u->has_start) {
        write_start(s, m, u);
    }
    if (u->entry_count > 0) {
        write_entries(s, m, u);
    }
}
