/* The changes of a shard, for the watchers of this host. They are read page by page from a view of
 * a replica, by the machine's EventsRequest: of this host if it has one, else of another. A page is
 * only asked for when the last one is gone, so watchers cost no memory for what they wait for.
 *
 * Watchers that have everything share one reading, the head, which goes on whenever the agent's
 * watch announces something. The others catch up from where they are: a reading serves all that are
 * near each other. Positions are revisions, which are equal on all replicas, so readings may go on
 * at any of them: nothing is lost or repeated when a replica, a leader or this watch changes. */
#include "agent/services/etcd_watch.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/log.h"
#include "etcd/kv.upb.h"
#include "proto/decode.h"

#define PULLS_MAX 5 /* readings of a feed at one time, the head's among them */
#define NEAR 10000  /* watchers that are so many revisions apart are read for together */
#define FEW 8       /* watchers that are looked through, instead of the tree of ranges */
#define CATCH_UP_BYTES ((size_t)256 * KIB) /* of a page for watchers that are behind */
#define PULL_NS (10 * NS_PER_S)
#define PROGRESS_NS (5 * NS_PER_S)
#define NO_LEADER_TIMEOUTS 3 /* of elections: then streams that need a leader end */

/* ---- Life ------------------------------------------------------------------------------------ */

/* A worker that has stopped frees the feeds. */
static void post(struct etcd_feed *f, struct worker_msg *m, enum etcd_watch_message kind)
{
    m->kind = kind;
    bool posted = worker_post_internal(f->set->worker, m);
    (void)posted;
}

static void announce(void *ctx, uint64_t index, struct slice key, struct slice event, bool bookmark)
{
    struct etcd_feed *f = ctx;
    uint64_t before = atomic_load(&f->announced);

    (void)key, (void)event, (void)bookmark;
    while (index > before && !atomic_compare_exchange_weak(&f->announced, &before, index)) {
    }
    if (index > before && !atomic_exchange(&f->wake_posted, true)) {
        post(f, &f->wake_msg, WATCH_WOKEN);
    }
}

static void lost(void *ctx, const struct thole_status *st)
{
    struct etcd_feed *f = ctx;

    (void)st;
    post(f, &f->lost_msg, WATCH_LOST);
}

static void watch(struct etcd_feed *f)
{
    const struct agent_watcher watcher = {.ctx = f, .event = announce, .ended = lost};

    f->watching = true;
    f->watched_ns = f->set->now_ns;
    f->watch_id = agent_watch(f->set->s->agent, f->shard_id, &watcher);
}

static struct etcd_feed *feed_new(struct etcd_watches *set, uint64_t key, uint64_t shard_id,
                                  const char name[static LIMIT_NAME_BYTES + 1], struct slice ticket)
{
    struct etcd_feed *f = xcalloc(1, sizeof *f);

    f->set = set;
    f->key = key;
    bytes_append_slice(&f->ticket, ticket);
    f->shard_id = shard_id;
    memcpy(f->shard, name, sizeof f->shard);
    f->cluster_id = services__etcd_cluster_id(set->s, shard_id);
    f->member_id = services__etcd_member_id(shard_id, agent_host_id(set->s->agent));
    f->led_ns = set->now_ns;
    TAILQ_INIT(&f->streams);
    TAILQ_INIT(&f->queued);
    TAILQ_INIT(&f->again);
    TAILQ_INIT(&f->checked);
    TAILQ_INIT(&f->unchecked);
    TAILQ_INIT(&f->asked);
    (void)map_put(&set->feeds, key, f);
    watch(f);
    return f;
}

static void pull_free(struct etcd_pull *p)
{
    p->feed->pulls--;
    p->feed->head_pull = p->feed->head_pull == p ? NULL : p->feed->head_pull;
    free(p);
}

void services__etcd_feed_free(struct etcd_feed *f)
{
    struct etcd_pull *p;

    while ((p = TAILQ_FIRST(&f->again)) != NULL) {
        TAILQ_REMOVE(&f->again, p, again_link);
        pull_free(p);
    }
    bytes_deinit(&f->ticket);
    free(f);
}

