/* The conditions of a shard, from its rows: Placed (all wanted replicas have hosts), Ready (all of
 * them run as wanted), Degraded (voting replicas are lost), Balanced (no better spread is
 * possible). Written only when they change. */
#include "registry/placement/placement_internal.h"

#include <stdio.h>

struct condition {
    const char *type;
    bool status;
    const char *reason;
    char message[REGISTRY_TEXT_BYTES];
};

#define CONDITIONS 4

static void judge_placed(const struct placement *p, const struct placement_result *decided,
                         struct condition *c)
{
    bool zero = thole_v1_Shard_id(p->shard) == REGISTRY_SHARD_ID;
    uint32_t missing = 0;
    for (size_t k = 0; k < p->class_count && !zero; k++) {
        uint32_t have = 0;
        for (size_t i = 0; i < p->member_count; i++) {
            const struct placement_member *m = &p->members[i];
            have += m->run && m->keep && m->role == p->classes[k].role && m->target == (int)k;
        }
        missing += p->classes[k].wanted - have;
    }
    for (size_t i = 0; i < p->host_count && !zero; i++) {
        missing += p->hosts[i].member < 0 && p->hosts[i].target == CLASS_COVER;
    }
    c->type = "Placed";
    bool awaits = thole_v1_Shard_awaits_restore(p->shard);
    c->status = missing == 0 && !awaits && decided->verdict != PLACEMENT_UNSATISFIABLE;
    c->reason = c->status                                     ? "Placed"
                : awaits                                      ? "AwaitsRestore"
                : decided->verdict == PLACEMENT_UNSATISFIABLE ? "Unsatisfiable"
                                                              : "Placing";
    snprintf(c->message, sizeof c->message, "%s", c->status ? "" : decided->explanation);
}

/* A replica that is being removed votes until it is out. */
static bool still_votes(const struct placement_member *m)
{
    return m->voting && !m->out && (m->run || m->running || m->failed);
}

/* Of the replicas that should vote; if the quorum is lost, of all that still vote. */
struct lost {
    uint32_t voting, lost;
    bool quorum;
};

static struct lost count_lost(const struct placement *p)
{
    struct lost c = {0};
    uint32_t votes = 0;
    uint32_t lost_votes = 0;
    uint32_t running = 0;
    uint32_t in_force = thole_v1_ShardStatus_voting(thole_v1_Shard_status(p->shard));
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        bool lost = !m->host_up || m->failed;
        c.voting += m->run && m->voting;
        c.lost += m->run && m->voting && lost;
        votes += still_votes(m);
        lost_votes += still_votes(m) && lost;
        running += still_votes(m) && m->running && !lost;
    }
    /* A running replica has its vote; a lost one may never have got it. */
    c.quorum =
        lost_votes > 0 && lost_votes * 2 >= votes && (in_force == 0 || running * 2 <= in_force);
    if (c.quorum) {
        c.voting = votes;
        c.lost = lost_votes;
    }
    return c;
}

static void describe_lost(const struct lost *n, struct condition *c)
{
    snprintf(c->message, sizeof c->message, "%" PRIu32 " of %" PRIu32 " voting replicas %s%s",
             n->lost, n->voting, n->lost == 1 ? "is lost" : "are lost",
             n->quorum ? ", and with them the quorum" : "");
}

static void judge_ready(const struct placement *p, const struct condition *placed,
                        struct condition *c)
{
    uint32_t wanted[2] = {0};
    uint32_t running[2] = {0};
    for (size_t k = 0; k < p->class_count; k++) {
        wanted[k <= CLASS_WITNESSES] += p->classes[k].wanted;
    }
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        running[m->voting] += m->run && m->keep && m->running;
        /* For shard zero, and for groups that cover, the wanted number is the present one. */
        bool counts = thole_v1_Shard_id(p->shard) == REGISTRY_SHARD_ID
                          ? m->run && m->keep
                          : m->target == CLASS_COVER && m->role != thole_v1_REPLICA_ROLE_VOTER;
        wanted[m->voting] += counts;
    }
    bool formed = thole_v1_ShardStatus_formed(thole_v1_Shard_status(p->shard));
    c->type = "Ready";
    c->status = formed && placed->status && running[true] >= wanted[true] &&
                running[false] >= wanted[false];
    c->reason = c->status ? "Running" : formed ? "Waiting" : "NotFormed";
    snprintf(c->message, sizeof c->message,
             "%" PRIu32 " of %" PRIu32 " voting and %" PRIu32 " of %" PRIu32 " non-voting run",
             running[true], wanted[true], running[false], wanted[false]);
    struct lost n = count_lost(p);
    if (c->status && n.quorum) {
        c->status = false;
        c->reason = "Waiting";
        describe_lost(&n, c);
    }
}

/* Replicas fail wherever they are placed: the controllers wait. */
static void judge_failing(const struct placement *p, struct condition *c)
{
    size_t hosts = 0;
    uint32_t all = 0;
    const thole_v1_ReplicaFailure *last = NULL;
    const thole_v1_ReplicaFailure *const *failures =
        thole_v1_ShardStatus_failures(thole_v1_Shard_status(p->shard), &hosts);
    bool any = false;
    for (size_t i = 0; i < p->member_count; i++) {
        any |= p->members[i].run && p->members[i].failed;
    }
    for (size_t i = 0; i < hosts; i++) {
        all += thole_v1_ReplicaFailure_count(failures[i]);
        if (last == NULL ||
            thole_v1_ReplicaFailure_time_ms(failures[i]) > thole_v1_ReplicaFailure_time_ms(last)) {
            last = failures[i];
        }
    }
    if (!any || last == NULL || all < PLACEMENT_FAILURES_MAX) {
        return;
    }
    upb_StringView host = thole_v1_ReplicaFailure_host(last);
    upb_StringView message = thole_v1_ReplicaFailure_message(last);
    c->status = true;
    c->reason = "Failing";
    snprintf(c->message, sizeof c->message,
             "replicas failed %" PRIu32
             " times on %zu hosts; the next attempt waits 10 minutes, or "
             "for \"thole replica delete\"; the last failure, on %.*s: %.*s",
             all, hosts, (int)host.size, host.data, (int)(message.size < 512 ? message.size : 512),
             message.size > 0 ? message.data : "");
    registry__trim_utf8(c->message);
}

