/* What the users of a store may watch. A watcher is created if its user may read all of its range.
 * Pages of changes say at which revision of auth they were read, and have only what the user could
 * see then. If that is not the revision at which all watchers of the feed were permitted, a page is
 * not used: all are asked for again first, and those that lost their right are canceled. So no
 * watcher gets what its user may not see, or misses something without being told.
 *
 * The feed asks with its ticket (kv.proto), which ends with the user and its password: then its
 * streams fail. */
#include "agent/services/etcd_watch.h"

#include <string.h>

#include "proto/decode.h"

#define CHECK_NS (10 * NS_PER_S)

enum { PERMIT_RANGES = 1, RANGE_KEY = 1, RANGE_END = 2 };

static void append_range(struct bytes *request, const struct watch_keys *keys)
{
    static const uint8_t zero[1] = {0};
    struct bytes range = {0};

    services__wire_bytes(&range, RANGE_KEY, keys->from);
    services__wire_bytes(&range, RANGE_END, keys->no_end ? slice_of(zero, 1) : keys->to);
    services__wire_bytes(request, PERMIT_RANGES, bytes_slice(&range));
    bytes_deinit(&range);
}

const char *services__etcd_rights_text(uint32_t code)
{
    return code == THOLE_INVALID_ARGUMENT  ? "etcdserver: user name is empty"
           : code == THOLE_UNAUTHENTICATED ? "etcdserver: invalid auth token"
                                           : "etcdserver: permission denied";
}

const char *services__etcd_rights_reason(uint32_t code)
{
    return code == THOLE_INVALID_ARGUMENT
               ? "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
           : code == THOLE_UNAUTHENTICATED
               ? "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
               : "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
}

/* ---- Watchers that are to be created --------------------------------------------------------- */

uint64_t services__etcd_rights_encode(struct etcd_stream *t, struct bytes *out)
{
    upb_Arena *arena = upb_Arena_New();
    uint64_t last = t->number;
    struct etcd_request *q;
    size_t n = 0;

    TAILQ_FOREACH (q, &t->requests, link) {
        const etcdserverpb_WatchRequest *m =
            q->number > t->known_number
                ? PROTO_DECODE(etcdserverpb_WatchRequest, slice_of(q->bytes, q->size), arena)
                : NULL;
        if (m == NULL || !etcdserverpb_WatchRequest_has_create_request(m)) {
            continue;
        }
        if (n == RIGHTS_RANGES_MAX || (n > 0 && out->size + q->size > RIGHTS_BYTES_MAX)) {
            last = q->number - 1;
            break;
        }
        const struct watch_keys keys =
            services__etcd_watcher_keys(etcdserverpb_WatchRequest_create_request(m));
        append_range(out, &keys);
        q->asked = true;
        n++;
    }
    upb_Arena_Free(arena);
    return last;
}

bool services__etcd_rights_learn(struct etcd_stream *t, const thole_kv_v1_PermitResponse *m)
{
    struct etcd_request *q;
    size_t n = 0, at = 0;
    const uint32_t *codes = thole_kv_v1_PermitResponse_codes(m, &n);

    TAILQ_FOREACH (q, &t->requests, link) {
        if (!q->asked || q->number <= t->known_number || q->number > t->read_number) {
            continue;
        }
        if (at == n) {
            return false;
        }
        q->code = codes[at++];
        q->rights = thole_kv_v1_PermitResponse_auth_revision(m);
    }
    t->known_number = t->read_number;
    t->known_revision = thole_kv_v1_PermitResponse_revision(m);
    t->known_index = t->read.route.index;
    return true;
}

/* ---- Watchers by what is known --------------------------------------------------------------- */

static struct etcd_watcher_list *list_of(struct etcd_feed *f, enum etcd_watcher_rights state)
{
    return state == RIGHTS_CHECKED     ? &f->checked
           : state == RIGHTS_UNCHECKED ? &f->unchecked
                                       : &f->asked;
}

static void enter(struct etcd_watcher *w, enum etcd_watcher_rights state)
{
    w->rights_state = state;
    TAILQ_INSERT_TAIL(list_of(w->stream->feed, state), w, rights_link);
}

static void leave(struct etcd_watcher *w)
{
    TAILQ_REMOVE(list_of(w->stream->feed, w->rights_state), w, rights_link);
}

static void move_all(struct etcd_feed *f, enum etcd_watcher_rights from,
                     enum etcd_watcher_rights to)
{
    struct etcd_watcher *w;

    while ((w = TAILQ_FIRST(list_of(f, from))) != NULL) {
        leave(w);
        enter(w, to);
    }
}

/* ---- Asking ---------------------------------------------------------------------------------- */

static void check_done(struct etcd_route *r, const struct thole_status *st, struct slice answer)
{
    struct etcd_feed *f = CONTAINER_OF(r, struct etcd_feed, check);

    (void)answer;
    f->check_status = *st;
    f->check_msg.kind = WATCH_CHECKED;
    if (!worker_post_internal(f->set->worker, &f->check_msg)) {
        bufslice_unref(r->route.result);
    }
}