/* Without streams a feed ends, as soon as nothing of it is under way. */
static bool end(struct etcd_feed *f)
{
    struct etcd_pull *p;

    if (!TAILQ_EMPTY(&f->streams)) {
        return false;
    }
    while ((p = TAILQ_FIRST(&f->again)) != NULL) {
        TAILQ_REMOVE(&f->again, p, again_link);
        pull_free(p);
    }
    if (f->watching) {
        agent_unwatch(f->set->s->agent, f->watch_id);
    } else if (f->pulls == 0 && !f->check_sent && !atomic_load(&f->wake_posted)) {
        (void)map_remove(&f->set->feeds, f->key);
        services__etcd_feed_free(f);
    }
    return true;
}

void services__etcd_feed_mark(struct etcd_feed *f)
{
    if (!f->marked) {
        f->marked = true;
        TAILQ_INSERT_TAIL(&f->set->marked, f, marked_link);
    }
}

/* Users do not share: each feed reads what its user may see. */
void services__etcd_feed_join(struct etcd_stream *t, uint64_t shard_id, struct slice ticket)
{
    uint64_t key = hash64(ticket.data, ticket.size, shard_id);
    struct etcd_feed *f;

    if (t->feed != NULL) {
        return;
    }
    while ((f = map_get(&t->set->feeds, key)) != NULL &&
           (f->shard_id != shard_id || !slice_equal(bytes_slice(&f->ticket), ticket))) {
        key++; /* another one with the same hash; its end may leave two feeds where one would do */
    }
    t->feed = f != NULL ? f : feed_new(t->set, key, shard_id, t->shard, ticket);
    TAILQ_INSERT_TAIL(&t->feed->streams, t, feed_link);
}

void services__etcd_feed_part(struct etcd_stream *t)
{
    TAILQ_REMOVE(&t->feed->streams, t, feed_link);
    services__etcd_feed_mark(t->feed);
    t->feed = NULL;
}

void services__etcd_feed_fail(struct etcd_feed *f, const struct thole_status *st)
{
    struct etcd_stream *t;

    while ((t = TAILQ_FIRST(&f->streams)) != NULL) {
        services__etcd_stream_fail(t, st);
    }
}

/* ---- Where watchers are ---------------------------------------------------------------------- */

int64_t services__etcd_feed_sent(const struct etcd_feed *f)
{
    return f->synced > 0 ? f->head.revision - 1 : f->current;
}

static bool is_past_head(const struct etcd_feed *f, int64_t next)
{
    return next > f->head.revision || (next == f->head.revision && f->head.sub == 0);
}

void services__etcd_feed_place(struct etcd_feed *f, struct etcd_watcher *w, int64_t current,
                               uint64_t index)
{
    f->current = current > f->current ? current : f->current;
    if (f->synced == 0 && f->head_pull == NULL &&
        w->next > current) { /* nobody reads it: move it */
        f->head = (struct etcd_position){current + 1, 0};
        f->head_index = index;
        f->head_is_old = false;
        services__etcd_feed_mark(f);
    }
    /* The page under way at the head may have been asked for without prev_kv. */
    bool joins = f->head_pull == NULL || (f->synced > 0 && (f->head_pull->previous || !w->prev_kv));
    bool synced = joins && w->next > current && is_past_head(f, w->next);
    services__etcd_watcher_enter(w, synced ? WATCHER_SYNCED : WATCHER_QUEUED);
}

/* Everything below `next` was read for the watcher, and it got what it wants of that. */
static void advance(struct etcd_watcher *w, int64_t next)
{
    if (next > w->next) {
        w->next = next;
        w->sent = w->seen = 0;
    }
}

/* ---- Reading --------------------------------------------------------------------------------- */

static void pulled(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct etcd_pull *p = CONTAINER_OF(r, struct etcd_pull, route);

    (void)answer;
    p->st = *st;
    p->msg.kind = WATCH_PAGE;
    if (!worker_post_internal(p->feed->set->worker, &p->msg)) {
        bufslice_unref(r->route.result);
        pull_free(p);
    }
}

