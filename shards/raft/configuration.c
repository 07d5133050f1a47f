/* struct raft_config as a value: copy, compare, look up, check. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/config_history.h"
#include "shards/raft/quorum.h"

void raft_config_deinit(struct raft_config *c)
{
    if (c == NULL) {
        return;
    }
    free(c->members);
    free(c->removed);
    *c = (struct raft_config){0};
}

struct raft_member *raft_config_insert(struct raft_config *c, uint32_t at)
{
    ASSERT(at <= c->member_count && c->member_count < LIMIT_MEMBERS);
    c->members = xrealloc(c->members, (c->member_count + 1) * sizeof *c->members);
    memmove(&c->members[at + 1], &c->members[at], (c->member_count - at) * sizeof *c->members);
    c->members[at] = (struct raft_member){0};
    c->member_count++;
    return &c->members[at];
}

static void *copied(const void *from, size_t size)
{
    if (size == 0) {
        return NULL;
    }
    void *to = xmalloc(size);
    memcpy(to, from, size);
    return to;
}

void raft_config_copy(struct raft_config *to, const struct raft_config *from)
{
    if (to == from) {
        return;
    }
    raft_config_deinit(to);
    *to = *from;
    to->members = copied(from->members, from->member_count * sizeof *to->members);
    to->removed = copied(from->removed, from->removed_count * sizeof *to->removed);
}

static bool member_equal(const struct raft_member *a, const struct raft_member *b)
{
    return a->replica_id == b->replica_id && memcmp(a->host, b->host, sizeof a->host) == 0 &&
           a->role == b->role && a->outgoing_role == b->outgoing_role &&
           a->learner_next == b->learner_next;
}

bool raft_config_equal(const struct raft_config *a, const struct raft_config *b)
{
    if (a->joint != b->joint || a->auto_leave != b->auto_leave || a->revision != b->revision ||
        a->epoch != b->epoch || a->member_count != b->member_count ||
        a->removed_count != b->removed_count) {
        return false;
    }
    for (uint32_t i = 0; i < a->member_count; i++) {
        if (!member_equal(&a->members[i], &b->members[i])) {
            return false;
        }
    }
    return a->removed_count == 0 ||
           memcmp(a->removed, b->removed, a->removed_count * sizeof *a->removed) == 0;
}

uint32_t raft__config_position(const struct raft_config *c, uint64_t replica_id)
{
    uint32_t lo = 0;
    uint32_t hi = c->member_count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (c->members[mid].replica_id < replica_id) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo < c->member_count && c->members[lo].replica_id == replica_id) {
        return lo;
    }
    return c->member_count;
}

const struct raft_member *raft_config_find(const struct raft_config *c, uint64_t replica_id)
{
    uint32_t i = raft__config_position(c, replica_id);
    return i < c->member_count ? &c->members[i] : NULL;
}

bool raft_config_is_voter(const struct raft_config *c, uint64_t replica_id)
{
    const struct raft_member *m = raft_config_find(c, replica_id);
    return m != NULL && (raft__role_votes(m->role) || raft__role_votes(m->outgoing_role));
}

uint32_t raft_config_votes(const struct raft_config *c)
{
    uint32_t votes = 0;

    for (uint32_t i = 0; i < c->member_count; i++) {
        const struct raft_member *m = &c->members[i];
        votes += raft__role_votes(m->role) || raft__role_votes(m->outgoing_role);
    }
    return votes;
}

/* Where `replica_id` is, or would be inserted, among the tombstones. */
static uint32_t removed_position(const struct raft_config *c, uint64_t replica_id)
{
    uint32_t lo = 0;
    uint32_t hi = c->removed_count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (c->removed[mid] < replica_id) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

bool raft_config_is_removed(const struct raft_config *c, uint64_t replica_id)
{
    uint32_t i = removed_position(c, replica_id);
    return i < c->removed_count && c->removed[i] == replica_id;
}

void raft__config_tombstone(struct raft_config *c, uint64_t replica_id)
{
    uint32_t i = removed_position(c, replica_id);

    if (i < c->removed_count && c->removed[i] == replica_id) {
        return;
    }
    ASSERT(c->removed_count < UINT32_MAX);
    c->removed = xrealloc(c->removed, (c->removed_count + 1u) * sizeof *c->removed);
    memmove(&c->removed[i + 1], &c->removed[i], (c->removed_count - i) * sizeof *c->removed);
    c->removed[i] = replica_id;
    c->removed_count++;
}

static bool member_valid(const struct raft_config *c, uint32_t i)
{
    const struct raft_member *m = &c->members[i];

    if (m->replica_id == 0 || (i > 0 && c->members[i - 1].replica_id >= m->replica_id)) {
        return false;
    }
    if (m->role > RAFT_WITNESS || m->outgoing_role > RAFT_WITNESS) {
        return false;
    }
    if (!c->joint) {
        return m->role != 0 && m->outgoing_role == 0 && !m->learner_next;
    }
    if (m->learner_next) {
        return m->role == 0 && m->outgoing_role == RAFT_VOTER;
    }
    /* A member of a joint configuration votes in the outgoing half or stays in the incoming. */
    return m->role != 0 || raft__role_votes(m->outgoing_role);
}

static bool removed_valid(const struct raft_config *c)
{
    for (uint32_t i = 0; i < c->removed_count; i++) {
        uint64_t id = c->removed[i];
        if (id == 0 || (i > 0 && c->removed[i - 1] >= id) || raft_config_find(c, id) != NULL) {
            return false;
        }
    }
    return true;
}

enum thole_code raft__config_validate(const struct raft_config *c, struct thole_status *st)
{
    uint32_t incoming = 0;
    uint32_t outgoing = 0;

    if (c->member_count > LIMIT_MEMBERS) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "configuration: %u members, at most %d", c->member_count, LIMIT_MEMBERS);
    }
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (!member_valid(c, i)) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "configuration: member %u is malformed", i);
        }
        incoming += c->members[i].role == RAFT_VOTER;
        outgoing += c->members[i].outgoing_role == RAFT_VOTER;
    }
    if (!removed_valid(c)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "configuration: tombstones are malformed");
    }
    bool empty = c->member_count == 0;
    if ((empty && c->joint) || (c->auto_leave && !c->joint) || (!empty && incoming == 0) ||
        (c->joint && outgoing == 0)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "configuration: no voter, or flags that contradict each other");
    }
    return THOLE_OK;
}
