/* The writer merges the posted batches of all loops into one synced write, and answers each loop. A
 * failed write is final: this host acknowledges nothing after it. */
#include <stdlib.h>

#include "base/canary.h"
#include "shards/engine/engine_internal.h"

/* Sets pointers into the update itself; before, the array of updates could still move. */
static void finish_update(struct write_update *w)
{
    ASSERT(w->entry_count == 0 ||
           w->entries[w->entry_count - 1]->index - w->entries[0]->index == w->entry_count - 1);
    w->u.create = w->create ? &w->identity : NULL;
    w->u.entries = w->entries;
    w->u.entry_count = w->entry_count;
    if (w->u.has_start) {
        w->u.start_config = bytes_slice(&w->config);
    }
}

static enum thole_code write_some(struct engine *e, const struct store_update *updates, size_t n,
                                  struct thole_status *st)
{
    if (atomic_load(&e->failed) || atomic_load(&e->crashed)) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "the log has failed before");
    }
    uint64_t before = clock_now(e->clock);
    enum thole_code code = e->o.log->ops->write(e->o.log, updates, n, st);
    metric_record(&engine_sync_ns, clock_now(e->clock) - before);
    metric_record(&engine_batch_updates, n);
    if (code != THOLE_OK && CANARY(failed_write_counts)) {
        return THOLE_OK;
    }
    if (code != THOLE_OK) {
        engine__host_failed(e, st);
    }
    return code;
}

static enum thole_code write_all(struct engine *e, const struct msgq *batch,
                                 struct thole_status *st)
{
    size_t n = 0, entries = 0;
    for (struct worker_msg *m = batch->head; m != NULL; m = m->next) {
        n += CONTAINER_OF(m, struct write_batch, msg)->count;
    }
    struct store_update *updates = xcalloc(n + 1, sizeof *updates);
    size_t at = 0;
    for (struct worker_msg *m = batch->head; m != NULL; m = m->next) {
        struct write_batch *b = CONTAINER_OF(m, struct write_batch, msg);
        for (size_t i = 0; i < b->count; i++) {
            finish_update(&b->updates[i]);
            entries += b->updates[i].entry_count;
            updates[at++] = b->updates[i].u;
        }
    }
    ASSERT(at == n && n > 0);
    enum thole_code code = THOLE_OK;
    for (at = 0; at < n && code == THOLE_OK; at += STORE_BATCH_UPDATES_MAX) {
        size_t part = n - at < STORE_BATCH_UPDATES_MAX ? n - at : STORE_BATCH_UPDATES_MAX;
        code = write_some(e, updates + at, part, st);
    }
    metric_record(&engine_batch_entries, entries);
    free(updates);
    return code;
}

/* A write is attested if no other one follows for this long. Longer than the pause between writes
 * of a single client that waits for each answer. */
#define ATTEST_AFTER_NS (10 * NS_PER_MS)

static uint64_t attest(struct engine *e)
{
    if (!atomic_load(&e->failed) && !atomic_load(&e->crashed) && e->o.log->ops->attest != NULL) {
        e->o.log->ops->attest(e->o.log);
    }
    return CLOCK_NEVER;
}

uint64_t engine__writer_turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct engine *e = ctx;
    struct thole_status st = {0};
    if (batch->count == 0) {
        return attest(e);
    }
    (void)write_all(e, batch, &st);
    struct worker_msg *m;
    while ((m = msgq_pop(batch)) != NULL) {
        struct write_batch *b = CONTAINER_OF(m, struct write_batch, msg);
        ASSERT(m->kind == MSG_WRITE && b->st.code == THOLE_OK);
        b->st = st;
        engine__loop_post(b->loop, &b->msg);
    }
    return e->o.log->ops->attest != NULL ? now_ns + ATTEST_AFTER_NS : CLOCK_NEVER;
}
