/* Reports to the registry what is observed here, in batches. Whatever differs between the view and
 * the engine is reported, so a lost report repeats itself, and no report is sent twice.
 *
 *   about this host's replicas    phases, and GONE when the host has no data of the replica any
 *                                 more
 *   by a shard's leader           the leader, that the group has formed, which replicas are out;
 *                                 that it leads no more, unless a new leader reports itself
 *   by shard zero's leader        the conditions of shards, as placement sees them */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct report {
    struct hostctl *h;
    struct ctl_shard *s;
    const struct engine_replica_status *local;
    thole_registry_v1_Command *command;
    upb_Arena *arena;
};

upb_StringView hostctl__copy(upb_Arena *arena, struct slice s)
{
    char *bytes = upb_Arena_Malloc(arena, s.size + 1);
    ASSERT(bytes != NULL);
    if (s.size > 0) {
        memcpy(bytes, s.data, s.size);
    }
    return upb_StringView_FromDataAndSize(bytes, s.size);
}

static thole_registry_v1_ObserveReplica *add_phase(const struct report *r, uint64_t replica_id,
                                                   int32_t phase)
{
    char text[UUID_TEXT_BYTES];
    uuid_format(&r->h->o.host_id, text);
    thole_registry_v1_ObserveReplica *o = thole_registry_v1_Operation_mutable_observe_replica(
        thole_registry_v1_Command_add_operations(r->command, r->arena), r->arena);
    thole_registry_v1_ObserveReplica_set_replica_id(o, replica_id);
    thole_registry_v1_ObserveReplica_set_phase(o, phase);
    thole_registry_v1_ObserveReplica_set_reporter_host_id(o,
                                                          hostctl__copy(r->arena, slice_str(text)));
    thole_registry_v1_ObserveReplica_set_reporter_incarnation(o, r->h->o.incarnation);
    return o;
}

/* ---- This host's replicas -------------------------------------------------------------------- */

/* The phase of the local replica, from the engine. */
static int32_t observed_phase(const struct report *r, const thole_v1_Replica *row)
{
    const struct engine_replica_status *local = r->local;
    int32_t phase = thole_v1_REPLICA_PHASE_JOINING;
    struct raft_config c = {0};
    if (local->unopened) {
        return phase; /* its data may be good: a failure would let healing delete it */
    }
    if (local->failed) {
        return thole_v1_REPLICA_PHASE_FAILED;
    }
    if (!engine_shard_config(r->h->o.engine, local->shard_id, &c)) {
        return phase;
    }
    const struct raft_member *m = raft_config_find(&c, local->replica_id);
    int32_t wanted = thole_v1_Replica_role(row);
    uint8_t role = wanted == thole_v1_REPLICA_ROLE_VOTER     ? RAFT_VOTER
                   : wanted == thole_v1_REPLICA_ROLE_WITNESS ? RAFT_WITNESS
                                                             : RAFT_LEARNER;
    if (m != NULL) {
        bool as_wanted = !c.joint && m->role == role;
        /* A new replica must have heard of a leader first; a later election changes nothing. */
        bool settled = local->leader_replica != 0 ||
                       thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_RUNNING;
        phase = as_wanted && settled ? thole_v1_REPLICA_PHASE_RUNNING
                                     : thole_v1_REPLICA_PHASE_CATCHING_UP;
    }
    raft_config_deinit(&c);
    return phase;
}

/* The message of a machine may have any bytes; a protobuf string may not. */
static void plain_text(char *ret, size_t size, const char *text)
{
    snprintf(ret, size, "%s", text);
    for (char *c = ret; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~') {
            *c = '?';
        }
    }
}

static void report_phase(const struct report *r, const thole_v1_Replica *row, int32_t phase,
                         const char *message)
{
    upb_StringView have = thole_v1_Replica_message(row);
    char text[THOLE_STATUS_MESSAGE_BYTES];
    plain_text(text, sizeof text, message);
    bool same =
        thole_v1_Replica_phase(row) == phase && slice_equal(registry_str(have), slice_str(text));
    if (same || thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_OUT) {
        return;
    }
    thole_registry_v1_ObserveReplica *o = add_phase(r, thole_v1_Replica_id(row), phase);
    thole_registry_v1_ObserveReplica_set_message(o, hostctl__copy(r->arena, slice_str(text)));
}

