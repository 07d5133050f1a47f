/* Uploads of snapshot files. See uploads.h.
 *
 *   RECEIVING --> COMPLETE --> CLAIMED --> KEPT --> (removed)
 *       |            |                      ^
 *       +--- idle ---+--> (removed)         +--- found when the host starts
 *
 * A KEPT file may belong to a shard that is to be founded on it. It is deleted when a new enough
 * view (`known_at`) shows no such shard, or that the shard has formed. A command whose outcome is
 * unknown may take effect after that: then the shard's first replica fails, and so does its
 * operation. */
#include "agent/snapshots/uploads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/snapshots/snapshot_file.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/worker.h"
#include "shards/engine/snapshot/files.h"

#define UPLOADS_MAX 16
#define IDLE_NS (60 * NS_PER_S)
#define BARRIER_NS (10 * NS_PER_S)
#define BARRIER_AGAIN_NS (2 * NS_PER_S)
/* What uploads leave free on the disk: twice the space at which the engine refuses proposals. */
#define FREE_BYTES_MIN (256 * MIB)

enum upload_phase { RECEIVING, COMPLETE, CLAIMED, KEPT };

struct upload {
    struct upload *next;
    enum upload_phase phase;
    char name[UUID_TEXT_BYTES];
    struct snapshot_check *check; /* until KEPT */
    struct engine_file *file;     /* RECEIVING, once its head was checked */
    uint64_t size;                /* of the whole file; 0: not known */
    uint64_t used_ns;
    uint64_t
        /* KEPT: a view from this revision on shows its shard; UINT64_MAX: a barrier is
         * needed */
        known_at;
};

struct uploads {
    struct agent *agent;
    struct engine_files *files;
    struct worker *worker;
    struct upload *all; /* the worker's, as what follows */
    size_t open;        /* not KEPT */
    bool asking;
    uint64_t ask_ns; /* when to ask again; CLOCK_NEVER */
    _Atomic size_t kept;
    _Atomic bool woken;
    struct worker_msg wake;
};

enum job_kind { JOB_PUT, JOB_CLAIM, JOB_SETTLE, JOB_ASKED, JOB_WAKE };
struct job {
    struct worker_msg msg;
    struct uploads *u;
    char name[UUID_TEXT_BYTES];
    uint64_t offset, revision, asked_ns;
    struct bufslice data;
    struct thole_status st;
    upload_fn done;
    void *ctx;
};

static struct job *job_new(struct uploads *u, enum job_kind kind, struct slice name)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->msg.kind = kind;
    j->u = u;
    if (name.size < sizeof j->name && name.size > 0) {
        memcpy(j->name, name.data, name.size);
    } else if (name.size > 0) {
        j->name[0] = '?'; /* matches no upload */
    }
    return j;
}

static void answer(struct job *j, const struct thole_status *st, const struct upload_state *state)
{
    if (j->done != NULL) {
        j->done(j->ctx, st, state);
    }
    bufslice_unref(j->data);
    free(j);
}

static void post(struct job *j)
{
    struct thole_status st;
    if (worker_post_internal(j->u->worker, &j->msg)) {
        return;
    }
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the host is stopping");
    answer(j, &st, NULL);
}

void uploads_put(struct uploads *u, struct slice name, uint64_t offset, struct bufslice data,
                 upload_fn done, void *ctx)
{
    struct job *j = job_new(u, JOB_PUT, name);
    j->offset = offset;
    j->data = data;
    j->done = done;
    j->ctx = ctx;
    post(j);
}

void uploads_claim(struct uploads *u, struct slice name, upload_fn done, void *ctx)
{
    struct job *j = job_new(u, JOB_CLAIM, name);
    j->done = done;
    j->ctx = ctx;
    post(j);
}

void uploads_settle(struct uploads *u, const char *name, uint64_t revision)
{
    struct job *j = job_new(u, JOB_SETTLE, slice_str(name));
    j->revision = revision;
    post(j);
}

void uploads_wake(struct uploads *u)
{
    if (atomic_load(&u->kept) > 0 && !atomic_exchange(&u->woken, true) &&
        !worker_post_internal(u->worker, &u->wake)) {
        return; /* stopping */
    }
}

/* ---- One upload ------------------------------------------------------------------------------ */

static void part_name(const struct upload *x, char ret[UUID_TEXT_BYTES + 8])
{
    (void)snprintf(ret, UUID_TEXT_BYTES + 8, "%s.part", x->name);
}

