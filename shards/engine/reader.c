/* Streamed answers: readers of machines, each on a view of its own. The caller pulls the pieces, so
 * a caller that reads slowly, or not at all, costs the view and no thread.
 *
 * A reader ends before its data is deleted (engine__readers_end), otherwise with its close. The
 * engine's readers_lock guards the list, a reader's own lock what it reads from. Never hold both:
 * one slow read would delay all readers of the host. */
#include <stdlib.h>

#include "base/ref.h"
#include "shards/engine/engine_internal.h"
#include "shards/engine/snapshot/streams.h"

struct engine_reader {
    struct ref refs; /* the caller's, until it closes the reader; engine__readers_end's */
    struct engine_reader *next;
    struct replica *r; /* a reference */
    uint64_t generation;
    pthread_mutex_t lock;
    struct machine *machine; /* a reference; NULL: ended, without the next two */
    void *view, *state;
};

static bool list_add(struct engine *e, struct engine_reader *rd)
{
    pthread_mutex_lock(&e->readers_lock);
    bool room = e->reader_count < LIMIT_READERS;
    if (room) {
        rd->next = e->readers;
        e->readers = rd;
        e->reader_count++;
    }
    pthread_mutex_unlock(&e->readers_lock);
    return room;
}

static void list_remove(struct engine *e, struct engine_reader *rd)
{
    pthread_mutex_lock(&e->readers_lock);
    struct engine_reader **at = &e->readers;
    while (*at != rd) {
        ASSERT(*at != NULL);
        at = &(*at)->next;
    }
    *at = rd->next;
    e->reader_count--;
    pthread_mutex_unlock(&e->readers_lock);
}

static void end(struct engine_reader *rd)
{
    pthread_mutex_lock(&rd->lock);
    struct machine *m = rd->machine;
    rd->machine = NULL;
    if (m != NULL) {
        if (rd->state != NULL) {
            m->type->read_close(m->state, rd->state);
        }
        if (rd->view != NULL && m->type->view_release != NULL) {
            m->type->view_release(m->state, rd->view);
        }
    }
    engine__machine_unref(m);
    pthread_mutex_unlock(&rd->lock);
}

static void reader_release(struct ref *refs)
{
    struct engine_reader *rd = CONTAINER_OF(refs, struct engine_reader, refs);
    ASSERT(rd->machine == NULL);
    replica_unref(rd->r);
    pthread_mutex_destroy(&rd->lock);
    free(rd);
}

void engine_reader_close(struct engine_reader *rd)
{
    if (rd == NULL) {
        return;
    }
    end(rd); /* in the list until then: engine__readers_end waits for it */
    list_remove(rd->r->e, rd);
    ref_drop(&rd->refs, reader_release);
}

enum thole_code engine__reader_open(struct replica *r, struct slice query,
                                    struct engine_reader **ret, struct thole_status *st)
{
    struct machine *m = r->machine;
    ASSERT(worker_is_current(r->applier->w) && engine__machine_has_reader(m));
    struct engine_reader *rd = xcalloc(1, sizeof *rd);
    ref_init(&rd->refs, 1);
    rd->r = replica_ref(r);
    rd->machine = engine__machine_ref(m);
    rd->generation = m->generation;
    pthread_mutex_init(&rd->lock, NULL);
    if (!list_add(r->e, rd)) {
        end(rd);
        ref_drop(&rd->refs, reader_release);
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_QUEUE_FULL,
                          "%d answers are being read from this host already; retry later",
                          LIMIT_READERS);
    }
    enum thole_code code = engine__machine_view(m, &rd->view, st);
    if (code == THOLE_OK) {
        const struct thole_slice q = {query.data, query.size};
        code =
            engine__machine_result(m->type->read_open(m->state, rd->view, q, &rd->state, st), st);
    }
    if (code != THOLE_OK || rd->state == NULL) {
        engine_reader_close(rd);
        return code;
    }
    *ret = rd;
    return THOLE_OK;
}

/* The replica fails, as after a query that met damage. */
static void report_damage(struct replica *r, const struct thole_status *st)
{
    struct task *t = engine__task_new(TASK_DAMAGED, r);
    t->st = *st;
    engine__loop_post(t->loop, &t->msg);
}

enum thole_code engine_reader_next(struct engine_reader *rd, struct buf **ret_piece, bool *ret_end,
                                   struct thole_status *st)
{
    struct bytes out = {0};
    enum thole_code code = THOLE_OK;
    *ret_piece = NULL;
    *ret_end = false;
    pthread_mutex_lock(&rd->lock);
    if (rd->machine == NULL) {
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                          "the replica that was read was replaced or removed: ask again");
    } else {
        code = engine__machine_read(rd->machine, rd->state, &out, ret_end, st);
    }
    pthread_mutex_unlock(&rd->lock);
    if (code == THOLE_DATA_LOSS) {
        report_damage(rd->r, st);
        code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_MACHINE_FAILED,
                          "the data of this replica is damaged: retry on another replica");
    } else if (code == THOLE_OK && out.size > 0) {
        *ret_piece = bytes_to_buf(&out);
    }
    bytes_deinit(&out);
    return code;
}

void engine__readers_end(struct replica *r, uint64_t generation)
{
    struct engine *e = r->e;
    size_t n = 0;
    pthread_mutex_lock(&e->readers_lock);
    struct engine_reader **found = xcalloc(e->reader_count + 1, sizeof(struct engine_reader *));
    for (struct engine_reader *rd = e->readers; rd != NULL; rd = rd->next) {
        if (rd->r == r && (generation == ANY_GENERATION || rd->generation == generation)) {
            ref_take(&rd->refs);
            found[n++] = rd;
        }
    }
    pthread_mutex_unlock(&e->readers_lock);
    for (size_t i = 0; i < n; i++) {
        end(found[i]);
        ref_drop(&found[i]->refs, reader_release);
    }
    free(found);
}
