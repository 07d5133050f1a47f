/* The helpers of core_cluster.h that tests call most. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/raft_internal.h"
#include "shards/raft/test/core_cluster_internal.h"

struct raft_config config_of(const uint64_t *voters, size_t voter_count, const uint64_t *learners,
                             size_t learner_count)
{
    struct raft_config c = {0};

    for (uint64_t id = 1; id <= NODES_MAX; id++) {
        uint8_t role = 0;
        for (size_t i = 0; i < voter_count; i++) {
            role = voters[i] == id ? RAFT_VOTER : role;
        }
        for (size_t i = 0; i < learner_count; i++) {
            role = learners[i] == id ? RAFT_LEARNER : role;
        }
        if (role != 0) {
            *raft_config_insert(&c, c.member_count) =
                (struct raft_member){.replica_id = id, .role = role};
        }
    }
    return c;
}

struct raft_status node_status(const struct node *n)
{
    struct raft_status s;

    ASSERT(n->raft != NULL);
    raft_status(n->raft, &s);
    return s;
}

uint64_t node_term(struct cluster *c, uint64_t id)
{
    return node_status(node_at(c, id)).term;
}

enum raft_role node_role(struct cluster *c, uint64_t id)
{
    return node_status(node_at(c, id)).role;
}

uint64_t node_commit(struct cluster *c, uint64_t id)
{
    return node_status(node_at(c, id)).commit;
}

uint64_t node_last(struct cluster *c, uint64_t id)
{
    return node_status(node_at(c, id)).last_index;
}

enum thole_code node_receive(struct cluster *c, struct raft_message m)
{
    return raft_receive(node_at(c, m.to)->raft, &m, c->now_ms, NULL);
}

uint64_t cluster_leader(struct cluster *c)
{
    uint64_t leader = 0;
    uint64_t term = 0;

    for (size_t i = 1; i <= c->node_count; i++) {
        if (c->nodes[i].raft == NULL) {
            continue;
        }
        struct raft_status s = node_status(&c->nodes[i]);
        if (s.role == RAFT_LEADER && s.term > term) {
            leader = i;
            term = s.term;
        }
    }
    return leader;
}

uint64_t cluster_elect(struct cluster *c, uint64_t ms)
{
    uint64_t end = c->now_ms + ms;

    while (c->now_ms < end) {
        cluster_run(c, HEARTBEAT_MS);
        uint64_t leader = cluster_leader(c);
        if (leader != 0 && node_status(&c->nodes[leader]).leader_ready) {
            return leader;
        }
    }
    ASSERT(false); /* no leader in time */
    return 0;
}

void cluster_make_leader(struct cluster *c, uint64_t id)
{
    for (size_t i = 1; i <= c->node_count; i++) {
        if (c->nodes[i].raft != NULL) {
            c->nodes[i].raft->contact_ms = 0; /* as if no leader had been heard for long */
        }
    }
    raft_campaign(node_at(c, id)->raft, c->now_ms);
    cluster_settle(c);
    ASSERT(node_role(c, id) == RAFT_LEADER);
}

void cluster_cut(struct cluster *c, uint64_t a, uint64_t b)
{
    c->cut[a][b] = true;
    c->cut[b][a] = true;
}

void cluster_isolate(struct cluster *c, uint64_t id)
{
    for (uint64_t i = 1; i <= NODES_MAX; i++) {
        if (i != id) {
            cluster_cut(c, id, i);
        }
    }
}

void cluster_heal(struct cluster *c)
{
    memset(c->cut, 0, sizeof c->cut);
    c->filter = NULL;
}

struct raft_entry *command_new(size_t size)
{
    static uint64_t number;
    struct buf *b = buf_new(size < 8 ? 8 : size);

    memset(b->data, 0, b->size);
    put_le64(b->data, ++number);
    struct bufslice payload = {.owner = b, .bytes = {.data = b->data, .size = b->size}};
    return raft_entry_new(RAFT_ENTRY_COMMAND, 0, 0, payload);
}

enum thole_code node_propose(struct cluster *c, uint64_t id, size_t size)
{
    struct raft_entry *e = command_new(size);
    uint64_t first;
    enum thole_code code = raft_propose(node_at(c, id)->raft, &e, 1, c->now_ms, 0, &first, NULL);

    if (code != THOLE_OK) {
        raft_entry_unref(e);
    }
    return code;
}

void cluster_propose(struct cluster *c, size_t n)
{
    uint64_t leader = cluster_leader(c);

    ASSERT(leader != 0);
    for (size_t i = 0; i < n; i++) {
        enum thole_code code = node_propose(c, leader, 8);
        ASSERT(code == THOLE_OK);
    }
    cluster_settle(c);
}

enum thole_code node_change(struct cluster *c, uint64_t id, const struct raft_change *change)
{
    uint64_t index;
    return raft_change_membership(node_at(c, id)->raft, change, c->now_ms, &index, NULL);
}

void cluster_learn(struct cluster *c, uint64_t leader, uint64_t id)
{
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, id);

    change.revision = raft_config(c->nodes[leader].raft)->revision;
    ASSERT(node_change(c, leader, &change) == THOLE_OK);
    cluster_run(c, 4 * HEARTBEAT_MS);
}

struct raft_change change_one(enum raft_change_op op, uint64_t replica_id)
{
    struct raft_change change = {.revision = 1};

    change_add(&change, op, replica_id);
    return change;
}

void change_add(struct raft_change *change, enum raft_change_op op, uint64_t replica_id)
{
    change->items[change->item_count++] =
        (struct raft_change_item){.op = (uint8_t)op, .replica_id = replica_id};
}

void node_force(struct cluster *c, uint64_t id, uint64_t epoch)
{
    struct node *n = node_at(c, id);

    checker_forced(c, n);
    enum thole_code code = raft_force(n->raft, epoch, c->now_ms, NULL);
    ASSERT(code == THOLE_OK);
}

void node_compact(struct cluster *c, uint64_t id, uint64_t index)
{
    struct node *n = node_at(c, id);

    raft_compact(n->raft, index);
}

bool node_take_read(struct node *n, uint64_t context, struct raft_read_result *ret)
{
    for (size_t i = 0; i < n->read_count; i++) {
        if (n->reads[i].context == context) {
            *ret = n->reads[i];
            n->reads[i] = n->reads[--n->read_count];
            return true;
        }
    }
    return false;
}

void cluster_assert_converged(struct cluster *c)
{
    uint64_t leader = cluster_leader(c);

    ASSERT(leader != 0);
    struct raft_status want = node_status(node_at(c, leader));
    const struct raft_config *config = raft_config(node_at(c, leader)->raft);
    for (uint32_t i = 0; i < config->member_count; i++) {
        struct node *n = node_at(c, config->members[i].replica_id);
        struct raft_status s = node_status(n);
        ASSERT(s.last_index == want.last_index && s.commit == want.commit);
        ASSERT(s.term == want.term && s.leader == leader);
        ASSERT(n->manual_apply || s.applied == want.commit);
        ASSERT(raft_config_equal(raft_config(n->raft), config));
    }
    checker_logs(c);
}