static struct upload *add(struct uploads *u, enum upload_phase phase)
{
    struct upload *x = xcalloc(1, sizeof *x);
    x->phase = phase;
    x->next = u->all;
    u->all = x;
    if (phase == KEPT) {
        atomic_fetch_add(&u->kept, 1);
    } else {
        u->open++;
    }
    return x;
}

static void forget(struct uploads *u, struct upload *x)
{
    struct upload **at = &u->all;
    while (*at != x) {
        at = &(*at)->next;
    }
    *at = x->next;
    ASSERT(x->phase == KEPT ? atomic_load(&u->kept) > 0 : u->open > 0);
    if (x->phase == KEPT) {
        atomic_fetch_sub(&u->kept, 1);
    } else {
        u->open--;
    }
    if (x->file != NULL) {
        u->files->ops->discard(x->file);
    }
    snapshot_check_free(x->check);
    free(x);
}

static void drop(struct uploads *u, struct upload *x)
{
    if (x->phase != RECEIVING) {
        u->files->ops->remove(u->files, x->name);
    }
    forget(u, x);
}

static struct upload *find(struct uploads *u, const char *name)
{
    struct upload *x = u->all;
    while (x != NULL && strcmp(x->name, name) != 0) {
        x = x->next;
    }
    return x;
}

static void show(const struct upload *x, struct job *j)
{
    ASSERT(x->phase != KEPT); /* its check is gone */
    const struct upload_state state = {
        .name = x->name,
        .received = snapshot_check_fed(x->check),
        .complete = x->phase != RECEIVING,
        .head = x->phase != RECEIVING ? snapshot_check_head(x->check) : NULL,
    };
    answer(j, &(struct thole_status){0}, &state);
}

/* What all uploads will still write: the rest of each file, and a copy of each when a replica is
 * founded on it. */
static uint64_t promised_bytes(const struct uploads *u)
{
    uint64_t sum = 0;
    for (const struct upload *x = u->all; x != NULL; x = x->next) {
        sum += x->file != NULL ? 2 * x->size - snapshot_check_fed(x->check) : x->size;
    }
    return sum;
}

/* Free bytes of the disk without the reserve. */
static enum thole_code usable_bytes(struct uploads *u, uint64_t *ret, struct thole_status *st)
{
    uint64_t free_bytes = 0;
    enum thole_code code = u->files->ops->space(u->files, &free_bytes, st);
    if (code == THOLE_OK) {
        *ret = free_bytes > FREE_BYTES_MIN ? free_bytes - FREE_BYTES_MIN : 0;
    }
    return code;
}

/* Needs twice the size: the file is copied when a replica is founded on it. */
static enum thole_code create(struct uploads *u, struct upload *x, struct thole_status *st)
{
    uint64_t usable = 0, promised = promised_bytes(u);
    uint64_t size = snapshot_check_total(x->check);
    char part[UUID_TEXT_BYTES + 8];
    enum thole_code code = usable_bytes(u, &usable, st);
    if (code == THOLE_OK && (usable < promised || (usable - promised) / 2 < size)) {
        code = THOLE_FAIL(
            st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_DISK,
            "the host has %" PRIu64 " bytes free besides its reserve, of which %" PRIu64
            " are promised to other uploads; a snapshot of %" PRIu64 " bytes needs twice its size",
            usable, promised, size);
    }
    if (code == THOLE_OK) {
        x->size = size;
    }
    part_name(x, part);
    return code == THOLE_OK ? u->files->ops->create(u->files, part, true, &x->file, st) : code;
}

/* Other writers may have used the space that was free at the beginning. */
static enum thole_code append(struct uploads *u, struct upload *x, struct slice body,
                              struct thole_status *st)
{
    uint64_t usable = 0;
    enum thole_code code = usable_bytes(u, &usable, st);
    if (code == THOLE_OK && usable < body.size) {
        code =
            THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_DISK,
                       "the disk of the host has only its reserve of %d bytes left: free space and "
                       "begin again",
                       FREE_BYTES_MIN);
    }
    return code == THOLE_OK ? u->files->ops->append(x->file, body.data, body.size, st) : code;
}

