/* Would a replica that a user moves stay where it was moved to? The target of the shard is solved
 * with the replica there. The move is legal if the target keeps the replica and wants no other
 * host instead. So placement, which follows that target, never undoes it. */
#include "registry/placement/placement_internal.h"

#include <stdio.h>
#include <stdlib.h>

static uint32_t wanted_elsewhere(const struct placement *p, const struct placement_host **ret)
{
    uint32_t count = p->cover_unmet;
    for (size_t i = 0; i < p->host_count; i++) {
        const struct placement_host *h = &p->hosts[i];
        if (h->member < 0 && h->target != CLASS_NONE) {
            *ret = h;
            count++;
        }
    }
    return count;
}

static int find_host(const struct placement *p, const struct uuid *id)
{
    for (size_t i = 0; i < p->host_count; i++) {
        if (uuid_equal(&p->hosts[i].id, id)) {
            return (int)i;
        }
    }
    return -1;
}

static void refuse(char *ret, const struct placement_host *h, const char *why)
{
    upb_StringView name = thole_v1_Host_name(h->row);
    snprintf(ret, PLACEMENT_TEXT_BYTES, "hosts/%.*s %s", (int)name.size, name.data, why);
}

/* Could the host have any replica in this role? */
static bool may_have(const struct placement *p, const struct placement_host *h, int32_t role,
                     char *ret)
{
    bool matches = false;
    for (size_t c = 0; c < p->class_count; c++) {
        matches |= p->classes[c].role == role && (h->matches >> c & 1) != 0;
    }
    bool active = placement__host_has_state(h->row, thole_v1_HOST_STATE_ACTIVE);
    const char *why = h->used                           ? "has a replica of this shard"
                      : placement__host_is_dead(h->row) ? "is dead"
                      : h->suspect                      ? "is suspect"
                      : !active                         ? "is cordoned or draining"
                      : h->failing ? "gets nothing new: replicas keep failing there"
                      : !registry__host_runs(h->row, thole_v1_ShardSpec_type(p->spec))
                          ? "is without the machine type of this shard"
                      : h->full  ? "is full (capacity of the host)"
                      : !matches ? "does not satisfy the constraints"
                                 : NULL;
    if (why != NULL) {
        refuse(ret, h, why);
    }
    return why == NULL;
}

/* The rows as they are after the move: the old host is like any other. */
static void pretend(struct placement *p, int from, int to)
{
    struct placement_host *left = &p->hosts[from];
    struct placement_host *h = &p->hosts[to];
    struct placement_member *old = &p->members[left->member];
    struct placement_member *there = &p->members[p->member_count];
    *there = *old;
    there->host = h->row;
    there->host_id = h->id;
    there->host_index = to;
    there->keep = there->running = there->host_up = true;
    there->moving = there->failed = there->leader = false;
    h->member = (int)p->member_count++;
    h->used = true;
    old->run = old->keep = false;
    old->host_index = -1;
    left->member = -1;
    left->used = false;
    left->open = left->stays && !left->over && !left->failing &&
                 placement__host_has_state(left->row, thole_v1_HOST_STATE_ACTIVE) &&
                 registry__host_runs(left->row, thole_v1_ShardSpec_type(p->spec));
}

static bool stays(struct placement *p, int from, int to, char *ret)
{
    const struct placement_host *other = NULL;
    int32_t role = p->members[p->hosts[from].member].role;
    placement__target(p, false);
    uint32_t before = wanted_elsewhere(p, &other);
    pretend(p, from, to);
    placement__target(p, false);
    int target = p->members[p->hosts[to].member].target;
    other = NULL;
    bool worse = wanted_elsewhere(p, &other) > before && other != NULL;
    if (worse && other->target == CLASS_COVER) {
        refuse(ret, other, "is covered by the shard, so it cannot be without a replica");
    } else if (worse) {
        upb_StringView name = thole_v1_Host_name(p->hosts[to].row);
        upb_StringView better = thole_v1_Host_name(other->row);
        snprintf(ret, PLACEMENT_TEXT_BYTES,
                 "a replica on hosts/%.*s would make the spread worse than on hosts/%.*s",
                 (int)name.size, name.data, (int)better.size, better.data);
    } else if (target < 0 || p->classes[target].role != role) {
        refuse(ret, &p->hosts[to],
               "would not keep the replica: the spec has no place for it there");
        worse = true;
    }
    return !worse;
}

bool placement_may_move(const struct registry_view *v, const thole_v1_Shard *shard,
                        const struct uuid *from, const struct uuid *to,
                        char ret[static PLACEMENT_TEXT_BYTES])
{
    struct placement_result result;
    struct placement p = {
        .v = v, .shard = shard, .spec = thole_v1_Shard_spec(shard), .ret = &result};
    bool may = true;
    placement__load_members(&p);
    placement__load_hosts(&p);
    int from_index = find_host(&p, from);
    int to_index = find_host(&p, to);
    if (from_index >= 0 && to_index >= 0 && p.hosts[from_index].member >= 0 &&
        p.member_count < LIMIT_MEMBERS) {
        int32_t role = p.members[p.hosts[from_index].member].role;
        may = may_have(&p, &p.hosts[to_index], role, ret) && stays(&p, from_index, to_index, ret);
    }
    return may;
}