/* What the members want, as far as an EventsRequest can say it. */
static void encode_wishes(struct etcd_pull *p, struct bytes *out)
{
    static const uint8_t zero[1] = {0};
    struct watch_keys keys = {.from = slice_of(zero, 1), .no_end = true}; /* everything */
    const struct etcd_watcher *w = TAILQ_FIRST(&p->members);

    p->previous = p->head && p->feed->previous > 0;
    if (w != NULL) {
        keys = services__watch_interest_keys(&w->interest);
    }
    TAILQ_FOREACH (w, &p->members, link) {
        const struct watch_keys other = services__watch_interest_keys(&w->interest);
        keys = services__watch_keys_join(&keys, &other);
        p->previous = p->previous || w->prev_kv;
    }
    services__wire_bytes(out, 1, keys.from);
    services__wire_bytes(out, 2, keys.no_end ? slice_of(zero, 1) : keys.to);
    services__wire_varint(out, 5, p->previous);
    services__wire_varint(out, 6, p->head ? 0 : CATCH_UP_BYTES);
}

static void pull(struct etcd_pull *p)
{
    struct etcd_feed *f = p->feed;
    struct bytes request = {0};

    encode_wishes(p, &request);
    services__wire_varint(&request, 3, (uint64_t)p->at.revision);
    services__wire_varint(&request, 4, p->at.sub);
    p->announced = atomic_load(&f->announced);
    p->route =
        (struct etcd_route){.s = f->set->s, .ticket = bytes_slice(&f->ticket), .done = pulled};
    memcpy(p->route.shard, f->shard, sizeof f->shard);
    p->route.route.stale = !p->linearizable;
    p->route.route.deadline_ns = f->set->now_ns + PULL_NS;
    services__etcd_send(&p->route, ROUTER_QUERY, thole_kv_v1_Query_op_events,
                        bytes_slice(&request));
    bytes_deinit(&request);
}

static struct etcd_pull *pull_new(struct etcd_feed *f, struct etcd_position at)
{
    struct etcd_pull *p = xcalloc(1, sizeof *p);

    p->feed = f;
    p->at = at;
    TAILQ_INIT(&p->members);
    TAILQ_INIT(&p->touched);
    f->pulls++;
    return p;
}

static void pull_head(struct etcd_feed *f)
{
    if (f->head_pull == NULL && f->synced > 0 &&
        (f->head_is_old || atomic_load(&f->announced) > f->head_index)) {
        f->head_pull = pull_new(f, f->head);
        f->head_pull->head = true;
        pull(f->head_pull);
    }
}

/* For the watcher that waits for longest, and those that are near it. */
static void pull_queued(struct etcd_feed *f)
{
    struct etcd_watcher *w = TAILQ_FIRST(&f->queued), *next;
    struct etcd_pull *p = pull_new(f, (struct etcd_position){w->next, 0});

    for (; w != NULL; w = next) {
        next = TAILQ_NEXT(w, link);
        if (w->next < p->at.revision || w->next > p->at.revision + NEAR) {
            continue;
        }
        services__etcd_watcher_leave(w);
        w->pull = p;
        services__etcd_watcher_enter(w, WATCHER_PULLING);
    }
    pull(p);
}

void services__etcd_feed_read_on(struct etcd_feed *f)
{
    if (end(f)) {
        return;
    }
    pull_head(f);
    while (!TAILQ_EMPTY(&f->queued) && f->pulls < PULLS_MAX) {
        pull_queued(f);
    }
}

/* ---- A page ---------------------------------------------------------------------------------- */

struct reading {
    struct etcd_pull *pull;
    struct etcd_event event;
    int64_t divided;
};

static void append_item(struct bytes *out, uint32_t field, const mvccpb_KeyValue *kv)
{
    struct bytes item = {0};
    upb_StringView key = mvccpb_KeyValue_key(kv), value = mvccpb_KeyValue_value(kv);

    services__wire_bytes(&item, 1, slice_of(key.data, key.size));
    services__wire_varint(&item, 2, (uint64_t)mvccpb_KeyValue_create_revision(kv));
    services__wire_varint(&item, 3, (uint64_t)mvccpb_KeyValue_mod_revision(kv));
    services__wire_varint(&item, 4, (uint64_t)mvccpb_KeyValue_version(kv));
    if (value.size > 0) {
        services__wire_bytes(&item, 5, slice_of(value.data, value.size));
    }
    services__wire_varint(&item, 6, (uint64_t)mvccpb_KeyValue_lease(kv));
    services__wire_bytes(out, field, bytes_slice(&item));
    bytes_deinit(&item);
}

