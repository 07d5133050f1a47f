/* libthole: work that belongs where a shard leads. A thread per registration waits for the
 * leadership, confirms it, calls the program, and goes on confirming while the work runs.
 *
 * A confirmation is a read point, for which a majority (or its lease) must stand behind the leader.
 * A leader that was cut off keeps its role for up to two election timeouts; its work ends earlier,
 * when the last confirmation is CONFIRMED_PERCENT of one old. That bounds how long the work may run
 * twice. It does not exclude it: the term is the fence. */
#include <stdlib.h>
#include <string.h>

#include "agent/lib/api_internal.h"
#include "base/latch.h"
#include "base/log.h"

#define ELECTION_TIMEOUT_MS 500 /* the default of thole_options */
#define CONFIRMED_PERCENT 80    /* of an election timeout */
#define CONFIRM_AGAIN_PERCENT 25
#define RETRY_MS 50

struct leadership {
    struct leadership *next;
    struct thole *t;
    struct thole_shard *shard;
    struct thole_leader_work work;
    uint64_t id, term; /* term 0: waiting for a leadership */
    pthread_t thread;
    _Atomic bool closing;
};

/* ---- What this host knows -------------------------------------------------------------------- */

/* The term in which the local replica leads; 0: it does not. */
static uint64_t leading_term(struct leadership *l, uint64_t *ret_shard)
{
    struct engine_replica_status s;
    struct slice name = slice_str(l->shard->name);
    if (agent_find_shard(l->t->agent, name, l->shard->slot_plus_1, ret_shard, NULL) != THOLE_OK ||
        !engine_shard_status(agent_engine(l->t->agent), *ret_shard, &s)) {
        return 0;
    }
    return s.role == RAFT_LEADER && s.leader_ready && !s.failed ? s.term : 0;
}

static bool is_closing(struct agent *a, void *ctx)
{
    struct leadership *l = ctx;
    (void)a;
    return atomic_load(&l->closing);
}

static bool has_changed(struct agent *a, void *ctx)
{
    struct leadership *l = ctx;
    uint64_t shard_id = 0;
    return is_closing(a, ctx) || leading_term(l, &shard_id) != l->term;
}

/* ---- Confirmation ---------------------------------------------------------------------------- */

struct confirmation {
    struct engine_request r;
    struct latch answered;
    _Atomic uint32_t refs; /* the engine and the thread that waits */
};

static void confirmation_unref(struct confirmation *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1) {
        latch_deinit(&c->answered);
        free(c);
    }
}

static void answered(struct engine_request *r)
{
    struct confirmation *c = CONTAINER_OF(r, struct confirmation, r);
    bufslice_unref(r->result);
    latch_open(&c->answered, &r->status);
    confirmation_unref(c);
}

/* True: the local replica led in `term`, after this was called. */
static bool confirm(struct leadership *l, uint64_t term, uint64_t deadline_ns)
{
    uint64_t shard_id = 0;
    if (leading_term(l, &shard_id) != term) {
        return false;
    }
    struct confirmation *c = xcalloc(1, sizeof *c);
    latch_init(&c->answered);
    atomic_store(&c->refs, 2);
    c->r.kind = ENGINE_READ_POINT;
    c->r.shard_id = shard_id;
    c->r.deadline_ns = deadline_ns;
    c->r.done = answered;
    engine_submit(agent_engine(l->t->agent), &c->r);
    bool ok =
        latch_wait_until(&c->answered, deadline_ns) && latch_wait(&c->answered, NULL) == THOLE_OK;
    confirmation_unref(c);
    /* A follower's read point is its leader's. */
    return ok && leading_term(l, &shard_id) == term;
}

/* ---- The thread ------------------------------------------------------------------------------ */

static uint64_t share_of_timeout(const struct leadership *l, uint64_t percent)
{
    uint64_t ms = l->t->o.election_timeout_ms;
    return (ms > 0 ? ms : ELECTION_TIMEOUT_MS) * NS_PER_MS * percent / 100;
}