static enum thole_code take(struct uploads *u, struct upload *x, struct slice data,
                            struct thole_status *st)
{
    struct slice body = {0};
    ASSERT(x->phase == RECEIVING);
    enum thole_code code = snapshot_check_feed(x->check, data, &body, st);
    if (code == THOLE_OK && snapshot_check_head(x->check) != NULL && x->file == NULL) {
        code = create(u, x, st);
    }
    if (code == THOLE_OK && body.size > 0) {
        code = append(u, x, body, st);
    }
    if (code != THOLE_OK || snapshot_check_fed(x->check) != snapshot_check_total(x->check)) {
        return code;
    }
    code = snapshot_check_end(x->check, st);
    if (code != THOLE_OK) {
        return code;
    }
    struct engine_file *file = x->file;
    x->file = NULL;
    code = u->files->ops->commit(file, x->name, st);
    if (code == THOLE_OK) {
        x->phase = COMPLETE;
    }
    return code;
}

static struct upload *begin(struct uploads *u)
{
    if (u->open >= UPLOADS_MAX) {
        return NULL;
    }
    struct upload *x = add(u, RECEIVING);
    struct uuid id = uuid_random();
    uuid_format(&id, x->name);
    x->check = snapshot_check_new();
    return x;
}

static void put(struct uploads *u, struct job *j, uint64_t now_ns)
{
    struct thole_status st;
    struct upload *x = j->name[0] ? find(u, j->name) : begin(u);
    if (x == NULL || x->phase == KEPT) {
        (void)THOLE_FAIL(&st, j->name[0] ? THOLE_NOT_FOUND : THOLE_RESOURCE_EXHAUSTED,
                         j->name[0] ? THOLE_REASON_NONE : THOLE_REASON_QUEUE_FULL,
                         j->name[0] ? "upload not found, or expired: begin again"
                                    : "this host has too many uploads in progress; retry later");
        answer(j, &st, NULL);
        return;
    }
    x->used_ns = now_ns;
    if (x->phase == RECEIVING && j->offset == snapshot_check_fed(x->check) &&
        take(u, x, j->data.bytes, &st) != THOLE_OK) {
        drop(u, x);
        answer(j, &st, NULL);
        return;
    }
    show(x, j);
}

static void claim(struct uploads *u, struct job *j)
{
    struct thole_status st;
    struct upload *x = find(u, j->name);
    if (x != NULL && x->phase == COMPLETE) {
        x->phase = CLAIMED;
        show(x, j);
        return;
    }
    if (x != NULL && x->phase == RECEIVING) {
        (void)THOLE_FAIL(&st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                         "the upload is not complete");
    } else {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NONE, "upload not found, or expired");
    }
    answer(j, &st, NULL);
}

static void settle(struct uploads *u, struct job *j, uint64_t now_ns)
{
    struct upload *x = find(u, j->name);
    if (x != NULL && x->phase == CLAIMED) {
        x->phase = KEPT;
        x->used_ns = now_ns;
        x->known_at = j->revision > 0 ? j->revision : UINT64_MAX;
        snapshot_check_free(x->check);
        x->check = NULL;
        u->open--;
        atomic_fetch_add(&u->kept, 1);
    }
    answer(j, &(struct thole_status){0}, NULL);
}

/* ---- Files that no shard needs ----------------------------------------------------------------
 * */

static void asked(void *ctx, const struct thole_status *st)
{
    struct job *j = ctx;
    j->st = *st;
    post(j);
}

/* A shard that a linearizable read of the registry does not show does not exist, unless its command
 * is still in flight. */
static void ask(struct uploads *u, uint64_t now_ns)
{
    struct job *j = job_new(u, JOB_ASKED, (struct slice){0});
    j->asked_ns = now_ns;
    u->asking = true;
    agent_barrier(u->agent, now_ns + BARRIER_NS, asked, j);
}

static void answered(struct uploads *u, struct job *j, uint64_t now_ns)
{
    u->asking = false;
    if (j->st.code != THOLE_OK) {
        u->ask_ns = now_ns + BARRIER_AGAIN_NS;
    } else {
        struct registry_view *v = registry_view_acquire(u->agent->registry);
        for (struct upload *x = u->all; x != NULL; x = x->next) {
            if (x->phase == KEPT && x->known_at == UINT64_MAX && x->used_ns <= j->asked_ns) {
                x->known_at = registry_view_revision(v);
            }
        }
        registry_view_release(v);
    }
    answer(j, &(struct thole_status){0}, NULL);
}

