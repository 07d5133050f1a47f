/* The dedupe table: lookup, reservation, trimming, eviction. Encodings are in session_codec.c. */
#include "shards/engine/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"

static void session_free(struct session *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        buf_unref(s->results[i].result);
    }
    free(s->results);
    free(s);
}

void session_table_deinit(struct session_table *t)
{
    size_t it = 0;
    struct session *s;
    while ((s = map_next(&t->by_id, &it, NULL)) != NULL) {
        session_free(s);
    }
    map_deinit(&t->by_id);
    request_ids__deinit(&t->ids);
    *t = (struct session_table){0};
}

static void unlink_session(struct session_table *t, struct session *s)
{
    if (s->older != NULL) {
        s->older->newer = s->newer;
    } else {
        t->oldest = s->newer;
    }
    if (s->newer != NULL) {
        s->newer->older = s->older;
    } else {
        t->newest = s->older;
    }
    s->older = s->newer = NULL;
}

static void link_newest(struct session_table *t, struct session *s)
{
    s->older = t->newest;
    if (t->newest != NULL) {
        t->newest->newer = s;
    } else {
        t->oldest = s;
    }
    t->newest = s;
}

static void use(struct session_table *t, struct session *s, uint64_t index)
{
    ASSERT(index >= s->used);
    s->used = index;
    if (t->newest != s) {
        unlink_session(t, s);
        link_newest(t, s);
    }
}

/* Least recently used first, as the eviction needs it; and no more than there may be. */
static bool is_ordered(const struct session_table *t)
{
    size_t n = 0;
    for (const struct session *s = t->oldest; s != NULL; s = s->newer) {
        n++;
        if ((s->newer == NULL) != (s == t->newest) ||
            (s->newer != NULL && (s->newer->used < s->used || s->newer->older != s))) {
            return false;
        }
    }
    return n == t->by_id.count && n <= LIMIT_SESSIONS;
}

static bool is_sorted(const struct session *s)
{
    uint32_t reserved = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        reserved += s->results[i].reserved;
        if (i > 0 && s->results[i - 1].sequence >= s->results[i].sequence) {
            return false;
        }
    }
    return s->count <= s->capacity && reserved == s->reserved;
}

static void notify(const struct session_observer *o, enum session_change what,
                   const struct session *s, uint64_t sequence)
{
    if (o != NULL) {
        o->changed(o->ctx, what, s, sequence);
    }
}

static void drop_session(struct session_table *t, struct session *s,
                         const struct session_observer *o)
{
    ASSERT(s->reserved == 0);
    for (uint32_t i = 0; i < s->count; i++) {
        notify(o, RESULT_GONE, s, s->results[i].sequence);
    }
    notify(o, SESSION_GONE, s, 0);
    unlink_session(t, s);
    map_remove(&t->by_id, s->id);
    session_free(s);
}

bool session_open(struct session_table *t, uint64_t id, uint64_t index,
                  const struct session_observer *o)
{
    if (t->by_id.count >= LIMIT_SESSIONS) {
        struct session *victim = t->oldest;
        ASSERT(victim != NULL && victim->used <= t->newest->used);
        if (victim->reserved > 0) {
            return false;
        }
        drop_session(t, victim, o);
    }
    struct session *s = xcalloc(1, sizeof *s);
    s->id = id;
    s->used = index;
    const void *same_id = map_put(&t->by_id, id, s);
    ASSERT(same_id == NULL); /* an index opens one session */
    link_newest(t, s);
    ASSERT_SLOW(is_ordered(t));
    notify(o, SESSION_CHANGED, s, 0);
    return true;
}

bool session_close(struct session_table *t, uint64_t id, const struct session_observer *o)
{
    struct session *s = map_get(&t->by_id, id);
    if (s == NULL) {
        return true;
    }
    if (s->reserved > 0) {
        return false;
    }
    drop_session(t, s, o);
    ASSERT_SLOW(is_ordered(t));
    return true;
}

/* The first position whose sequence is not below `sequence`; searched from the new end. */
static uint32_t position_of(const struct session *s, uint64_t sequence)
{
    uint32_t at = s->count;
    while (at > 0 && s->results[at - 1].sequence >= sequence) {
        at--;
    }
    return at;
}

static void drop_lowest(struct session *s, const struct session_observer *o)
{
    ASSERT(s->count > 0 && !s->results[0].reserved);
    s->floor = s->results[0].sequence + 1;
    notify(o, RESULT_GONE, s, s->results[0].sequence);
    buf_unref(s->results[0].result);
    s->count--;
    memmove(s->results, s->results + 1, s->count * sizeof s->results[0]);
}

static struct session_result *insert_at(struct session *s, uint32_t at)
{
    ASSERT(at <= s->count && s->count < LIMIT_SESSION_RESULTS);
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 4;
        s->results = xrealloc(s->results, s->capacity * sizeof s->results[0]);
    }
    memmove(s->results + at + 1, s->results + at, (s->count - at) * sizeof s->results[0]);
    s->count++;
    s->results[at] = (struct session_result){0};
    return &s->results[at];
}

