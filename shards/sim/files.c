/* Snapshot files. A commit syncs the file and its directory. A crash in a commit leaves the file or
 * not. A crash may undo a removal that no sync followed. A file that need not be durable may be cut
 * or gone after a crash. */
#include <bsd/string.h>
#include <stdlib.h>
#include <string.h>

#include "shards/engine/snapshot/snapshots.h"
#include "shards/sim/sim_internal.h"

struct content {
    size_t refs; /* of the directory entry and of open files */
    struct bytes bytes;
};
struct entry {
    struct entry *next;
    char name[ENGINE_NAME_BYTES];
    struct content *content;
    bool removed; /* may come back */
    bool durable;
};
struct files {
    struct engine_files base;
    struct sim_host *h;
    struct entry *entries;
};
struct engine_file {
    struct files *files;
    struct content *content;
    bool durable;
};

static struct files *files_of(struct engine_files *f)
{
    return CONTAINER_OF(f, struct files, base);
}

static void content_unref(struct content *c)
{
    if (--c->refs > 0) {
        return;
    }
    bytes_deinit(&c->bytes);
    free(c);
}

static bool fails(struct files *f)
{
    struct sim_host *h = f->h;
    bool full = h->space_low && rand_chance(&h->s->rand[SIM_SPACE], 0.1);
    if (!h->fail_file && !full) {
        return false;
    }
    h->fail_file = false;
    return true;
}

static enum thole_code file_create(struct engine_files *base, const char *name, bool durable,
                                   struct engine_file **ret, struct thole_status *st)
{
    struct files *f = files_of(base);
    (void)name;
    if (fails(f)) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "injected: no space");
    }
    struct engine_file *file = xcalloc(1, sizeof *file);
    file->files = f;
    file->durable = durable;
    file->content = xcalloc(1, sizeof *file->content);
    file->content->refs = 1;
    *ret = file;
    return THOLE_OK;
}

static enum thole_code file_append(struct engine_file *file, const void *data, size_t size,
                                   struct thole_status *st)
{
    if (fails(file->files)) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "injected: no space");
    }
    bytes_append(&file->content->bytes, data, size);
    return THOLE_OK;
}

static void file_close(struct engine_file *file)
{
    content_unref(file->content);
    free(file);
}

static struct entry **find(struct files *f, const char *name)
{
    struct entry **at = &f->entries;
    while (*at != NULL && ((*at)->removed || strcmp((*at)->name, name) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

static void drop(struct entry **at)
{
    struct entry *e = *at;
    *at = e->next;
    content_unref(e->content);
    free(e);
}

/* A commit syncs the directory, so earlier removals become durable. */
static void forget_removed(struct files *f)
{
    for (struct entry **at = &f->entries; *at != NULL;) {
        if ((*at)->removed) {
            drop(at);
        } else {
            at = &(*at)->next;
        }
    }
}

static enum thole_code file_commit(struct engine_file *file, const char *name,
                                   struct thole_status *st)
{
    struct files *f = file->files;
    struct sim_host *h = f->h;
    bool keep = true;
    if (h->crash_in_commit) {
        h->crash_in_commit = false;
        h->ending = true;
        engine__crash(h->engine);
        keep = rand_chance(&h->s->rand[SIM_CRASH_WRITE], 0.5);
        SIM_TRACE(h->s, "host %d: crashes in the commit of %s", h->id, name);
    } else if (fails(f)) {
        keep = false;
    }
    if (!keep) {
        file_close(file);
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "injected: commit failed");
    }
    struct entry **at = find(f, name);
    if (*at != NULL) {
        drop(at);
    }
    if (file->durable) {
        forget_removed(f);
    }
    struct entry *e = xcalloc(1, sizeof *e);
    (void)strlcpy(e->name, name, sizeof e->name);
    e->content = file->content;
    e->durable = file->durable;
    e->next = f->entries;
    f->entries = e;
    free(file);
    return THOLE_OK;
}

static enum thole_code file_open(struct engine_files *base, const char *name,
                                 struct engine_file **ret, uint64_t *ret_size,
                                 struct thole_status *st)
{
    struct files *f = files_of(base);
    struct entry *e = *find(f, name);
    if (e == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_DISK, "no file %s", name);
    }
    struct engine_file *file = xcalloc(1, sizeof *file);
    *file = (struct engine_file){.files = f, .content = e->content};
    e->content->refs++;
    *ret_size = e->content->bytes.size;
    *ret = file;
    return THOLE_OK;
}

static enum thole_code file_read(struct engine_file *file, uint64_t offset, void *data, size_t size,
                                 struct thole_status *st)
{
    const struct bytes *b = &file->content->bytes;
    if (offset > b->size || size > b->size - offset) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "the file is cut");
    }
    if (size > 0) {
        memcpy(data, b->data + offset, size);
    }
    return THOLE_OK;
}

static void file_remove(struct engine_files *base, const char *name)
{
    struct entry *e = *find(files_of(base), name);
    if (e != NULL) {
        e->removed = true;
    }
}

static void file_list(struct engine_files *base, void (*each)(void *ctx, const char *name),
                      void *ctx)
{
    for (const struct entry *e = files_of(base)->entries; e != NULL; e = e->next) {
        if (!e->removed) {
            each(ctx, e->name);
        }
    }
}

static enum thole_code file_space(struct engine_files *base, uint64_t *ret, struct thole_status *st)
{
    (void)st;
    *ret = files_of(base)->h->space_low ? 1024 : UINT64_MAX;
    return THOLE_OK;
}

static void files_free(struct engine_files *base)
{
    struct files *f = files_of(base);
    while (f->entries != NULL) {
        drop(&f->entries);
    }
    free(f);
}

static const struct engine_files_ops files_ops = {
    .free = files_free,
    .create = file_create,
    .append = file_append,
    .commit = file_commit,
    .discard = file_close,
    .open = file_open,
    .read = file_read,
    .close = file_close,
    .remove = file_remove,
    .list = file_list,
    .space = file_space,
};

struct engine_files *sim__files_new(struct sim_host *h)
{
    struct files *f = xcalloc(1, sizeof *f);
    f->base.ops = &files_ops;
    f->h = h;
    return &f->base;
}

void sim__files_crash(struct engine_files *base)
{
    struct files *f = files_of(base);
    struct rand *r = &f->h->s->rand[SIM_CRASH];
    for (struct entry *e = f->entries; e != NULL; e = e->next) {
        struct entry **same = find(f, e->name);
        if (e->removed && *same == NULL && rand_chance(r, 0.5)) {
            e->removed = false;
        }
        if (!e->durable && rand_chance(r, 0.5)) {
            e->removed = true;
        } else if (!e->durable) {
            e->content->bytes.size = rand_below(r, e->content->bytes.size + 1);
        }
    }
    forget_removed(f);
}

bool sim__files_flip(struct engine_files *base, uint64_t replica_id)
{
    struct files *f = files_of(base);
    struct rand *r = &f->h->s->rand[SIM_FLIP];
    for (struct entry *e = f->entries; e != NULL; e = e->next) {
        uint64_t replica, index;
        struct bytes *b = &e->content->bytes;
        if (e->removed || b->size == 0 || !engine__snapshot_name_parse(e->name, &replica, &index) ||
            replica != replica_id) {
            continue;
        }
        b->data[rand_below(r, b->size)] ^= (uint8_t)(1u << rand_below(r, 8));
        return true;
    }
    return false;
}
