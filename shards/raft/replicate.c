/* A leader's appends to each member at a harvest, and its requests to the engine for log entries or
 * a snapshot. Dissertation 3.5, 10.2.1 (pipelining). */
#include "shards/raft/raft_internal.h"

struct batch {
    struct raft_entry **entries; /* NULL if count == 0; references owned */
    uint32_t count;
    uint64_t bytes;
    bool witness; /* the member is one */
};

/* A witness keeps metadata only: commands reach it without their payload (dissertation 11.7.2). */
static struct raft_entry *entry_for(struct raft_entry *e, bool witness)
{
    if (!witness || e->kind != RAFT_ENTRY_COMMAND || e->payload.bytes.size == 0) {
        return raft_entry_ref(e);
    }
    struct raft_entry *bare =
        raft_entry_new(RAFT_ENTRY_COMMAND, e->session, e->sequence, (struct bufslice){0});
    bare->index = e->index;
    bare->term = e->term;
    bare->stamp = e->stamp;
    return bare;
}

static bool is_witness(const struct raft_member *m)
{
    return m->role == RAFT_WITNESS || m->outgoing_role == RAFT_WITNESS;
}

/* A witness must never be ahead of every replica that has the data: after a crash of the leader it
 * would reject all of them. So it gets only entries that are durable at the leader. Other members
 * need not wait for the leader's disk. */
static uint64_t last_for(const struct raft *r, bool witness)
{
    if (!witness) {
        return r->log.last_index;
    }
    uint64_t staying = raft__staying_match(r);
    return staying < r->log.durable ? staying : r->log.durable;
}

/* How many cached entries from `first` fit in one append: at least one, if there is one. */
static uint32_t count_cached(const struct raft *r, uint64_t first, uint64_t last)
{
    uint64_t bytes = 0;
    uint32_t n = 0;

    ASSERT(first >= raft__log_cache_first(&r->log) && last <= r->log.last_index);
    for (uint64_t i = first; i <= last; i++, n++) {
        bytes += raft_entry_size(raft__log_entry(&r->log, i));
        if (n > 0 && bytes > LIMIT_APPEND_BYTES) {
            break;
        }
    }
    return n;
}

static struct batch collect(const struct raft *r, uint64_t first, bool witness)
{
    struct batch b = {.count = count_cached(r, first, last_for(r, witness))};

    b.witness = witness;
    if (b.count == 0) {
        return b;
    }
    b.entries = xmalloc(b.count * sizeof(struct raft_entry *));
    for (uint32_t i = 0; i < b.count; i++) {
        b.entries[i] = entry_for(raft__log_entry(&r->log, first + i), witness);
        b.bytes += raft_entry_size(b.entries[i]);
    }
    return b;
}

static void send_append(struct raft *r, uint64_t to, struct raft_progress *p, struct batch b)
{
    struct raft_message m = {
        .kind = RAFT_MSG_APPEND,
        .to = to,
        .term = r->term,
        .index = p->next - 1,
        .commit = r->commit,
        .entry_count = b.count,
        .entries = b.entries,
    };
    bool known = raft__log_term(&r->log, m.index, &m.log_term);

    ASSERT(r->role == RAFT_LEADER && r->awake->force_index == 0);
    ASSERT(known || CANARY(empty_append_term_zero));
    ASSERT(b.count == 0 || m.index + b.count <= last_for(r, b.witness)); /* invariant 15 */
    raft__progress_sent(p, m.index + b.count, b.count, b.bytes);
    if (b.witness && b.count > 0 && m.index + b.count > r->lead->witness_sent) {
        r->lead->witness_sent = m.index + b.count;
    }
    p->commit_sent = r->commit;
    p->want_append = false;
    raft__send(r, m, 0); /* before the leader's own write is durable: it does not count it yet */
}

static void want_snapshot(struct raft *r, uint64_t to, struct raft_progress *p, uint64_t min_index)
{
    ASSERT(p->state != RAFT_SNAPSHOT);
    if (!p->recently_active) {
        raft__progress_probe(p, p->next);
        p->paused = true; /* it does not answer: no snapshot until it answers a heartbeat */
        return;
    }
    raft__progress_snapshot(p);
    raft__outbox_need_snapshot(&r->awake->outbox,
                               (struct raft_peer_request){.peer = to, .min_index = min_index});
}

/* A member that is not in the first configuration cannot start from an empty log: it would never
 * learn that configuration, which is in no entry. */
static bool must_have_snapshot(const struct raft *r, uint64_t to, const struct raft_progress *p)
{
    if (p->next <= raft__membership_epoch_index(&r->membership)) {
        return true; /* entries of an earlier epoch are never sent */
    }
    if (p->next - 1 < r->log.start_index && !CANARY(empty_append_term_zero)) {
        return true;
    }
    return p->next == 1 && raft_config_find(raft__membership_at(&r->membership, 0), to) == NULL;
}

static void probe(struct raft *r, uint64_t to, struct raft_progress *p, bool witness)
{
    if (p->next > last_for(r, witness) && !p->want_append) {
        return;
    }
    /* Do not read uncached entries before it is known where the logs diverge. */
    bool cached = p->next >= raft__log_cache_first(&r->log);
    send_append(r, to, p, cached ? collect(r, p->next, witness) : (struct batch){0});
}

