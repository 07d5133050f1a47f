/* Snapshot files in memory, for harnesses: committed files survive the engine. */
#include <stdlib.h>
#include <string.h>

#include "shards/engine/engine_internal.h"

struct content {
    size_t refs; /* of the directory entry and of open files */
    struct bytes bytes;
};
struct entry {
    struct entry *next;
    char name[ENGINE_NAME_BYTES];
    struct content *content;
};
struct memory {
    struct engine_files base;
    pthread_mutex_t lock;
    struct entry *entries;
    uint64_t free_bytes;
};
struct engine_file {
    struct memory *memory;
    struct content *content;
};

static struct memory *memory_of(struct engine_files *f)
{
    return CONTAINER_OF(f, struct memory, base);
}

static void content_unref(struct content *c)
{
    ASSERT(c->refs > 0);
    if (--c->refs > 0) {
        return;
    }
    bytes_deinit(&c->bytes);
    free(c);
}

static enum thole_code memory_create(struct engine_files *f, const char *name, bool durable,
                                     struct engine_file **ret, struct thole_status *st)
{
    (void)name, (void)durable, (void)st;
    struct engine_file *file = xcalloc(1, sizeof *file);
    file->memory = memory_of(f);
    file->content = xcalloc(1, sizeof *file->content);
    file->content->refs = 1;
    *ret = file;
    return THOLE_OK;
}

static enum thole_code memory_append(struct engine_file *file, const void *data, size_t size,
                                     struct thole_status *st)
{
    (void)st;
    bytes_append(&file->content->bytes, data, size);
    return THOLE_OK;
}

static void memory_close(struct engine_file *file)
{
    pthread_mutex_lock(&file->memory->lock);
    content_unref(file->content);
    pthread_mutex_unlock(&file->memory->lock);
    free(file);
}

static struct entry **find(struct memory *m, const char *name)
{
    struct entry **at = &m->entries;
    while (*at != NULL && strcmp((*at)->name, name) != 0) {
        at = &(*at)->next;
    }
    return at;
}

static enum thole_code memory_commit(struct engine_file *file, const char *final_name,
                                     struct thole_status *st)
{
    (void)st;
    struct memory *m = file->memory;
    pthread_mutex_lock(&m->lock);
    struct entry **at = find(m, final_name);
    if (*at == NULL) {
        *at = xcalloc(1, sizeof **at);
        strncpy((*at)->name, final_name, ENGINE_NAME_BYTES - 1);
    } else {
        content_unref((*at)->content);
    }
    (*at)->content = file->content;
    pthread_mutex_unlock(&m->lock);
    free(file);
    return THOLE_OK;
}

static enum thole_code memory_open(struct engine_files *f, const char *name,
                                   struct engine_file **ret, uint64_t *ret_size,
                                   struct thole_status *st)
{
    struct memory *m = memory_of(f);
    pthread_mutex_lock(&m->lock);
    const struct entry *e = *find(m, name);
    struct engine_file *file = NULL;
    if (e != NULL) {
        file = xcalloc(1, sizeof *file);
        *file = (struct engine_file){m, e->content};
        e->content->refs++;
        *ret_size = e->content->bytes.size;
    }
    pthread_mutex_unlock(&m->lock);
    if (file == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_DISK, "no file %s", name);
    }
    *ret = file;
    return THOLE_OK;
}

static enum thole_code memory_read(struct engine_file *file, uint64_t offset, void *data,
                                   size_t size, struct thole_status *st)
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

static void memory_remove(struct engine_files *f, const char *name)
{
    struct memory *m = memory_of(f);
    pthread_mutex_lock(&m->lock);
    struct entry **at = find(m, name), *e = *at;
    if (e != NULL) {
        *at = e->next;
        content_unref(e->content);
        free(e);
    }
    pthread_mutex_unlock(&m->lock);
}

static void memory_list(struct engine_files *f, void (*each)(void *ctx, const char *name),
                        void *ctx)
{
    struct memory *m = memory_of(f);
    pthread_mutex_lock(&m->lock);
    for (const struct entry *e = m->entries; e != NULL; e = e->next) {
        each(ctx, e->name);
    }
    pthread_mutex_unlock(&m->lock);
}

static enum thole_code memory_space(struct engine_files *f, uint64_t *ret_free_bytes,
                                    struct thole_status *st)
{
    (void)st;
    struct memory *m = memory_of(f);
    pthread_mutex_lock(&m->lock);
    *ret_free_bytes = m->free_bytes;
    pthread_mutex_unlock(&m->lock);
    return THOLE_OK;
}

static void memory_free(struct engine_files *f)
{
    struct memory *m = memory_of(f);
    while (m->entries != NULL) {
        memory_remove(f, m->entries->name);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct engine_files_ops memory_ops = {
    .free = memory_free,
    .create = memory_create,
    .append = memory_append,
    .commit = memory_commit,
    .discard = memory_close,
    .open = memory_open,
    .read = memory_read,
    .close = memory_close,
    .remove = memory_remove,
    .list = memory_list,
    .space = memory_space,
};

struct engine_files *engine_files_memory_new(void)
{
    struct memory *m = xcalloc(1, sizeof *m);
    m->base.ops = &memory_ops;
    m->free_bytes = UINT64_MAX;
    pthread_mutex_init(&m->lock, NULL);
    return &m->base;
}

void engine_files_memory_set_free_bytes(struct engine_files *f, uint64_t free_bytes)
{
    struct memory *m = memory_of(f);
    pthread_mutex_lock(&m->lock);
    m->free_bytes = free_bytes;
    pthread_mutex_unlock(&m->lock);
}