/* A voting replica is lost with its host, or has failed, and is not yet replaced. */
static void judge_degraded(const struct placement *p, struct condition *c)
{
    struct lost n = count_lost(p);
    c->type = "Degraded";
    c->status = n.lost > 0 && thole_v1_ShardStatus_formed(thole_v1_Shard_status(p->shard));
    c->reason = !c->status ? "Healthy" : n.quorum ? "QuorumLost" : "ReplicasLost";
    if (c->status) {
        describe_lost(&n, c);
    }
    if (!c->status || !n.quorum) {
        judge_failing(p, c);
    }
}

static void judge_balanced(const struct placement_result *decided, struct condition *c)
{
    c->type = "Balanced";
    c->status = !decided->unbalanced;
    c->reason = c->status ? "Balanced" : "Spread";
    snprintf(c->message, sizeof c->message, "%s", c->status ? "" : "a better spread is possible");
}

/* A deleted shard is dropped with its last replica: is there one whose host cannot delete it now?
 */
static bool judge_deletion(const struct placement *p, struct condition *c)
{
    uint32_t waits = 0;
    const struct placement_member *first = NULL;
    for (size_t i = 0; i < p->member_count; i++) {
        const struct placement_member *m = &p->members[i];
        if (!m->host_up && m->host != NULL) {
            first = first == NULL ? m : first;
            waits++;
        }
    }
    if (first == NULL) {
        return false;
    }
    upb_StringView host = thole_v1_Host_name(first->host);
    *c = (struct condition){.type = "Ready", .status = false, .reason = "Deleting"};
    snprintf(c->message, sizeof c->message,
             "the deletion waits for %" PRIu32 " replica%s on hosts that are dead, such as "
             "%.*s: start it, or \"thole host decommission %.*s\"",
             waits, waits == 1 ? "" : "s", (int)host.size, host.data, (int)host.size, host.data);
    return true;
}

static bool same(const thole_v1_Shard *shard, const struct condition *c)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(shard);
    size_t count = 0;
    const thole_v1_Condition *const *have =
        status == NULL ? NULL : thole_v1_ShardStatus_conditions(status, &count);
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(registry_str(thole_v1_Condition_type(have[i])), slice_str(c->type))) {
            return thole_v1_Condition_status(have[i]) == c->status &&
                   slice_equal(registry_str(thole_v1_Condition_reason(have[i])),
                               slice_str(c->reason)) &&
                   slice_equal(registry_str(thole_v1_Condition_message(have[i])),
                               slice_str(c->message));
        }
    }
    return false;
}

static void observe(const thole_v1_Shard *shard, const struct condition *conditions, size_t count,
                    thole_registry_v1_Command *command, upb_Arena *arena)
{
    thole_registry_v1_ObserveShard *o = thole_registry_v1_Operation_mutable_observe_shard(
        thole_registry_v1_Command_add_operations(command, arena), arena);
    thole_registry_v1_ObserveShard_set_shard_id(o, thole_v1_Shard_id(shard));
    thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_mutable_status(o, arena);
    thole_v1_ShardStatus_set_observed_generation(status, thole_v1_Shard_generation(shard));
    for (size_t i = 0; i < count; i++) {
        thole_v1_Condition *c = thole_v1_ShardStatus_add_conditions(status, arena);
        thole_v1_Condition_set_type(c, registry__dup_str(arena, conditions[i].type));
        thole_v1_Condition_set_status(c, conditions[i].status);
        thole_v1_Condition_set_reason(c, registry__dup_str(arena, conditions[i].reason));
        thole_v1_Condition_set_message(c, registry__dup_str(arena, conditions[i].message));
    }
}

bool placement_conditions(const struct registry_view *v, const thole_v1_Shard *shard,
                          const struct placement_result *decided,
                          thole_registry_v1_Command *command, upb_Arena *arena)
{
    struct placement p = {.v = v, .shard = shard, .spec = thole_v1_Shard_spec(shard)};
    struct condition conditions[CONDITIONS] = {0};
    const thole_v1_ShardStatus *stored = thole_v1_Shard_status(shard);
    if (stored == NULL) {
        return false;
    }
    placement__load_members(&p);
    if (thole_v1_Shard_deleting(shard)) {
        bool news = judge_deletion(&p, &conditions[0]) && !same(shard, &conditions[0]);
        if (news) {
            observe(shard, conditions, 1, command, arena);
        }
        return news;
    }
    if (thole_v1_Shard_id(shard) != REGISTRY_SHARD_ID) {
        placement__load_hosts(&p);
        placement__target(&p, true);
    }
    judge_placed(&p, decided, &conditions[0]);
    judge_ready(&p, &conditions[0], &conditions[1]);
    judge_degraded(&p, &conditions[2]);
    judge_balanced(decided, &conditions[3]);
    bool changed =
        thole_v1_ShardStatus_observed_generation(stored) != thole_v1_Shard_generation(shard);
    for (size_t i = 0; i < CONDITIONS; i++) {
        changed |= !same(shard, &conditions[i]);
    }
    if (changed) {
        observe(shard, conditions, CONDITIONS, command, arena);
    }
    return changed;
}