/* The event as a field of a response. */
static void encode(const mvccpb_Event *m, bool with_previous, struct bytes *out)
{
    struct bytes event = {0};

    bytes_clear(out);
    services__wire_varint(&event, 1, (uint64_t)mvccpb_Event_type(m));
    append_item(&event, 2, mvccpb_Event_kv(m));
    if (with_previous && mvccpb_Event_has_prev_kv(m)) {
        append_item(&event, 3, mvccpb_Event_prev_kv(m));
    }
    services__wire_bytes(out, RESPONSE_EVENT, bytes_slice(&event));
    bytes_deinit(&event);
}

static void offer(void *ctx, struct watch_interest *i)
{
    struct reading *page = ctx;
    struct etcd_pull *p = page->pull;
    struct etcd_watcher *w = CONTAINER_OF(i, struct etcd_watcher, interest);

    if (p->head ? w->state == WATCHER_SYNCED : w->state == WATCHER_PULLING && w->pull == p) {
        services__etcd_watcher_event(w, &page->event, page->divided, &p->touched);
    }
}

static bool are_few(const struct etcd_pull *p)
{
    size_t n = 0;
    const struct etcd_watcher *w;

    TAILQ_FOREACH (w, &p->members, link) {
        if (++n > FEW) {
            break;
        }
    }
    return !p->head && n <= FEW;
}

static void offer_to_members(struct reading *page)
{
    struct etcd_watcher *w = TAILQ_FIRST(&page->pull->members), *next;

    for (; w != NULL; w = next) {
        next = TAILQ_NEXT(w, link);
        const struct watch_keys keys = services__watch_interest_keys(&w->interest);
        if (services__watch_keys_contain(&keys, page->event.key)) {
            services__etcd_watcher_event(w, &page->event, page->divided, &page->pull->touched);
        }
    }
}

static void distribute(struct etcd_pull *p, const thole_kv_v1_EventsResponse *m)
{
    size_t n = 0;
    const mvccpb_Event *const *events = thole_kv_v1_EventsResponse_events(m, &n);
    struct reading page = {.pull = p};
    struct bytes plain = {0}, full = {0};
    bool few = are_few(p);

    if (thole_kv_v1_EventsResponse_next_sub(m) > 0) {
        page.divided = thole_kv_v1_EventsResponse_next_revision(m);
    }
    for (size_t i = 0; i < n; i++) {
        const mvccpb_KeyValue *kv = mvccpb_Event_kv(events[i]);
        if (kv == NULL) {
            continue;
        }
        upb_StringView key = mvccpb_KeyValue_key(kv);
        encode(events[i], false, &plain);
        encode(events[i], p->previous, &full);
        page.event = (struct etcd_event){
            .key = slice_of(key.data, key.size),
            .plain = bytes_slice(&plain),
            .full = bytes_slice(&full),
            .revision = mvccpb_KeyValue_mod_revision(kv),
            .deletion = mvccpb_Event_type(events[i]) == mvccpb_Event_DELETE,
        };
        if (few) {
            offer_to_members(&page);
        } else {
            services__watch_ranges_match(&p->feed->ranges, page.event.key, offer, &page);
        }
    }
    bytes_deinit(&plain);
    bytes_deinit(&full);
}

/* Send what was collected. */
static void flush_touched(struct etcd_pull *p, int64_t divided)
{
    struct etcd_watcher *w = TAILQ_FIRST(&p->touched), *next;

    for (; w != NULL; w = next) {
        next = TAILQ_NEXT(w, touched_link);
        services__etcd_watcher_page_end(w, divided);
    }
}