static struct session_result *reserve(struct session *s, uint32_t at, bool full,
                                      const struct session_observer *o)
{
    if (full) {
        drop_lowest(s, o);
        at--;
    }
    struct session_result *r = insert_at(s, at);
    r->reserved = true;
    s->reserved++;
    return r;
}

enum session_verdict session_begin(struct session_table *t, uint64_t id, uint64_t sequence,
                                   uint64_t index, const struct session_observer *o,
                                   const struct session_result **ret)
{
    struct session *s = map_get(&t->by_id, id);
    if (s == NULL) {
        return SESSION_EXPIRED;
    }
    uint32_t at = position_of(s, sequence);
    bool found = at < s->count && s->results[at].sequence == sequence;
    if (found && s->results[at].reserved) {
        return SESSION_BUSY;
    }
    bool full = s->count == LIMIT_SESSION_RESULTS;
    if (!found && sequence >= s->floor && full && s->results[0].reserved) {
        return SESSION_BUSY;
    }
    use(t, s, index);
    enum session_verdict verdict = SESSION_APPLY;
    if (found) {
        *ret = &s->results[at];
        verdict = SESSION_DUPLICATE;
    } else if (sequence < s->floor) {
        verdict = SESSION_TOO_OLD;
    } else if (full &&
               at == 0) { /* older than all remembered ones: applied, its answer is not kept */
        *ret = NULL;
        s->floor = sequence + 1;
    } else {
        struct session_result *r = reserve(s, at, full, o);
        ASSERT(r == s->results || r[-1].sequence < sequence);
        r->sequence = sequence;
        r->index = index;
        *ret = r;
    }
    ASSERT_SLOW(is_ordered(t) && is_sorted(s));
    notify(o, SESSION_CHANGED, s, 0);
    return verdict;
}

const struct session_result *session_result_of(const struct session *s, uint64_t sequence)
{
    uint32_t at = position_of(s, sequence);
    return at < s->count && s->results[at].sequence == sequence ? &s->results[at] : NULL;
}

static void cut_old(struct session_table *t, const struct session_observer *o)
{
    for (struct session *s = t->oldest; s != NULL; s = s->newer) {
        for (uint32_t i = 0; i < s->count; i++) {
            struct session_result *r = &s->results[i];
            if (r->result == NULL ||
                r->answer_bytes + LIMIT_SESSION_ANSWERS_BYTES > t->answer_bytes) {
                continue;
            }
            buf_unref(r->result);
            r->result = NULL;
            r->cut = true;
            notify(o, RESULT_CUT, s, r->sequence);
        }
    }
    request_ids__cut(t, o);
}

void session__count_answer(struct session_table *t, const struct buf *result,
                           uint64_t *ret_answer_bytes, const struct session_observer *o)
{
    uint64_t before = t->answer_bytes;
    t->answer_bytes += result != NULL ? result->size : 0;
    *ret_answer_bytes = t->answer_bytes;
    if (before / LIMIT_SESSION_ANSWERS_STEP_BYTES !=
        t->answer_bytes / LIMIT_SESSION_ANSWERS_STEP_BYTES) {
        cut_old(t, o);
    }
}

const struct session_result *session_finish(struct session_table *t, uint64_t id, uint64_t sequence,
                                            uint64_t code, struct slice result,
                                            const struct session_observer *o)
{
    struct session *s = map_get(&t->by_id, id);
    if (s == NULL) {
        return NULL; /* evicted since; only if this proposal had no reservation */
    }
    uint32_t at = position_of(s, sequence);
    if (at == s->count || s->results[at].sequence != sequence) {
        return NULL;
    }
    struct session_result *r = &s->results[at];
    ASSERT(r->reserved && s->reserved > 0);
    r->reserved = false;
    s->reserved--;
    r->code = code;
    if (result.size > LIMIT_SESSION_RESULT_BYTES) {
        r->cut = true;
    } else if (result.size > 0) {
        r->result = buf_copy(result.data, result.size);
    }
    session__count_answer(t, r->result, &r->answer_bytes, o);
    ASSERT_SLOW(is_sorted(s));
    return r;
}

static int compare_used(const void *a, const void *b)
{
    const struct session *x = *(struct session *const *)a, *y = *(struct session *const *)b;
    if (x->used != y->used) {
        return x->used < y->used ? -1 : 1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

void session_table_sort(struct session_table *t)
{
    request_ids__sort(t);
    size_t n = t->by_id.count, i = 0, it = 0;
    if (n == 0) {
        return;
    }
    struct session **all = xcalloc(n, sizeof(struct session *));
    struct session *s;
    while ((s = map_next(&t->by_id, &it, NULL)) != NULL) {
        all[i++] = s;
    }
    qsort(all, n, sizeof(struct session *), compare_used);
    t->oldest = t->newest = NULL;
    for (i = 0; i < n; i++) {
        all[i]->older = all[i]->newer = NULL;
        link_newest(t, all[i]);
    }
    free(all);
}