static bool wanted(const struct registry_view *v, const struct upload *x)
{
    struct registry_shard_buf shard_buf;
    struct slice name = {0};
    const thole_v1_Shard *row;
    while ((row = registry_next_shard(v, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        const thole_v1_ShardSeed *seed = thole_v1_Shard_seed(row);
        if (seed != NULL && !thole_v1_Shard_deleting(row) &&
            !thole_v1_ShardStatus_formed(thole_v1_Shard_status(row)) &&
            slice_equal(registry_str(thole_v1_ShardSeed_file(seed)), slice_str(x->name))) {
            return true;
        }
    }
    return false;
}

static uint64_t sweep(struct uploads *u, uint64_t now_ns)
{
    struct registry_view *v = registry_view_acquire(u->agent->registry);
    uint64_t next = CLOCK_NEVER;
    bool unknown = false;
    for (struct upload *x = u->all, *after; x != NULL; x = after) {
        after = x->next;
        bool idle = x->phase == RECEIVING || x->phase == COMPLETE;
        if (idle && x->used_ns + IDLE_NS <= now_ns) {
            drop(u, x);
        } else if (idle) {
            next = x->used_ns + IDLE_NS < next ? x->used_ns + IDLE_NS : next;
        } else if (x->phase == KEPT && x->known_at == UINT64_MAX) {
            unknown = true;
        } else if (x->phase == KEPT && registry_view_revision(v) >= x->known_at && !wanted(v, x)) {
            LOG_INFO(AGENT, "deleted an uploaded snapshot that no shard needs file=%s", x->name);
            drop(u, x);
        }
    }
    registry_view_release(v);
    if (unknown && !u->asking && u->ask_ns <= now_ns) {
        ask(u, now_ns);
    }
    return unknown && !u->asking && u->ask_ns < next ? u->ask_ns : next;
}

static uint64_t turn(void *ctx, struct msgq *batch, uint64_t now_ns)
{
    struct uploads *u = ctx;
    struct worker_msg *m;
    ASSERT(worker_is_current(u->worker));
    while ((m = msgq_pop(batch)) != NULL) {
        struct job *j = CONTAINER_OF(m, struct job, msg);
        switch ((enum job_kind)m->kind) {
        case JOB_PUT:
            put(u, j, now_ns);
            break;
        case JOB_CLAIM:
            claim(u, j);
            break;
        case JOB_SETTLE:
            settle(u, j, now_ns);
            break;
        case JOB_ASKED:
            answered(u, j, now_ns);
            break;
        case JOB_WAKE:
            atomic_store(&u->woken, false);
            break;
        }
    }
    return sweep(u, now_ns);
}

/* ---- Life ------------------------------------------------------------------------------------ */

struct found {
    struct uploads *u;
    char (*parts)[UUID_TEXT_BYTES + 8];
    size_t count;
};

static void found_name(void *ctx, const char *name)
{
    struct found *f = ctx;
    struct uuid id;
    if (uuid_parse(slice_str(name), &id)) {
        struct upload *x = add(f->u, KEPT);
        uuid_format(&id, x->name);
        x->known_at = UINT64_MAX;
        return;
    }
    f->parts = xrealloc(f->parts, (f->count + 1) * sizeof f->parts[0]);
    (void)snprintf(f->parts[f->count++], sizeof f->parts[0], "%s", name);
}

enum thole_code uploads_new(struct agent *a, const char *dir, struct uploads **ret,
                            struct thole_status *st)
{
    struct uploads *u = xcalloc(1, sizeof *u);
    struct found f = {.u = u};
    u->agent = a;
    u->wake.kind = JOB_WAKE;
    enum thole_code code = engine_files_disk_new(dir, &u->files, st);
    if (code != THOLE_OK) {
        free(u);
        return code;
    }
    u->files->ops->list(u->files, found_name, &f);
    for (size_t i = 0; i < f.count; i++) {
        u->files->ops->remove(u->files, f.parts[i]);
    }
    free(f.parts);
    u->worker = worker_new(a->executor, "uploads", 1024, turn, u);
    *ret = u;
    return THOLE_OK;
}

void uploads_stop(struct uploads *u)
{
    worker_stop(u->worker);
}

void uploads_free(struct uploads *u)
{
    if (u == NULL) {
        return;
    }
    worker_free(u->worker);
    while (u->all != NULL) {
        forget(u, u->all);
    }
    u->files->ops->free(u->files);
    free(u);
}

struct engine_files *uploads_files(struct uploads *u)
{
    return u->files;
}

struct uploads *agent_uploads(struct agent *a)
{
    return a->uploads;
}