static void stream(struct raft *r, uint64_t to, struct raft_progress *p, bool witness)
{
    while (!p->log_wait && p->next <= last_for(r, witness) && !raft__progress_window_full(p)) {
        if (p->next < raft__log_cache_first(&r->log)) {
            p->log_wait = true;
            p->log_first = p->next;
            raft__outbox_need_log(&r->awake->outbox, (struct raft_peer_request){
                                                         .peer = to,
                                                         .first = p->next,
                                                         .max_bytes = LIMIT_APPEND_BYTES,
                                                     });
            break;
        }
        send_append(r, to, p, collect(r, p->next, witness));
    }
    /* With a full window, send an empty append only after a heartbeat reply: the window may be
     * stuck. */
    if (p->want_append || (p->commit_sent < r->commit && !raft__progress_window_full(p))) {
        send_append(r, to, p, (struct batch){0});
    }
}

static uint64_t first_snapshot(const struct raft *r)
{
    uint64_t epoch = raft__membership_epoch_index(&r->membership);
    uint64_t index = r->log.start_index > epoch ? r->log.start_index : epoch;

    return index > 0 ? index : 1;
}

static void replicate_to(struct raft *r, const struct raft_member *m, struct raft_progress *p)
{
    uint64_t to = m->replica_id;

    if (p->state == RAFT_SNAPSHOT || (p->state == RAFT_PROBE && p->paused)) {
        return;
    }
    if (must_have_snapshot(r, to, p)) {
        want_snapshot(r, to, p, first_snapshot(r));
        return;
    }
    if (p->state == RAFT_PROBE) {
        probe(r, to, p, is_witness(m));
    } else {
        stream(r, to, p, is_witness(m));
    }
}

void raft__replicate(struct raft *r)
{
    const struct raft_config *c = raft__config(r);

    r->work = false;
    if (r->role != RAFT_LEADER) {
        return;
    }
    ASSERT(r->lead->peer_count == c->member_count);
    for (uint32_t i = 0; i < c->member_count; i++) {
        if (c->members[i].replica_id != r->options.replica_id) {
            replicate_to(r, &c->members[i], &r->lead->peers[i]);
        }
    }
}

/* The entries of a log read that may be sent: still in this log, contiguous, within one append. */
static struct batch take_read(struct raft *r, uint64_t first, struct raft_entry *const *entries,
                              size_t n, bool witness)
{
    struct batch b = {.witness = witness};
    uint64_t last = last_for(r, witness);

    b.entries = xmalloc(n * sizeof(struct raft_entry *));
    for (size_t i = 0; i < n; i++) {
        struct raft_entry *e = entries[i];
        if (e->index != first + i || e->index > last ||
            !raft__log_matches(&r->log, e->index, e->term) ||
            (i > 0 && b.bytes + raft_entry_size(e) > LIMIT_APPEND_BYTES)) {
            break;
        }
        b.entries[b.count++] = entry_for(e, witness);
        b.bytes += raft_entry_size(e);
    }
    if (b.count == 0) {
        free(b.entries);
        b.entries = NULL;
    }
    return b;
}

static void read_arrived(struct raft *r, uint64_t peer, uint64_t first,
                         struct raft_entry *const *entries, size_t n)
{
    struct raft_progress *p = raft__peer(r, peer);

    if (p == NULL || !p->log_wait || p->log_first != first) {
        return;
    }
    p->log_wait = false;
    r->work = true;
    if (p->state != RAFT_REPLICATE || p->next != first || first - 1 < r->log.start_index) {
        return; /* the next harvest asks again, from the index that is needed then */
    }
    if (n == 0) {
        want_snapshot(r, peer, p, first);
        return;
    }
    struct batch b =
        take_read(r, first, entries, n, is_witness(raft_config_find(raft__config(r), peer)));
    if (b.count > 0) {
        send_append(r, peer, p, b);
    }
}

void raft_log_read(struct raft *r, uint64_t peer, uint64_t first, struct raft_entry *const *entries,
                   size_t n)
{
    raft__begin(r, r->now_ms);
    read_arrived(r, peer, first, entries, n);
    for (size_t i = 0; i < n; i++) {
        raft_entry_unref(entries[i]);
    }
    raft__check(r);
}

void raft_unreachable(struct raft *r, uint64_t peer)
{
    raft__begin(r, r->now_ms);
    struct raft_progress *p = raft__peer(r, peer);

    if (p != NULL) {
        raft__wake(r, r->now_ms);
    }
    if (p != NULL && p->state == RAFT_REPLICATE) {
        raft__progress_probe(p, p->match + 1);
        p->paused = true; /* until it answers a heartbeat; else a full queue would cause a loop */
    }
    raft__check(r);
}

void raft_snapshot_sent(struct raft *r, uint64_t peer, uint64_t index, bool ok)
{
    raft__begin(r, r->now_ms);
    struct raft_progress *p = raft__peer(r, peer);

    if (p == NULL || p->state != RAFT_SNAPSHOT) {
        return;
    }
    if (ok && index <= r->log.last_index) {
        raft__progress_probe(p, index + 1);
        p->want_append = true;
    } else {
        raft__progress_probe(p, p->match + 1);
        p->paused = true; /* try again when it answers a heartbeat */
    }
    r->work = true;
    raft__check(r);
}
