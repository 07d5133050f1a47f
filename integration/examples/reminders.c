/* A persistent machine type with files of its own that uses time, as a plugin of tholed:
 *
 *   cc -shared -fPIC reminders.c $(pkg-config --cflags thole) -o reminders.so
 *   tholed --dev --plugin ./reminders.so
 *
 * Commands: "remind MS TEXT" sets a reminder MS milliseconds from now by the calendar; "lease MS
 * TEXT" one that counts only while the shard has a leader. The query "" lists what is pending and
 * what was due.
 *
 * The state is in memory. `flush` writes it, with the engine's metadata, into one file, which
 * replaces the one before; `open` reads it. What was applied after the last flush is lost in a
 * crash, and the engine applies it again from the log. A machine with much data would keep it in a
 * database instead, and store each batch there with its metadata in one transaction. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/machine.h>
#include <unistd.h>

#define TEXT_BYTES 64
#define REMINDERS_MAX 10000
#define CODE_INVALID 1
#define CODE_FULL 2

enum state { PENDING_NOW, PENDING_ALIVE, DUE };

struct reminder {
    uint64_t due_ms; /* of the entries' now_ms or alive_ms */
    uint32_t state;  /* enum state */
    char text[TEXT_BYTES];
};
struct record { /* of the engine's metadata */
    struct record *next;
    size_t key_size, value_size;
    unsigned char bytes[]; /* the key, then the value */
};
struct reminders {
    char *file, *unfinished; /* names */
    struct reminder *all;
    size_t count;
    struct record *meta;
};

static enum thole_code fail(struct thole_status *st, enum thole_code code, const char *what)
{
    return THOLE_FAIL(st, code, THOLE_REASON_NONE, "reminders: %s: %s", what, strerror(errno));
}

static enum thole_code damaged(struct thole_status *st)
{
    return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "reminders: damaged data");
}

/* ---- The engine's metadata ------------------------------------------------------------------- */

static void set_record(struct reminders *m, struct thole_slice key, struct thole_slice value)
{
    struct record **at = &m->meta;
    while (*at != NULL &&
           ((*at)->key_size != key.size || memcmp((*at)->bytes, key.data, key.size) != 0)) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        struct record *old = *at;
        *at = old->next;
        free(old);
    }
    if (value.data == NULL) {
        return; /* a record that is deleted */
    }
    struct record *r = malloc(sizeof *r + key.size + value.size);
    if (r == NULL) {
        abort();
    }
    r->next = m->meta;
    r->key_size = key.size;
    r->value_size = value.size;
    memcpy(r->bytes, key.data, key.size);
    memcpy(r->bytes + key.size, value.data, value.size);
    m->meta = r;
}

/* ---- The file -------------------------------------------------------------------------------- */

static bool put(FILE *f, const void *data, size_t size)
{
    return fwrite(data, 1, size, f) == size;
}

