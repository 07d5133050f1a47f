/* Life cycle, time and getters. */
#include "shards/raft/raft_internal.h"

static enum thole_code bad_boot(struct thole_status *st, const char *what)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "recovered state: %s", what);
}

static enum thole_code check_options(const struct raft_options *o, struct thole_status *st)
{
    if (o->replica_id == 0 || o->election_timeout_ms == 0 || o->heartbeat_ms == 0 ||
        o->heartbeat_ms > o->election_timeout_ms / 3) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "raft options: replica id, or heartbeat %u ms for timeout %u ms",
                          o->heartbeat_ms, o->election_timeout_ms);
    }
    if (o->lease && !o->check_quorum) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "raft options: lease reads need the check of the quorum");
    }
    return THOLE_OK;
}

/* Runs cover exactly (start_index, last_index], with rising terms, none above the hard state's. */
static bool runs_valid(const struct raft_boot *b)
{
    uint64_t term = b->start_term;

    if (b->last_index == b->start_index) {
        return b->run_count == 0 && term <= b->hard.term;
    }
    if (b->run_count == 0 || b->runs[0].first_index != b->start_index + 1) {
        return false;
    }
    for (size_t i = 0; i < b->run_count; i++) {
        const struct raft_term_run *run = &b->runs[i];
        bool in_order = i == 0 || (run->first_index > b->runs[i - 1].first_index &&
                                   run->term > b->runs[i - 1].term);
        if (!in_order || run->term < term || run->term == 0 || run->first_index > b->last_index) {
            return false;
        }
        term = run->term;
    }
    return term <= b->hard.term;
}

static bool config_entries_valid(const struct raft_boot *b)
{
    uint64_t last = b->start_index;

    for (size_t i = 0; i < b->config_entry_count; i++) {
        const struct raft_entry *e = b->config_entries[i];
        if (e == NULL || e->kind != RAFT_ENTRY_CONFIG || e->index <= last ||
            e->index > b->last_index) {
            return false;
        }
        last = e->index;
    }
    return true;
}

static enum thole_code check_boot(const struct raft_boot *b, struct thole_status *st)
{
    if (b->config == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "recovered state: no configuration");
    }
    if (b->hard.term > RAFT_NUMBER_MAX || b->last_index > RAFT_NUMBER_MAX ||
        b->start_index > b->last_index) {
        return bad_boot(st, "a number is out of range");
    }
    if (!runs_valid(b)) {
        return bad_boot(st, "the runs of terms do not cover the log, or exceed the term");
    }
    if (b->hard.commit > b->last_index) {
        return bad_boot(st, "the commit index is beyond the log");
    }
    if (b->applied > b->last_index || b->applied < b->start_index) {
        return bad_boot(st, "the applied index is outside the log");
    }
    if (!config_entries_valid(b)) {
        return bad_boot(st, "the configuration entries do not fit the log");
    }
    return raft__config_validate(b->config, st);
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

enum thole_code raft_new(const struct raft_options *o, const struct raft_boot *b, struct raft **ret,
                         struct thole_status *st)
{
    enum thole_code code = check_options(o, st);