/* A row of this host without a local replica. */
static void report_absent(const struct report *r, const thole_v1_Replica *row, bool deleting)
{
    int32_t phase = thole_v1_Replica_phase(row);
    if (r->s->starting || r->s->removing) {
        return;
    }
    if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE) {
        if (deleting || phase == thole_v1_REPLICA_PHASE_OUT) {
            add_phase(r, thole_v1_Replica_id(row), thole_v1_REPLICA_PHASE_GONE);
        }
    } else if (r->s->work->failed_replica == thole_v1_Replica_id(row)) {
        report_phase(r, row, thole_v1_REPLICA_PHASE_FAILED, r->s->work->failure);
    } else if (phase != thole_v1_REPLICA_PHASE_UNSPECIFIED &&
               phase != thole_v1_REPLICA_PHASE_FAILED && hostctl__view_is_fresh(r->h, r->s)) {
        report_phase(r, row, thole_v1_REPLICA_PHASE_FAILED,
                     "its data is missing on this host; remove the replica");
    }
}

static void report_own(const struct report *r, const thole_v1_Shard *shard)
{
    struct registry_replica_buf replica_buf;
    uint64_t after = 0;
    const thole_v1_Replica *row;
    while ((row = registry_next_replica_of_shard(r->h->view, r->s->id, after, &replica_buf)) !=
           NULL) {
        struct uuid host;
        after = thole_v1_Replica_id(row);
        if (!uuid_parse(registry_str(thole_v1_Replica_host_id(row)), &host) ||
            !uuid_equal(&host, &r->h->o.host_id)) {
            continue;
        }
        if (r->local == NULL || r->local->replica_id != after) {
            report_absent(r, row, thole_v1_Shard_deleting(shard));
        } else if (!r->s->starting && !r->s->removing) {
            report_phase(r, row, observed_phase(r, row), r->local->failed ? r->local->failure : "");
        }
    }
}

/* ---- A leader's shard ------------------------------------------------------------------------ */

/* The number of voters in the configuration in force; 0: it is changing. */
static uint32_t voting(const struct report *r)
{
    struct raft_config c = {0};
    uint32_t votes = 0;
    if (engine_shard_config(r->h->o.engine, r->s->id, &c)) {
        votes = c.joint ? 0 : raft_config_votes(&c);
        raft_config_deinit(&c);
    }
    return votes;
}

static void report_leader(const struct report *r, const thole_v1_Shard *shard)
{
    const thole_v1_ShardStatus *have = thole_v1_Shard_status(shard);
    const thole_v1_Host *own = hostctl__own_row(r->h);
    uint32_t votes = voting(r);
    if (have != NULL && thole_v1_ShardStatus_formed(have) &&
        (thole_v1_ShardStatus_leader_term(have) > r->local->term ||
         (thole_v1_ShardStatus_leader_term(have) == r->local->term &&
          thole_v1_ShardStatus_leader_replica(have) == r->local->replica_id &&
          (votes == 0 || votes == thole_v1_ShardStatus_voting(have))))) {
        return;
    }
    thole_registry_v1_ObserveShard *o = thole_registry_v1_Operation_mutable_observe_shard(
        thole_registry_v1_Command_add_operations(r->command, r->arena), r->arena);
    thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_mutable_status(o, r->arena);
    thole_registry_v1_ObserveShard_set_shard_id(o, r->s->id);
    thole_v1_ShardStatus_set_formed(status, true);
    thole_v1_ShardStatus_set_leader_replica(status, r->local->replica_id);
    thole_v1_ShardStatus_set_leader_term(status, r->local->term);
    thole_v1_ShardStatus_set_voting(status, votes);
    if (own != NULL) {
        thole_v1_ShardStatus_set_leader_host(
            status, hostctl__copy(r->arena, registry_str(thole_v1_Host_name(own))));
    }
}