static bool write_all(const struct reminders *m, FILE *f)
{
    uint64_t numbers[2] = {m->count, 0};
    bool ok = true;
    for (const struct record *r = m->meta; r != NULL; r = r->next) {
        numbers[1]++;
    }
    ok = put(f, numbers, sizeof numbers) && put(f, m->all, m->count * sizeof m->all[0]);
    for (const struct record *r = m->meta; r != NULL && ok; r = r->next) {
        uint64_t sizes[2] = {r->key_size, r->value_size};
        ok = put(f, sizes, sizeof sizes) && put(f, r->bytes, r->key_size + r->value_size);
    }
    return ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

/* Durable: the file is complete before it gets its name, and its name is synced. */
static enum thole_code save_file(const struct reminders *m, struct thole_status *st)
{
    FILE *f = fopen(m->unfinished, "wb");
    if (f == NULL) {
        return fail(st, THOLE_UNAVAILABLE, m->unfinished);
    }
    bool ok = write_all(m, f);
    ok = fclose(f) == 0 && ok && rename(m->unfinished, m->file) == 0;
    char *slash = strrchr(m->unfinished, '/');
    *slash = '\0';
    int directory = ok ? open(m->unfinished, O_RDONLY | O_DIRECTORY) : -1;
    *slash = '/';
    ok = directory >= 0 && fsync(directory) == 0;
    if (directory >= 0) {
        close(directory);
    }
    return ok ? THOLE_OK : fail(st, THOLE_UNAVAILABLE, m->file);
}

static bool read_all(struct reminders *m, FILE *f)
{
    uint64_t numbers[2];
    if (fread(numbers, sizeof numbers, 1, f) != 1 || numbers[0] > REMINDERS_MAX ||
        fread(m->all, sizeof m->all[0], numbers[0], f) != numbers[0]) {
        return false;
    }
    m->count = numbers[0];
    for (uint64_t i = 0; i < numbers[1]; i++) {
        uint64_t sizes[2];
        unsigned char bytes[32 + 128 * 1024];
        if (fread(sizes, sizeof sizes, 1, f) != 1 || sizes[0] > 32 || sizes[1] > 128 * 1024 ||
            fread(bytes, 1, sizes[0] + sizes[1], f) != sizes[0] + sizes[1]) {
            return false;
        }
        set_record(m, (struct thole_slice){bytes, sizes[0]},
                   (struct thole_slice){bytes + sizes[0], sizes[1]});
    }
    return true;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static struct thole_due due_of(const struct reminders *m)
{
    struct thole_due due = {THOLE_NEVER, THOLE_NEVER};
    for (size_t i = 0; i < m->count; i++) {
        const struct reminder *r = &m->all[i];
        uint64_t *first = r->state == PENDING_NOW ? &due.now_ms : &due.alive_ms;
        if (r->state != DUE && r->due_ms < *first) {
            *first = r->due_ms;
        }
    }
    return due;
}

static void reminders_close(void *machine)
{
    struct reminders *m = machine;
    while (m->meta != NULL) {
        struct record *next = m->meta->next;
        free(m->meta);
        m->meta = next;
    }
    free(m->all);
    free(m->file);
    free(m->unfinished);
    free(m);
}

static char *name_of(const char *directory, const char *name)
{
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    if (path != NULL) {
        (void)snprintf(path, size, "%s/%s", directory, name);
    }
    return path;
}

static enum thole_code reminders_open(const struct thole_machine_env *env, void **ret,
                                      struct thole_status *st)
{
    struct reminders *m = calloc(1, sizeof *m);
    if (m != NULL) {
        m->all = calloc(REMINDERS_MAX, sizeof m->all[0]);
        m->file = name_of(env->directory, "state");
        m->unfinished = name_of(env->directory, "state.tmp");
    }
    if (m == NULL || m->all == NULL || m->file == NULL || m->unfinished == NULL) {
        return fail(st, THOLE_RESOURCE_EXHAUSTED, "memory");
    }
    FILE *f = fopen(m->file, "rb");
    bool ok = f == NULL ? errno == ENOENT : read_all(m, f);
    if (f != NULL) {
        (void)fclose(f);
    }
    if (!ok) {
        reminders_close(m);
        return damaged(st);
    }
    for (const struct record *r = m->meta; r != NULL; r = r->next) {
        env->meta(env->meta_ctx, (struct thole_slice){r->bytes, r->key_size},
                  (struct thole_slice){r->bytes + r->key_size, r->value_size});
    }
    *env->due = due_of(m);
    *ret = m;
    return THOLE_OK;
}

static enum thole_code reminders_flush(void *machine, struct thole_status *st)
{
    return save_file(machine, st);
}

/* ---- Apply ----------------------------------------------------------------------------------- */

/* What is due by the entry's times, in the order in which it was set; the rest at the next TICK. */
static void tick(struct reminders *m, const struct thole_entry *e)
{
    size_t done = 0;
    for (size_t i = 0; i < m->count && done < THOLE_TICK_ITEMS_MAX; i++) {
        struct reminder *r = &m->all[i];
        uint64_t time = r->state == PENDING_NOW ? e->now_ms : e->alive_ms;
        if (r->state != DUE && r->due_ms <= time) {
            r->state = DUE;
            done++;
        }
    }
}

static uint64_t set(struct reminders *m, const struct thole_entry *e)
{
    char text[128] = "", what[8], note[TEXT_BYTES];
    uint64_t ms;
    if (e->command.size >= sizeof text) {
        return CODE_INVALID;
    }
    memcpy(text, e->command.data, e->command.size);
    if (sscanf(text, "%7s %10" SCNu64 " %63[^\n]", what, &ms, note) != 3 ||
        (strcmp(what, "remind") != 0 && strcmp(what, "lease") != 0)) {
        return CODE_INVALID;
    }
    if (m->count == REMINDERS_MAX) {
        return CODE_FULL;
    }
    struct reminder *r = &m->all[m->count++];
    memset(r, 0, sizeof *r);
    memcpy(r->text, note, strlen(note));
    r->state = what[0] == 'r' ? PENDING_NOW : PENDING_ALIVE;
    r->due_ms = (what[0] == 'r' ? e->now_ms : e->alive_ms) + ms;
    return 0;
}

static enum thole_code reminders_apply(void *machine, struct thole_apply *batch,
                                       struct thole_status *st)
{
    struct reminders *m = machine;
    for (size_t i = 0; i < batch->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(batch, i);
        switch (e->kind) {
        case THOLE_ENTRY_COMMAND:
            e->code = set(m, e);
            break;
        case THOLE_ENTRY_TICK:
            tick(m, e);
            break;
        default:
            return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_NONE,
                              "an entry of a kind that this version does not know");
        }
    }
    size_t n = 0;
    const struct thole_meta *meta = batch->metadata(batch, &n);
    for (size_t i = 0; i < n; i++) {
        set_record(m, meta[i].key, meta[i].value);
    }
    batch->due = due_of(m);
    return THOLE_OK;
}

/* ---- Queries and snapshots: without views, so guarded by the engine ---------------------- */

static enum thole_code reminders_query(void *machine, const void *view, struct thole_slice query,
                                       struct thole_sink *answer, struct thole_status *st)
{
    const struct reminders *m = machine;
    (void)view, (void)query, (void)st;
    for (size_t i = 0; i < m->count; i++) {
        char line[TEXT_BYTES + 16];
        int n = snprintf(line, sizeof line, "%s %s\n", m->all[i].state == DUE ? "due" : "pending",
                         m->all[i].text);
        enum thole_code code = answer->write(answer, line, (size_t)n);
        if (code != THOLE_OK) {
            return code;
        }
    }
    return THOLE_OK;
}

static enum thole_code reminders_save(void *machine, const void *view, struct thole_save *to,
                                      struct thole_status *st)
{
    const struct reminders *m = machine;
    (void)view, (void)st;
    return to->out->write(to->out, m->all, m->count * sizeof m->all[0]);
}

static enum thole_code reminders_restore(void *machine, struct thole_restore *from,
                                         struct thole_status *st)
{
    struct reminders *m = machine;
    size_t have = 0, most = REMINDERS_MAX * sizeof m->all[0];
    int64_t n = 0;
    while (have < most && (n = from->in->read(from->in, (char *)m->all + have, most - have)) > 0) {
        have += (size_t)n;
    }
    if (n < 0 || have % sizeof m->all[0] != 0) {
        return damaged(st);
    }
    m->count = have / sizeof m->all[0];
    for (size_t i = 0; i < from->meta_count; i++) {
        set_record(m, from->meta[i].key, from->meta[i].value);
    }
    from->due = due_of(m);
    return save_file(m, st); /* durable on return */
}

static const struct thole_machine_type reminders = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "reminders",
    .flags = THOLE_MACHINE_PERSISTENT,
    .open = reminders_open,
    .close = reminders_close,
    .apply = reminders_apply,
    .query = reminders_query,
    .save = reminders_save,
    .restore = reminders_restore,
    .flush = reminders_flush, /* without `destroy` the engine deletes the directory */
};

const struct thole_plugin *thole_plugin(void)
{
    static const struct thole_machine_type *const types[] = {&reminders, NULL};
    static const struct thole_plugin plugin = {sizeof plugin, THOLE_PLUGIN_INTERFACE, types};
    return &plugin;
}
