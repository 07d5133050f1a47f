/* raft_change_apply: the effect of a change on a configuration (dissertation 4.1 to 4.3). Pure. */
#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "shards/raft/config_history.h"
#include "shards/raft/quorum.h"

static enum thole_code refuse(struct thole_status *st, enum thole_reason reason, uint64_t id,
                              const char *why)
{
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, reason,
                      "membership change: replica %" PRIu64 " %s", id, why);
}

static void delete_member(struct raft_config *c, uint32_t i)
{
    memmove(&c->members[i], &c->members[i + 1], (c->member_count - i - 1) * sizeof c->members[0]);
    c->member_count--;
}

static enum thole_code add_member(struct raft_config *c, const struct raft_change_item *item,
                                  enum raft_member_role role, struct thole_status *st)
{
    uint32_t i = 0;

    if (raft_config_is_removed(c, item->replica_id)) {
        return refuse(st, THOLE_REASON_REMOVED, item->replica_id, "was removed for good");
    }
    if (c->member_count == LIMIT_MEMBERS) {
        return refuse(st, THOLE_REASON_TOO_LARGE, item->replica_id,
                      "does not fit: too many members");
    }
    while (i < c->member_count && c->members[i].replica_id < item->replica_id) {
        i++;
    }
    struct raft_member *m = raft_config_insert(c, i);
    m->replica_id = item->replica_id;
    m->role = (uint8_t)role;
    memcpy(m->host, item->host, sizeof item->host);
    return THOLE_OK;
}

/* ADD of a member that exists: the same role again is fine, a learner may become a voter. */
static enum thole_code readd_member(struct raft_member *m, enum raft_member_role role,
                                    struct thole_status *st)
{
    if (m->role == role) {
        return THOLE_OK;
    }
    if (m->role == RAFT_LEARNER && role == RAFT_VOTER) {
        m->role = RAFT_VOTER;
        return THOLE_OK;
    }
    return refuse(st, THOLE_REASON_EXISTS, m->replica_id, "exists in another role");
}

static void remove_member(struct raft_config *c, uint32_t i)
{
    struct raft_member *m = &c->members[i];

    if (raft__role_votes(m->outgoing_role)) {
        m->role = 0; /* joint: it counts in the outgoing half until the joint one is left */
        return;
    }
    uint64_t id = m->replica_id;
    delete_member(c, i);
    raft__config_tombstone(c, id);
}

static enum thole_code demote_member(struct raft_member *m, struct thole_status *st)
{
    if (m->role == RAFT_LEARNER) {
        return THOLE_OK;
    }
    if (m->role == RAFT_WITNESS) {
        return refuse(st, THOLE_REASON_UNSATISFIABLE, m->replica_id,
                      "is a witness: it has no data to serve as a learner");
    }
    if (m->outgoing_role == RAFT_VOTER) {
        /* A member is never voter and learner at once: it becomes a learner on leaving. */
        m->role = 0;
        m->learner_next = true;
    } else {
        m->role = RAFT_LEARNER;
    }
    return THOLE_OK;
}

static enum thole_code apply_item(struct raft_config *c, const struct raft_change_item *item,
                                  struct thole_status *st)
{
    static const uint8_t added_role[] = {
        [RAFT_CHANGE_ADD_LEARNER] = RAFT_LEARNER,
        [RAFT_CHANGE_ADD_VOTER] = RAFT_VOTER,
        [RAFT_CHANGE_ADD_WITNESS] = RAFT_WITNESS,
    };
    uint32_t i = raft__config_position(c, item->replica_id);
    bool exists = i < c->member_count;

    switch (item->op) {
    case RAFT_CHANGE_ADD_LEARNER:
    case RAFT_CHANGE_ADD_VOTER:
    case RAFT_CHANGE_ADD_WITNESS: {
        enum raft_member_role role = (enum raft_member_role)added_role[item->op];
        return exists ? readd_member(&c->members[i], role, st) : add_member(c, item, role, st);
    }
    case RAFT_CHANGE_REMOVE:
    case RAFT_CHANGE_DEMOTE:
        break;
    default:
        return refuse(st, THOLE_REASON_BAD_REQUEST, item->replica_id, "has an unknown operation");
    }
    if (raft_config_is_removed(c, item->replica_id)) {
        return refuse(st, THOLE_REASON_REMOVED, item->replica_id, "was removed before");
    }
    if (!exists) {
        return refuse(st, THOLE_REASON_NO_SUCH_REPLICA, item->replica_id, "is no member");
    }
    if (item->op == RAFT_CHANGE_REMOVE) {
        remove_member(c, i);
        return THOLE_OK;
    }
    return demote_member(&c->members[i], st);
}