    if (code == THOLE_OK) {
        code = check_boot(b, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct raft *r = xcalloc(1, sizeof *r);
    r->options = *o;
    r->awake = xcalloc(1, sizeof *r->awake);
    rand_seed(&r->awake->rand, o->seed ^ (o->replica_id * 0x9e3779b97f4a7c15u));
    r->now_ms = b->now_ms;
    r->contact_ms = o->lease ? b->now_ms : 0; /* it may have made a promise before the restart */
    r->term = b->hard.term;
    r->vote = b->hard.vote;
    /* An applied entry was committed, even if the hard state holds a lower commit index. */
    r->commit = max_u64(max_u64(b->hard.commit, b->applied), b->start_index);
    r->awake->persist.commit = r->commit;
    r->applied = b->applied;
    r->handed = b->applied;
    raft__log_init(&r->log, b);
    raft__membership_init(&r->membership, b->start_index, b->config);
    for (size_t i = 0; i < b->config_entry_count; i++) {
        raft__membership_note(&r->membership, b->config_entries[i]);
    }
    r->removed = raft_config_is_removed(b->config, o->replica_id);
    r->removed_changed = r->removed;
    raft__advance(r);
    raft__redraw_election(r);
    raft__hurry_if_only_voter(r);
    r->epoch = raft__config(r)->epoch;
    /* An answer to a read from before a restart must not match a read of now. */
    r->read_number = rand_u64(&r->awake->rand) >> 2;
    raft__check_begin(r);
    raft__check(r);
    *ret = r;
    return THOLE_OK;
}

void raft_free(struct raft *r)
{
    if (r == NULL) {
        return;
    }
    raft__lead_end(r);
    raft__awake_free(r);
    raft__membership_deinit(&r->membership);
    raft__log_deinit(&r->log);
    free(r);
}

void raft__begin(struct raft *r, uint64_t now_ms)
{
    if (r->awake == NULL) {
        raft__awake_new(r);
    } else {
        raft__outbox_take_back(&r->awake->outbox);
        raft__reads_take_back(&r->awake->reads);
    }
    if (now_ms > r->now_ms) {
        r->now_ms = now_ms;
    }
    raft__check_begin(r);
}

void raft_tick(struct raft *r, uint64_t now_ms)
{
    raft__begin(r, now_ms);
    raft__reads_tick(r);
    if (r->role == RAFT_LEADER && !r->asleep) {
        raft__lead_tick(r);
    } else if (!r->asleep && r->now_ms >= r->awake->election_deadline_ms) {
        raft__leader_is_silent(r);
    }
    raft__check(r);
}

uint64_t raft_deadline_ms(const struct raft *r)
{
    if (r->asleep) {
        return RAFT_NEVER_MS; /* without reads outstanding: raft_read wakes */
    }
    uint64_t role =
        r->role == RAFT_LEADER ? raft__lead_deadline(r) : r->awake->election_deadline_ms;
    uint64_t reads = raft__reads_deadline(r);

    return role < reads ? role : reads;
}

void raft_campaign(struct raft *r, uint64_t now_ms)
{
    raft__begin(r, now_ms);
    raft__wake(r, now_ms);
    raft__campaign(r, false);
    raft__check(r);
}

void raft_applied(struct raft *r, uint64_t index)
{
    raft__begin(r, r->now_ms);
    if (index > r->applied) {
        ASSERT(index <= r->handed);
        r->applied = index;
    }
    raft__advance(r);
    raft__check(r);
}

void raft_status(const struct raft *r, struct raft_status *ret)
{
    *ret = (struct raft_status){
        .term = r->term,
        .vote = r->vote,
        .commit = r->commit,
        .applied = r->applied,
        .last_index = r->log.last_index,
        .last_term = raft__log_last_term(&r->log),
        .epoch = r->epoch,
        .durable_index = r->log.durable,
        .first_index = r->log.start_index + 1,
        .leader = r->leader,
        .transfer_target = r->lead != NULL ? r->lead->transfer_target : 0,
        .config_index = raft__membership_index(&r->membership),
        .role = r->role,
        .leader_ready = r->lead != NULL && r->commit >= r->lead->first_index,
    };
}

const struct raft_config *raft_config(const struct raft *r)
{
    return raft__config(r);
}

const struct raft_config *raft_config_hold(const struct raft *r)
{
    return raft__membership_hold(&r->membership);
}

const struct raft_config *raft_config_at(const struct raft *r, uint64_t index)
{
    return index < r->log.start_index ? NULL : raft__membership_at(&r->membership, index);
}

struct raft_entry *raft_entry_at(const struct raft *r, uint64_t index)
{
    return raft__log_entry(&r->log, index);
}

bool raft_term_at(const struct raft *r, uint64_t index, uint64_t *ret_term)
{
    return raft__log_term(&r->log, index, ret_term);
}

bool raft_peer(const struct raft *r, uint64_t replica_id, struct raft_peer_status *ret)
{
    uint32_t i = raft__config_position(raft__config(r), replica_id);

    if (r->role != RAFT_LEADER || i >= r->lead->peer_count) {
        return false;
    }
    struct raft_progress slept;
    raft__progress_slept(&slept, r->log.last_index, r->commit);
    const struct raft_progress *p = r->lead->peers != NULL ? &r->lead->peers[i] : &slept;
    bool self = replica_id == r->options.replica_id;
    *ret = (struct raft_peer_status){
        .match = self ? r->log.durable : p->match,
        .next = self ? r->log.last_index + 1 : p->next,
        .state = self ? RAFT_REPLICATE : p->state,
        .recently_active = self || (r->asleep ? !p->absent : p->recently_active),
        .answers = raft__lead_answers(r, i),
        .known = raft__lead_knows(r, i),
        .caught_up = raft__lead_caught_up(r, i),
    };
    return true;
}