static void ask(struct etcd_feed *f)
{
    struct bytes request = {0};
    struct etcd_watcher *w;

    if (f->check_sent || TAILQ_EMPTY(&f->unchecked)) {
        return;
    }
    f->check_ranges = 0;
    while ((w = TAILQ_FIRST(&f->unchecked)) != NULL && f->check_ranges < RIGHTS_RANGES_MAX) {
        const struct watch_keys keys = services__watch_interest_keys(&w->interest);
        if (f->check_ranges > 0 &&
            request.size + keys.from.size + keys.to.size > RIGHTS_BYTES_MAX) {
            break;
        }
        append_range(&request, &keys);
        leave(w);
        enter(w, RIGHTS_ASKED);
        w->rights_at = (uint32_t)f->check_ranges++;
    }
    f->check_sent = true;
    f->check =
        (struct etcd_route){.s = f->set->s, .ticket = bytes_slice(&f->ticket), .done = check_done};
    memcpy(f->check.shard, f->shard, sizeof f->shard);
    f->check.route.deadline_ns = f->set->now_ns + CHECK_NS;
    services__etcd_send(&f->check, ROUTER_QUERY, thole_kv_v1_Query_op_permit,
                        bytes_slice(&request));
    bytes_deinit(&request);
}

/* Asks on, or ends the check. */
static void go_on(struct etcd_feed *f)
{
    if (TAILQ_EMPTY(&f->unchecked) && !f->check_sent) {
        f->checking = false;
        services__etcd_feed_again(f);
        services__etcd_feed_mark(f);
    } else {
        ask(f);
    }
}

void services__etcd_rights_add(struct etcd_watcher *w)
{
    struct etcd_feed *f = w->stream->feed;
    bool first = TAILQ_EMPTY(&f->checked) && !f->checking;

    f->rights = first ? w->rights : f->rights;
    enter(w, w->rights == f->rights ? RIGHTS_CHECKED : RIGHTS_UNCHECKED);
    if (w->rights != f->rights) {
        f->checking = true;
        ask(f);
    }
}

void services__etcd_rights_remove(struct etcd_watcher *w)
{
    leave(w);
}

bool services__etcd_rights_matter(const struct etcd_feed *f)
{
    return !TAILQ_EMPTY(&f->checked) || !TAILQ_EMPTY(&f->unchecked) || !TAILQ_EMPTY(&f->asked);
}

void services__etcd_rights_check(struct etcd_feed *f)
{
    if (!f->checking) {
        f->checking = true;
        move_all(f, RIGHTS_CHECKED, RIGHTS_UNCHECKED);
        go_on(f);
    }
}

void services__etcd_rights_look(struct etcd_feed *f)
{
    if (f->checking) {
        go_on(f);
    }
}

/* ---- Answers --------------------------------------------------------------------------------- */

/* Not whether a range is permitted: whether the ticket is. */
static bool is_of_ticket(uint32_t code)
{
    return code == THOLE_UNAUTHENTICATED || code == THOLE_INVALID_ARGUMENT;
}

static void learn(struct etcd_feed *f, const thole_kv_v1_PermitResponse *m)
{
    struct etcd_watcher *w;
    struct thole_status st;
    size_t n = 0;
    const uint32_t *codes = thole_kv_v1_PermitResponse_codes(m, &n);
    uint64_t rights = thole_kv_v1_PermitResponse_auth_revision(m);

    if (n != f->check_ranges) {
        move_all(f, RIGHTS_ASKED, RIGHTS_UNCHECKED);
        return;
    }
    if (is_of_ticket(codes[0])) { /* and so are all */
        (void)THOLE_FAIL(&st, (enum thole_code)codes[0], THOLE_REASON_NONE, "%s",
                         services__etcd_rights_text(codes[0]));
        services__etcd_feed_fail(f, &st);
        return;
    }
    if (rights != f->rights) { /* others were asked for in another state */
        f->rights = rights;
        move_all(f, RIGHTS_CHECKED, RIGHTS_UNCHECKED);
    }
    while ((w = TAILQ_FIRST(&f->asked)) != NULL) {
        leave(w);
        enter(w, RIGHTS_CHECKED);
        if (codes[w->rights_at] != 0) {
            services__etcd_watcher_denied(w);
        }
    }
}

void services__etcd_rights_checked(struct worker_msg *m)
{
    struct etcd_feed *f = CONTAINER_OF(m, struct etcd_feed, check_msg);
    struct bufslice result = f->check.route.result;
    upb_Arena *arena = upb_Arena_New();
    const struct thole_status st = f->check_status;
    const thole_kv_v1_PermitResponse *answer =
        st.code == THOLE_OK ? PROTO_DECODE(thole_kv_v1_PermitResponse, result.bytes, arena) : NULL;

    f->check_sent = false;
    if (st.code == THOLE_NOT_FOUND || st.code == THOLE_FAILED_PRECONDITION) {
        services__etcd_feed_fail(f, &st);
    } else if (answer == NULL || f->check.route.shard_id != f->shard_id) {
        move_all(f, RIGHTS_ASKED, RIGHTS_UNCHECKED); /* the next look repeats it */
    } else {
        learn(f, answer);
        go_on(f);
    }
    services__etcd_feed_mark(f);
    upb_Arena_Free(arena);
    bufslice_unref(result);
}