static enum thole_code check_items(const struct raft_change *c, struct thole_status *st)
{
    if (c->item_count > RAFT_CHANGE_ITEMS_MAX) {
        return refuse(st, THOLE_REASON_TOO_LARGE, 0, "list is too long");
    }
    for (uint32_t i = 0; i < c->item_count; i++) {
        uint64_t id = c->items[i].replica_id;
        if (id == 0) {
            return refuse(st, THOLE_REASON_BAD_REQUEST, id, "is no replica");
        }
        for (uint32_t j = 0; j < i; j++) {
            if (c->items[j].replica_id == id) {
                return refuse(st, THOLE_REASON_BAD_REQUEST, id, "is named twice");
            }
        }
    }
    return THOLE_OK;
}

static void enter_joint(struct raft_config *c)
{
    ASSERT(!c->joint);
    c->joint = true;
    c->auto_leave = true;
    for (uint32_t i = 0; i < c->member_count; i++) {
        c->members[i].outgoing_role = c->members[i].role;
    }
}

static void leave_joint(struct raft_config *c)
{
    uint32_t i = 0;

    ASSERT(c->joint);
    c->joint = false;
    c->auto_leave = false;
    while (i < c->member_count) {
        struct raft_member *m = &c->members[i];
        m->outgoing_role = 0;
        if (m->learner_next) {
            m->learner_next = false;
            m->role = RAFT_LEARNER;
        }
        if (m->role != 0) {
            i++;
            continue;
        }
        uint64_t id = m->replica_id;
        delete_member(c, i);
        raft__config_tombstone(c, id);
    }
}

static enum thole_code change_items(struct raft_config *c, const struct raft_change *change,
                                    struct thole_status *st)
{
    uint32_t voters = 0;

    if (change->item_count > 1) {
        enter_joint(c);
    }
    for (uint32_t i = 0; i < change->item_count; i++) {
        enum thole_code code = apply_item(c, &change->items[i], st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    for (uint32_t i = 0; i < c->member_count; i++) {
        voters += c->members[i].role == RAFT_VOTER;
    }
    if (voters == 0) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_UNSATISFIABLE,
                          "membership change: no voter would be left");
    }
    return THOLE_OK;
}

static enum thole_code force(const struct raft_config *from, const struct raft_change *c,
                             struct raft_config *ret, struct thole_status *st)
{
    struct raft_config to = {.epoch = c->epoch, .revision = from->revision};

    if (c->item_count != 1 || c->items[0].op != RAFT_CHANGE_ADD_VOTER) {
        return refuse(st, THOLE_REASON_BAD_REQUEST, 0, "is not named as the only voter");
    }
    if (c->epoch <= from->epoch) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_REVISION,
                          "membership change: epoch %" PRIu64 " is not above %" PRIu64, c->epoch,
                          from->epoch);
    }
    struct raft_member *m = raft_config_insert(&to, 0);
    m->replica_id = c->items[0].replica_id;
    m->role = RAFT_VOTER;
    memcpy(m->host, c->items[0].host, sizeof m->host);
    /* The remaining voter itself may have been removed before: it is a member again. */
    for (uint32_t i = 0; i < from->removed_count; i++) {
        if (from->removed[i] != m->replica_id) {
            raft__config_tombstone(&to, from->removed[i]);
        }
    }
    for (uint32_t i = 0; i < from->member_count; i++) {
        if (from->members[i].replica_id != m->replica_id) {
            raft__config_tombstone(&to, from->members[i].replica_id);
        }
    }
    ASSERT_SLOW(raft__config_validate(&to, NULL) == THOLE_OK);
    raft_config_deinit(ret);
    *ret = to;
    return THOLE_OK;
}

enum thole_code raft_change_apply(const struct raft_config *from, const struct raft_change *c,
                                  struct raft_config *ret, struct thole_status *st)
{
    struct raft_config to = {0};
    enum thole_code code = check_items(c, st);

    if (code != THOLE_OK) {
        return code;
    }
    if (c->epoch != 0) {
        return force(from, c, ret, st);
    }
    if (c->revision < from->revision) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_REVISION,
                          "membership change: revision %" PRIu64 " is older than %" PRIu64,
                          c->revision, from->revision);
    }
    if (from->joint != (c->item_count == 0)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_CHANGE_IN_FLIGHT,
                          "membership change: the configuration is %sjoint",
                          from->joint ? "" : "not ");
    }
    raft_config_copy(&to, from);
    to.revision = c->revision;
    if (c->item_count == 0) {
        leave_joint(&to);
    } else {
        code = change_items(&to, c, st);
    }
    if (code != THOLE_OK) {
        raft_config_deinit(&to);
        return code;
    }
    ASSERT_SLOW(raft__config_validate(&to, NULL) == THOLE_OK);
    raft_config_deinit(ret);
    *ret = to;
    return THOLE_OK;
}
