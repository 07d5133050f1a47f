/* Balance: move a replica from a loaded host to a less loaded one, one replica at a time. The move
 * starts with a new replica; the target then determines which replica is surplus. */
#include "registry/placement/placement_internal.h"

#include <stdio.h>

/* Everything runs where the target has it. */
static bool is_settled(const struct placement *p)
{
    size_t initial_count = 0;
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(p->shard);
    thole_v1_Shard_initial(p->shard, &initial_count);
    if (initial_count == 0 || status == NULL || !thole_v1_ShardStatus_formed(status)) {
        return false;
    }
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        bool in_role = m->target == CLASS_COVER ? m->role == thole_v1_REPLICA_ROLE_NON_VOTING
                       : m->target >= 0         ? m->role == p->classes[m->target].role
                                                : !m->mine;
        if (!m->run || !m->running || !in_role) {
            return false;
        }
    }
    for (size_t i = 0; i < p->host_count; i++) {
        if (p->hosts[i].member < 0 && p->hosts[i].target != CLASS_NONE) {
            return false;
        }
    }
    return true;
}

static bool spread_is_worse(const struct placement *p, int class, int from, int to)
{
    int32_t is[REGISTRY_SPREAD_MAX];
    int32_t would[REGISTRY_SPREAD_MAX];
    placement__spread_cost(p, (size_t) class, -1, -1, is);
    placement__spread_cost(p, (size_t) class, from, to, would);
    for (size_t i = 0; i < REGISTRY_SPREAD_MAX; i++) {
        if (is[i] != would[i]) {
            return would[i] > is[i];
        }
    }
    return false;
}

/* Leaders do not move for balance alone: another replica can, which costs less. */
static bool may_go(const struct placement *p, const struct placement_member *m)
{
    return m->mine && !m->pinned && m->target >= 0 && (!m->leader || p->hosts[m->host_index].over);
}

/* A failed replica is not moved: heal.c rebuilds it elsewhere. A time far ahead is that of a clock
 * that was wrong. */
static bool failed_lately(const struct placement *p, const struct placement_host *h)
{
    int64_t passed_ms = registry__ms_between(h->failed_ms, p->o != NULL ? p->o->now_ms : 0);
    return h->failing || (h->failures > 0 && passed_ms < PLACEMENT_FAILURE_RECENT_MS &&
                          passed_ms > -PLACEMENT_FAILURE_RECENT_MS);
}

/* The host with the least replicas that may take the member's place; NULL: none gains. */
static const struct placement_host *destination(const struct placement *p,
                                                const struct placement_member *m)
{
    const struct placement_host *from = &p->hosts[m->host_index];
    const struct placement_host *best = NULL;
    for (size_t i = 0; i < p->host_count; i++) {
        const struct placement_host *h = &p->hosts[i];
        bool gains = from->load >= h->load + 2 || from->over;
        if (gains && h->open && !h->suspect && !failed_lately(p, h) &&
            (h->matches >> m->target & 1) != 0 && (best == NULL || h->rank < best->rank) &&
            !spread_is_worse(p, m->target, m->host_index, (int)i)) {
            best = h;
        }
    }
    return best;
}

bool placement_balance(const struct registry_view *v, const thole_v1_Shard *shard,
                       const struct placement_options *o, const struct uuid *from,
                       thole_registry_v1_Command *command, upb_Arena *arena)
{
    struct placement_result result;
    struct placement p = {.v = v,
                          .shard = shard,
                          .spec = thole_v1_Shard_spec(shard),
                          .o = o,
                          .command = command,
                          .arena = arena,
                          .ret = &result};
    if (thole_v1_Shard_deleting(shard) || thole_v1_Shard_id(shard) == REGISTRY_SHARD_ID) {
        return false;
    }
    placement__load_members(&p);
    placement__load_hosts(&p);
    placement__target(&p, false);
    for (size_t i = 0; is_settled(&p) && i < p.member_count; i++) {
        const struct placement_member *m = &p.members[i];
        if (!uuid_equal(&m->host_id, from) || !may_go(&p, m)) {
            continue;
        }
        const struct placement_host *to = destination(&p, m);
        if (to != NULL) {
            thole_registry_v1_PlaceReplicas *op = NULL;
            thole_registry_v1_Command_set_decided_at(command, registry_view_revision(v));
            char reason[LIMIT_NAME_BYTES + 64];
            upb_StringView name = thole_v1_Host_name(m->host);
            snprintf(reason, sizeof reason, "%.*s has more replicas: %" PRIu32 " to %" PRIu32,
                     (int)name.size, name.data, p.hosts[m->host_index].load, to->load);
            placement__place(&p, &op, to->row, m->role, reason);
            return true;
        }
    }
    return false;
}