/* The reading is over, or in the middle of a revision. */
static void go_on(struct etcd_pull *p, const thole_kv_v1_EventsResponse *m)
{
    struct etcd_feed *f = p->feed;
    struct etcd_watcher *w;
    int64_t current = thole_kv_v1_EventsResponse_current_revision(m);

    p->at.revision = thole_kv_v1_EventsResponse_next_revision(m);
    p->at.sub = thole_kv_v1_EventsResponse_next_sub(m);
    flush_touched(p, p->at.sub > 0 ? p->at.revision : 0);
    TAILQ_FOREACH (w, &p->members, link) {
        advance(w, p->at.revision);
    }
    if (p->head) {
        f->head = p->at;
        f->head_index = p->route.route.index > f->head_index ? p->route.route.index : f->head_index;
        f->head_is_old = p->at.revision <= current;
    }
    if (p->at.sub > 0 && (p->head ? f->synced > 0 : !TAILQ_EMPTY(&p->members))) {
        pull(p);
        return;
    }
    while ((w = TAILQ_FIRST(&p->members)) != NULL) {
        services__etcd_watcher_leave(w);
        services__etcd_feed_place(f, w, current, p->route.route.index);
    }
    pull_free(p);
    services__etcd_feed_mark(f);
}

/* Nothing was read. Those below the compacted revision end; the others go on. */
static void handle_compacted(struct etcd_pull *p, int64_t compacted)
{
    struct etcd_feed *f = p->feed;
    struct etcd_stream *t;
    struct etcd_watcher *w;

    if (p->head) {
        TAILQ_FOREACH (t, &f->streams, feed_link) {
            for (size_t it = 0; (w = map_next(&t->watchers, &it, NULL)) != NULL;) {
                if (w->state == WATCHER_SYNCED) {
                    services__etcd_watcher_rewind(w);
                    services__etcd_watcher_leave(w);
                    advance(w, f->head.revision);
                    services__etcd_watcher_enter(w, WATCHER_QUEUED);
                }
            }
        }
    }
    while ((w = TAILQ_FIRST(&p->members)) != NULL) {
        services__etcd_watcher_rewind(w);
        if (w->next < compacted) {
            services__etcd_watcher_compacted(w, compacted);
        } else {
            services__etcd_watcher_leave(w);
            services__etcd_watcher_enter(w, WATCHER_QUEUED);
        }
    }
    pull_free(p);
    services__etcd_feed_mark(f);
}

static void handle_page(struct etcd_pull *p, const thole_kv_v1_EventsResponse *m)
{
    struct etcd_feed *f = p->feed;
    int64_t current = thole_kv_v1_EventsResponse_current_revision(m);
    int64_t compacted = thole_kv_v1_EventsResponse_compact_revision(m);

    bool rights_differ = thole_kv_v1_EventsResponse_auth_revision(m) != f->rights;

    f->current = current > f->current ? current : f->current;
    if ((p->route.route.index < p->announced || rights_differ) && !p->linearizable) {
        p->linearizable = true; /* the replica lacks what was announced, or is known of rights */
        pull(p);
    } else if (rights_differ && !services__etcd_rights_matter(f)) {
        pull_free(p);
        services__etcd_feed_mark(f);
    } else if (rights_differ || f->checking) {
        TAILQ_INSERT_TAIL(&f->again, p, again_link);
        services__etcd_rights_check(f);
    } else if (compacted > p->at.revision) {
        handle_compacted(p, compacted);
    } else {
        distribute(p, m);
        go_on(p, m);
    }
}

static void pull_failed(struct etcd_pull *p, const struct thole_status *st)
{
    struct etcd_feed *f = p->feed;
    bool refused = st->code == THOLE_UNAUTHENTICATED || st->code == THOLE_INVALID_ARGUMENT;

    if (refused && !p->linearizable && !TAILQ_EMPTY(&f->streams)) {
        p->linearizable = true; /* the replica may lack the user */
        pull(p);
        return;
    }
    if (refused || st->code == THOLE_NOT_FOUND || st->code == THOLE_FAILED_PRECONDITION) {
        services__etcd_feed_fail(f, st);
        pull_free(p);
        services__etcd_feed_mark(f);
        return;
    }
    TAILQ_INSERT_TAIL(&f->again, p, again_link);
    if (TAILQ_EMPTY(&f->streams)) {
        services__etcd_feed_mark(f);
    }
}