/* The leader lost its leadership and knows no other leader: withdraw its report. The next leader
 * reports itself. */
static void report_no_leader(const struct report *r, const thole_v1_Shard *shard)
{
    const thole_v1_ShardStatus *have = thole_v1_Shard_status(shard);
    if (have == NULL || r->local->leader_replica != 0 || r->local->role == RAFT_LEADER ||
        thole_v1_ShardStatus_leader_replica(have) != r->local->replica_id ||
        thole_v1_ShardStatus_leader_term(have) > r->local->term) {
        return;
    }
    thole_registry_v1_ObserveShard *o = thole_registry_v1_Operation_mutable_observe_shard(
        thole_registry_v1_Command_add_operations(r->command, r->arena), r->arena);
    thole_v1_ShardStatus *status = thole_registry_v1_ObserveShard_mutable_status(o, r->arena);
    thole_registry_v1_ObserveShard_set_shard_id(o, r->s->id);
    thole_v1_ShardStatus_set_leader_term(status, r->local->term);
}

/* A forced group has banned this replica, whatever the rows say. */
static void retire(const struct report *r, uint64_t replica_id, uint64_t epoch)
{
    thole_registry_v1_RetireReplica *o = thole_registry_v1_Operation_mutable_retire_replica(
        thole_registry_v1_Command_add_operations(r->command, r->arena), r->arena);
    thole_registry_v1_RetireReplica_set_replica_id(o, replica_id);
    thole_registry_v1_RetireReplica_set_out_index(o, r->local->config_index);
    thole_registry_v1_RetireReplica_set_epoch(o, epoch);
}

/* A replica that is not in the configuration in force, and should not be, is reported OUT when the
 * remaining members can do without it (the fence). */
static void report_out(const struct report *r)
{
    struct registry_replica_buf replica_buf;
    struct raft_config c = {0};
    uint64_t after = 0;
    const thole_v1_Replica *row;
    if (!engine_shard_config(r->h->o.engine, r->s->id, &c)) {
        return;
    }
    while (!c.joint && c.revision <= registry_view_revision(r->h->view) && !r->s->changing &&
           (row = registry_next_replica_of_shard(r->h->view, r->s->id, after, &replica_buf)) !=
               NULL) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN && c.epoch > 0 &&
            raft_config_is_removed(&c, after)) {
            retire(r, after, c.epoch);
        } else if (thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE &&
                   thole_v1_Replica_phase(row) != thole_v1_REPLICA_PHASE_OUT &&
                   raft_config_find(&c, after) == NULL &&
                   hostctl__config_is_fenced(r->h, r->s, r->local)) {
            thole_registry_v1_ObserveReplica *o = add_phase(r, after, thole_v1_REPLICA_PHASE_OUT);
            thole_registry_v1_ObserveReplica_set_out_index(o, r->local->config_index);
        }
    }
    raft_config_deinit(&c);
}

static void report_conditions(const struct report *r, const thole_v1_Shard *shard)
{
    struct placement_result decided = {.verdict = r->s->verdict};
    if (!r->s->decided || r->s->placing ||
        registry_view_revision(r->h->view) < r->s->work->place_revision) {
        return;
    }
    if (r->s->work->explanation != NULL) {
        snprintf(decided.explanation, sizeof decided.explanation, "%s", r->s->work->explanation);
    }
    placement_conditions(r->h->view, shard, &decided, r->command, r->arena);
}

/* Append all reports about the shard; returns the number of operations now in the command. */
static size_t build(struct hostctl *h, struct ctl_shard *s,
                    const struct engine_replica_status *local, thole_registry_v1_Command *c,
                    upb_Arena *arena)
{
    struct registry_shard_buf shard_buf;
    const struct report r = {.h = h, .s = s, .local = local, .command = c, .arena = arena};
    const thole_v1_Shard *shard = registry_shard(h->view, s->id, &shard_buf);
    size_t count = 0;
    if (shard != NULL && hostctl__own_row(h) != NULL) {
        report_own(&r, shard);
        if (local != NULL && local->leader_ready && !thole_v1_Shard_deleting(shard)) {
            report_leader(&r, shard);
            report_out(&r);
        } else if (local != NULL && !thole_v1_Shard_deleting(shard)) {
            report_no_leader(&r, shard);
        }
        if (h->zero_leader) {
            report_conditions(&r, shard);
        }
    }
    thole_registry_v1_Command_operations(c, &count);
    return count;
}