/* Until the leadership of l->term ends, or cannot be confirmed in time. */
static void watch_leadership(struct leadership *l, uint64_t confirmed_ns)
{
    for (;;) {
        uint64_t again_ns = confirmed_ns + share_of_timeout(l, CONFIRM_AGAIN_PERCENT);
        if (agent_wait(l->t->agent, again_ns, has_changed, l)) {
            return;
        }
        uint64_t asked_ns = clock_now(&clock_system);
        if (!confirm(l, l->term, confirmed_ns + share_of_timeout(l, CONFIRMED_PERCENT))) {
            LOG_WARN(AGENT, "leadership not confirmed in time, its work is stopped shard=%s",
                     l->shard->name);
            return;
        }
        confirmed_ns = asked_ns;
    }
}

static void *lead_main(void *ctx)
{
    struct leadership *l = ctx;
    struct agent *a = l->t->agent;
    uint64_t shard_id = 0;
    pthread_setname_np(pthread_self(), "lead");
    (void)log_context_host(agent_name(a));
    while (!atomic_load(&l->closing)) {
        uint64_t now = clock_now(&clock_system);
        if (!agent_wait(a, now + 3600 * NS_PER_S, has_changed, l)) {
            continue;
        }
        uint64_t term = leading_term(l, &shard_id);
        uint64_t asked_ns = clock_now(&clock_system);
        bool ok = term != 0 && !atomic_load(&l->closing) &&
                  confirm(l, term, asked_ns + share_of_timeout(l, CONFIRMED_PERCENT));
        if (!ok) {
            (void)agent_wait(a, asked_ns + RETRY_MS * NS_PER_MS, is_closing, l);
            continue;
        }
        l->term = term;
        l->work.start(l->work.ctx, term);
        watch_leadership(l, asked_ns);
        l->work.stop(l->work.ctx, term);
        l->term = 0;
    }
    return NULL;
}

/* ---- Registrations --------------------------------------------------------------------------- */

enum thole_code thole_on_lead(struct thole *t, struct thole_shard *shard,
                              const struct thole_leader_work *work, uint64_t *ret_id,
                              struct thole_status *st)
{
    enum thole_code code = api__need_host(t, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (shard == NULL || shard->t != t || work == NULL || work->size < sizeof *work ||
        work->start == NULL || work->stop == NULL) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the shard is of another handle, or work lacks its size or a function");
    }
    struct leadership *l = xcalloc(1, sizeof *l);
    l->t = t;
    l->shard = thole_shard_ref(shard);
    l->work = *work;
    pthread_mutex_lock(&t->lock);
    l->id = ++t->next_leadership;
    l->next = t->leaderships;
    bool started = pthread_create(&l->thread, NULL, lead_main, l) == 0;
    if (started) {
        t->leaderships = l;
        *ret_id = l->id;
    }
    pthread_mutex_unlock(&t->lock);
    if (!started) {
        thole_shard_release(l->shard);
        free(l);
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_NONE,
                          "cannot start a thread for the work");
    }
    return THOLE_OK;
}

static void end(struct leadership *l)
{
    atomic_store(&l->closing, true);
    agent_signal(l->t->agent);
    pthread_join(l->thread, NULL);
    thole_shard_release(l->shard);
    free(l);
}

void thole_off_lead(struct thole *t, uint64_t id)
{
    pthread_mutex_lock(&t->lock);
    struct leadership **at = &t->leaderships;
    while (*at != NULL && (*at)->id != id) {
        at = &(*at)->next;
    }
    struct leadership *l = *at;
    if (l != NULL) {
        *at = l->next;
    }
    pthread_mutex_unlock(&t->lock);
    if (l != NULL) {
        end(l);
    }
}

void api__leaderships_end(struct thole *t)
{
    while (t->leaderships != NULL) {
        thole_off_lead(t, t->leaderships->id);
    }
}