void services__etcd_feed_page(struct worker_msg *m)
{
    struct etcd_pull *p = CONTAINER_OF(m, struct etcd_pull, msg);
    struct bufslice result = p->route.route.result;
    upb_Arena *arena = upb_Arena_New();
    const thole_kv_v1_EventsResponse *page = NULL;

    if (p->st.code == THOLE_OK && p->route.route.shard_id != p->feed->shard_id) {
        (void)THOLE_FAIL(&p->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                         "the shard was deleted, and another one has its name");
    }
    if (p->st.code == THOLE_OK) {
        struct etcd_feed *f = p->feed;
        f->term = p->route.route.term > f->term ? p->route.route.term : f->term;
        page = PROTO_DECODE_ALIAS(thole_kv_v1_EventsResponse, result.bytes, arena);
    }
    if (page != NULL && !TAILQ_EMPTY(&p->feed->streams)) {
        handle_page(p, page);
    } else if (p->st.code != THOLE_OK) {
        const struct thole_status st = p->st;
        pull_failed(p, &st);
    } else {
        pull_failed(p, &(struct thole_status){.code = THOLE_INTERNAL});
    }
    upb_Arena_Free(arena);
    bufslice_unref(result);
}

/* ---- Wake-ups -------------------------------------------------------------------------------- */

void services__etcd_feed_woken(struct worker_msg *m)
{
    struct etcd_feed *f = CONTAINER_OF(m, struct etcd_feed, wake_msg);

    atomic_store(&f->wake_posted, false);
    services__etcd_feed_mark(f);
}

/* The watch ended: its replica moved, or its host is unreachable. What it did not announce is read
 * after the first bookmark of the next one. */
void services__etcd_feed_lost(struct worker_msg *m)
{
    struct etcd_feed *f = CONTAINER_OF(m, struct etcd_feed, lost_msg);

    f->watching = false;
    if (!TAILQ_EMPTY(&f->streams) && f->set->now_ns > f->watched_ns + NS_PER_S) {
        watch(f);
    }
    services__etcd_feed_mark(f); /* which may end the feed; else the next look watches again */
}

static void tell_progress(struct etcd_feed *f)
{
    struct etcd_stream *t;
    struct etcd_watcher *w;
    uint64_t now_ns = f->set->now_ns;

    TAILQ_FOREACH (t, &f->streams, feed_link) {
        for (size_t it = 0; (w = map_next(&t->watchers, &it, NULL)) != NULL;) {
            if (w->progress && w->state == WATCHER_SYNCED && w->next <= f->head.revision &&
                w->out.size == 0 && now_ns >= w->told_ns + PROGRESS_NS) {
                services__etcd_watcher_progress(w, services__etcd_feed_sent(f), now_ns);
            }
        }
    }
}

static bool has_leader(const struct etcd_feed *f)
{
    struct engine_replica_status s;

    if (engine_shard_status(agent_engine(f->set->s->agent), f->shard_id, &s)) {
        return s.leader_replica != 0;
    }
    return f->watching; /* at a host that serves the shard */
}

static void end_without_leader(struct etcd_feed *f)
{
    struct etcd_stream *t = TAILQ_FIRST(&f->streams), *next;
    struct thole_status st;
    uint64_t timeout_ns = engine_election_timeout_ms(agent_engine(f->set->s->agent)) * NS_PER_MS;

    if (has_leader(f)) {
        f->led_ns = f->set->now_ns;
    }
    if (f->set->now_ns < f->led_ns + NO_LEADER_TIMEOUTS * timeout_ns) {
        return;
    }
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_NO_LEADER, "the shard has no leader");
    for (; t != NULL; t = next) {
        next = TAILQ_NEXT(t, feed_link);
        if (t->needs_leader) {
            services__etcd_stream_fail(t, &st);
        }
    }
}

void services__etcd_feed_again(struct etcd_feed *f)
{
    struct etcd_pull *p;
    struct etcd_pull_list again = TAILQ_HEAD_INITIALIZER(again);

    if (f->checking || TAILQ_EMPTY(&f->streams)) {
        return;
    }
    TAILQ_CONCAT(&again, &f->again, again_link);
    while ((p = TAILQ_FIRST(&again)) != NULL) {
        TAILQ_REMOVE(&again, p, again_link);
        pull(p);
    }
}

void services__etcd_feed_look(struct etcd_feed *f)
{
    end_without_leader(f);
    if (!f->watching && !TAILQ_EMPTY(&f->streams)) {
        watch(f);
    }
    services__etcd_rights_look(f);
    services__etcd_feed_again(f);
    tell_progress(f);
}