/* ---- Batches --------------------------------------------------------------------------------- */

void hostctl__report_evaluate(struct hostctl *h, struct ctl_shard *s,
                              const struct engine_replica_status *local)
{
    if (s->report_queued || s->reporting) {
        return;
    }
    if (h->now_ms < s->work->report_after_ms) {
        hostctl__again(h, s, s->work->report_after_ms);
        return;
    }
    upb_Arena *arena = upb_Arena_New();
    if (build(h, s, local, thole_registry_v1_Command_new(arena), arena) > 0) {
        if (registry_view_revision(h->view) < s->work->report_revision) {
            hostctl__again(
                h, s, h->now_ms + h->o.retry_ms); /* the local view lags behind the last report */
        } else {
            s->report_queued = true;
            hostctl__work(s)->next_report = NULL;
            *h->reports_tail = s;
            h->reports_tail = &hostctl__work(s)->next_report;
            if (h->report_due_ms == UINT64_MAX) {
                h->report_due_ms = h->now_ms + h->o.report_interval_ms;
            }
        }
    }
    upb_Arena_Free(arena);
}

void hostctl__report_run(struct hostctl *h)
{
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__host_command(h, arena);
    struct ctl_op *op = hostctl__op_new(h, OP_REPORT, 0, 0);
    op->shards = xcalloc(h->report_limit, sizeof *op->shards);
    size_t operations = 0;
    while (h->reports != NULL && op->count < h->report_limit) {
        struct ctl_shard *s = h->reports;
        struct engine_replica_status local;
        h->reports = s->work->next_report;
        s->report_queued = false;
        bool here = engine_shard_status(h->o.engine, s->id, &local);
        size_t now = build(h, s, here ? &local : NULL, c, arena);
        if (now > operations) {
            operations = now;
            s->reporting = true;
            op->shards[op->count++] = s->id;
        } else {
            hostctl__dirty(h, s->id); /* nothing to report; the shard may be forgotten */
        }
    }
    if (h->reports == NULL) {
        h->reports_tail = &h->reports;
        h->report_due_ms = UINT64_MAX;
    } else {
        h->report_due_ms = h->now_ms;
    }
    if (operations == 0) {
        hostctl__op_free(op);
    } else {
        h->report_outstanding = true;
        hostctl__propose(h, c, arena, op);
    }
    upb_Arena_Free(arena);
}

void hostctl__report_done(struct hostctl *h, struct ctl_op *op)
{
    bool accepted = op->st.code == THOLE_OK && op->code == THOLE_OK;
    h->report_outstanding = false;
    if (accepted) {
        h->report_limit = 2 * h->report_limit < HOSTCTL_REPORT_SHARDS_MAX
                              ? 2 * h->report_limit
                              : HOSTCTL_REPORT_SHARDS_MAX;
    } else if (op->st.code == THOLE_OK) {
        /* One refused operation refuses the whole command: find it by halving. */
        h->report_limit = op->count > 1 ? op->count / 2 : 1;
        LOG_DEBUG(HOSTCTL, "a report was refused shards=%zu code=%" PRIu64, op->count, op->code);
    }
    for (size_t i = 0; i < op->count; i++) {
        struct ctl_shard *s = hostctl__shard(h, op->shards[i]);
        s->reporting = false;
        if (accepted) {
            hostctl__work(s)->report_revision = op->revision;
        } else {
            hostctl__work(s)->report_after_ms = h->now_ms + h->o.retry_ms;
        }
        hostctl__dirty(h, s->id);
    }
}
