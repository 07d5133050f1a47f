/* Power loss at any write or sync of any batch or reopening. Each sector on the disk is then as of
 * the last sync, or as written since. The reopened log holds all acknowledged updates, and a whole
 * number of updates of the interrupted write. At times only the process is killed: then all written
 * data survives until the power fails, too.
 *
 * The disk is modelled by replacing the system calls. A file's content is durable as of its last
 * fdatasync, a directory's as of its last fsync. A failed sync may leave sectors that are not
 * durable, and that the next sync skips. THOLE_SEED=n repeats a run, THOLE_STEPS=n makes it
 * longer. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shards/store/disk_log.h"
#include "shards/store/test/random_updates.h"
#include "shards/store/test/store_fixture.h"

enum { SECTOR_BYTES = 512, FILES_MAX = 1024, NAME_MAX_BYTES = 16 };

/* ---- The disk -------------------------------------------------------------------------------- */

struct disk_file {
    char name[NAME_MAX_BYTES];
    bool linked;         /* durably */
    bool unlinked;       /* since */
    struct bytes synced; /* content, durably */
    struct bytes dirty;  /* per sector: was it written since the system last tried to sync it */
};

static struct {
    char *path; /* of the log */
    struct disk_file files[FILES_MAX];
    size_t count;
    struct rand rand;
    uint64_t steps_left; /* writes and syncs until the machine stops; 0: it does not */
    bool stopped, full;
    struct bytes
        id; /* the file ID as it was, if another took its name and that is not durable yet */
} disk;

static struct disk_file *file_of(const char *name)
{
    for (size_t i = 0; i < disk.count; i++) {
        if (strcmp(disk.files[i].name, name) == 0) {
            return &disk.files[i];
        }
    }
    struct disk_file *f = disk.files;
    while (f < disk.files + disk.count && f->name[0] != '\0') {
        f++;
    }
    assert_true(f < disk.files + FILES_MAX);
    disk.count += f == disk.files + disk.count;
    snprintf(f->name, sizeof f->name, "%s", name);
    return f;
}

/* The name within the log if it is a segment's, or "" for the directory itself; else NULL. */
static const char *name_of(const char *path)
{
    size_t n = disk.path != NULL ? strlen(disk.path) : 0;

    if (n == 0 || strncmp(path, disk.path, n) != 0) {
        return NULL;
    }
    if (path[n] == '\0') {
        return "";
    }
    return strstr(path + n, ".seg") != NULL ? path + n + 1 : NULL;
}

static char *path_of(int fd, char *to, size_t size)
{
    char link[64];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, to, size - 1);
    assert_true(n > 0);
    to[n] = '\0';
    return to;
}

static void load(const char *name, struct bytes *b)
{
    char path[512];
    struct stat info;

    snprintf(path, sizeof path, "%s/%s", disk.path, name);
    int fd = open(path, O_RDONLY);
    bytes_clear(b);
    if (fd < 0) {
        return;
    }
    assert_int_equal(fstat(fd, &info), 0);
    size_t size = (size_t)info.st_size;
    if (size > 0) {
        assert_int_equal(pread(fd, bytes_extend(b, size), size, 0), info.st_size);
    }
    close(fd);
}

static bool is_there(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", disk.path, name);
    return access(path, F_OK) == 0;
}

/* Does the machine stop before this call takes effect? No later call takes effect either. */
static bool stops(void)
{
    if (disk.steps_left > 0 && --disk.steps_left == 0) {
        disk.stopped = true;
    }
    return disk.stopped;
}

static void resize(struct bytes *b, size_t size)
{
    if (b->size < size) {
        size_t more = size - b->size;
        memset(bytes_extend(b, more), 0, more);
    }
    b->size = size;
}

static void written(const char *name, size_t at, size_t size)
{
    struct bytes *dirty = &file_of(name)->dirty;
    size_t end = (at + size + SECTOR_BYTES - 1) / SECTOR_BYTES;

    resize(dirty, end > dirty->size ? end : dirty->size);
    memset(dirty->data + at / SECTOR_BYTES, 1, end - at / SECTOR_BYTES);
}

/* Dirty sectors become durable. Sectors of a failed sync are skipped: it marked them clean. */
static void sync_content(const char *name)
{
    struct disk_file *f = file_of(name);
    struct bytes now = {0};

    load(name, &now);
    resize(&f->synced, now.size);
    for (size_t i = 0; i < f->dirty.size && i * SECTOR_BYTES < now.size; i++) {
        size_t at = i * SECTOR_BYTES, n = now.size - at;

        if (f->dirty.data[i] != 0) {
            memcpy(f->synced.data + at, now.data + at, n < SECTOR_BYTES ? n : SECTOR_BYTES);
        }
    }
    bytes_deinit(&now);
}

int fdatasync(int fildes)
{
    char path[512];
    const char *name = name_of(path_of(fildes, path, sizeof path));

    if (name != NULL) {
        bool stopped = stops();

        if (!stopped) {
            sync_content(name);
        }
        if (!stopped || rand_chance(&disk.rand, 0.5)) {
            bytes_clear(&file_of(name)->dirty);
        }
        errno = EIO;
        return stopped ? -1 : 0;
    }
    return 0;
}

/* The file system is full after a partial write. */
ssize_t pwritev(int fd, const struct iovec *iovec, int count, off_t offset)
{
    char path[512];
    const char *name = name_of(path_of(fd, path, sizeof path));

    if (name == NULL || !stops()) {
        ssize_t n = syscall(SYS_pwritev, fd, iovec, (long)count, (long)offset, 0L);
        if (name != NULL && n > 0) {
            written(name, (size_t)offset, (size_t)n);
        }
        return n;
    }
    if (disk.full || rand_chance(&disk.rand, 0.3)) {
        errno = ENOSPC;
        return -1;
    }
    disk.full = true;
    size_t n = 1 + rand_below(&disk.rand, iovec->iov_len);
    written(name, (size_t)offset, n);
    return pwrite(fd, iovec->iov_base, n, offset);
}

static void each_name(void (*call)(struct disk_file *f))
{
    DIR *d = opendir(disk.path);
    struct dirent *e;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        if (strstr(e->d_name, ".seg") != NULL) {
            call(file_of(e->d_name));
        }
    }
    closedir(d);
}

static void set_linked(struct disk_file *f)
{
    f->linked = true;
}

static void sync_names(void)
{
    for (size_t i = 0; i < disk.count; i++) {
        struct disk_file *f = &disk.files[i];

        if (f->unlinked) {
            bytes_clear(&f->synced); /* another file has this name now */
            bytes_clear(&f->dirty);
        }
        f->linked = f->unlinked = false;
        if (!is_there(f->name)) {
            f->name[0] = '\0';
        }
    }
    each_name(set_linked);
    bytes_clear(&disk.id);
}

int fsync(int fd)
{
    char path[512];
    const char *name = name_of(path_of(fd, path, sizeof path));

    if (name != NULL && name[0] == '\0') {
        if (stops()) {
            errno = EIO;
            return -1;
        }
        sync_names();
    }
    return 0;
}

int rename(const char *old, const char *new)
{
    if (disk.path != NULL && strncmp(new, disk.path, strlen(disk.path)) == 0 && disk.id.size == 0) {
        load("ID", &disk.id);
    }
    return renameat(AT_FDCWD, old, AT_FDCWD, new);
}

int unlink(const char *name)
{
    const char *file = name_of(name);

    if (file != NULL && file[0] != '\0') {
        file_of(file)->unlinked = true;
    }
    return unlinkat(AT_FDCWD, name, 0);
}

/* ---- The power goes -------------------------------------------------------------------------- */

static size_t surviving_size(size_t synced, size_t written)
{
    size_t lo = synced < written ? synced : written, hi = synced < written ? written : synced;

    switch (rand_below(&disk.rand, 3)) {
    case 0:
        return synced;
    case 1:
        return written;
    default:
        return rand_between(&disk.rand, lo, hi);
    }
}

static void mix(const struct bytes *synced, const struct bytes *written, struct bytes *out)
{
    static const double odds[] = {0, 0.02, 0.5, 0.98, 1};
    double p = odds[rand_below(&disk.rand, 5)];
    size_t size = surviving_size(synced->size, written->size);

    bytes_clear(out);
    if (size == 0) {
        return;
    }
    memset(bytes_extend(out, size), 0, size);
    for (size_t at = 0; at < size; at += SECTOR_BYTES) {
        const struct bytes *from = rand_chance(&disk.rand, p) ? written : synced;
        size_t n = size - at < SECTOR_BYTES ? size - at : SECTOR_BYTES;

        if (at < from->size) {
            memcpy(out->data + at, from->data + at, n < from->size - at ? n : from->size - at);
        }
    }
}

static void store_file(const char *name, const struct bytes *b)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", disk.path, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600); /* a truncation now would cost a sync */
    assert_true(fd >= 0);
    assert_int_equal(b->size > 0 ? pwrite(fd, b->data, b->size, 0) : 0, b->size);
    assert_int_equal(ftruncate(fd, (off_t)b->size), 0);
    close(fd);
}

static void know(struct disk_file *f)
{
    (void)f; /* is in the list now */
}

/* Decides which unsynced data reached the disk; that data is durable then. */
static void lose_power(void)
{
    struct bytes now = {0}, left = {0};

    each_name(know);

    for (size_t i = 0; i < disk.count; i++) {
        struct disk_file *f = &disk.files[i];
        bool exists = f->name[0] != '\0' && is_there(f->name), old = f->linked && f->unlinked;

        if (!exists && !f->linked) {
            f->name[0] = '\0';
            continue;
        }
        load(f->name, &now);
        if (exists && !f->linked && rand_chance(&disk.rand, 0.5)) {
            exists = false; /* its name was not synced */
        } else if (old && rand_chance(&disk.rand, 0.5)) {
            exists = true; /* its removal was not */
            bytes_clear(&now);
            bytes_append_slice(&now, bytes_slice(&f->synced));
        } else if (old) {
            bytes_clear(&f->synced);
        }
        char path[512];
        snprintf(path, sizeof path, "%s/%s", disk.path, f->name);
        if (!exists) {
            (void)unlinkat(AT_FDCWD, path, 0);
            bytes_clear(&f->synced);
            f->linked = f->unlinked = false;
            f->name[0] = '\0';
            continue;
        }
        mix(&f->synced, &now, &left);
        store_file(f->name, &left);
        bytes_clear(&f->dirty);
        bytes_clear(&f->synced);
        bytes_append_slice(&f->synced, bytes_slice(&left));
        f->linked = true;
        f->unlinked = false;
    }
    if (disk.id.size > 0 && rand_chance(&disk.rand, 0.5)) {
        store_file("ID", &disk.id);
    }
    bytes_clear(&disk.id);
    bytes_deinit(&now);
    bytes_deinit(&left);
}

static void let_it_run(void)
{
    disk.stopped = disk.full = false;
    disk.steps_left = 0;
}

/* ---- What a log holds ------------------------------------------------------------------------ */

static uint64_t mix_in(uint64_t h, struct slice s)
{
    return hash64(s.data, s.size, h + s.size);
}

static uint64_t mix_number(uint64_t h, uint64_t n)
{
    return hash64(&n, sizeof n, h);
}

static uint64_t digest_entries(struct log_store *s, const struct store_replica *x, uint64_t h)
{
    struct raft_entry *got[64];

    for (uint64_t next = x->start_index + 1; next <= x->last_index;) {
        size_t n = 0;

        assert_int_equal(
            s->ops->read(s, x->replica_id, next, x->last_index, SIZE_MAX, 64, got, &n, NULL),
            THOLE_OK);
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(got[i]->index, next++);
            h = mix_number(h, got[i]->term);
            h = mix_number(h, got[i]->kind);
            h = mix_number(h, got[i]->session);
            h = mix_number(h, got[i]->sequence);
            h = mix_in(h, got[i]->payload.bytes);
            raft_entry_unref(got[i]);
        }
    }
    return h;
}

static uint64_t digest(struct log_store *s)
{
    const struct store_replica *x;
    struct buf *host = NULL;
    size_t it = 0;
    uint64_t h = 0;

    while ((x = s->ops->next(s, &it)) != NULL) {
        h = mix_number(h, x->replica_id);
        h = mix_number(h, x->removed);
        if (x->removed) {
            continue;
        }
        h = mix_number(h, x->shard_id);
        h = mix_in(h, x->descriptor);
        h = mix_number(h, x->hard.term);
        h = mix_number(h, x->hard.vote);
        h = mix_number(h, x->hard.commit);
        h = mix_number(h, x->start_index);
        h = mix_number(h, x->start_term);
        h = mix_number(h, x->last_index);
        h = mix_number(h, x->machine_generation);
        h = mix_in(h, x->start_config);
        for (size_t i = 0; i < x->run_count; i++) {
            h = mix_number(h, x->runs[i].first_index);
            h = mix_number(h, x->runs[i].term);
        }
        h = digest_entries(s, x, h);
    }
    if (s->ops->get_host(s, "record", &host, NULL) == THOLE_OK) {
        h = mix_in(h, slice_of(host->data, host->size));
        buf_unref(host);
    }
    return h;
}

/* ---- The test -------------------------------------------------------------------------------- */

struct run {
    char *dir;
    struct log_store *log, *memory;
    struct rand rand;
    struct guess guesses[RANDOM_IDS];
    uint64_t stops, opens;
};

/* Opens the log; at times the machine stops in the middle of that, too. */
static void reopen(struct run *t)
{
    struct thole_status st = {0};

    for (;;) {
        if (rand_chance(&t->rand, 0.7)) {
            lose_power();
        }
        let_it_run();
        if (rand_chance(&t->rand, 0.2)) {
            disk.steps_left = 1 + rand_below(&t->rand, 5);
        }
        t->opens++;
        enum thole_code code = log_try_open(t->dir, &t->log, &st);
        if (code == THOLE_OK && !disk.stopped) {
            let_it_run();
            return;
        }
        if (code != THOLE_OK && !disk.stopped) {
            fail_msg("open: %s (%s:%d)", st.message, st.file, st.line);
        }
        if (code == THOLE_OK) {
            log_shut(t->log);
        }
    }
}

static void expect_same(struct run *t)
{
    if (digest(t->log) != digest(t->memory)) {
        log_expect_same(t->memory, t->log);
        fail_msg("a host record differs");
    }
}

/* The batch is in the log, up to some update. */
static void catch_up(struct run *t, const struct random_batch *b)
{
    uint64_t found = digest(t->log);

    for (size_t i = 0; i < b->count && digest(t->memory) != found; i++) {
        assert_int_equal(t->memory->ops->write(t->memory, &b->u[i], 1, NULL), THOLE_OK);
    }
    expect_same(t);
}

static void write_batch(struct run *t)
{
    struct random_batch b;

    random_batch(&t->rand, t->guesses, &b);
    if (rand_chance(&t->rand, 0.3)) {
        disk.steps_left = 1 + rand_below(&t->rand, 5);
    }
    uint64_t sequence = ((struct disk_log *)t->log)->files.sequence;
    enum thole_code code = t->log->ops->write(t->log, b.u, b.count, NULL);
    if (disk.stopped) {
        t->stops++;
        assert_int_equal(code, THOLE_UNAVAILABLE);
        log_shut(t->log);
        reopen(t);
        if (((struct disk_log *)t->log)->files.sequence == sequence) {
            expect_same(t);
        } else {
            catch_up(t, &b);
        }
        random_correct(t->guesses, t->memory);
    } else {
        let_it_run();
        assert_int_equal(t->memory->ops->write(t->memory, b.u, b.count, NULL), code);
        if (code != THOLE_OK) {
            random_correct(t->guesses, t->memory);
        }
    }
    random_batch_free(&b);
}

static void write_host(struct run *t, uint64_t step)
{
    struct slice value = slice_of((const uint8_t *)&step, sizeof step);

    assert_int_equal(t->log->ops->put_host(t->log, "record", value, NULL), THOLE_OK);
    assert_int_equal(t->memory->ops->put_host(t->memory, "record", value, NULL), THOLE_OK);
}

static void test_log_power_loss_keeps_what_was_acknowledged(void **state)
{
    static struct run t;
    uint64_t seed = random_option("THOLE_SEED", (uint64_t)time(NULL));
    uint64_t steps = random_option("THOLE_STEPS", 1000);
    char path[512];

    (void)state;
    print_message("THOLE_SEED=%" PRIu64 "\n", seed);
    rand_seed(&t.rand, seed);
    rand_seed(&disk.rand, seed + 1);
    t.dir = dir_new();
    snprintf(path, sizeof path, "%s/log", t.dir);
    disk.path = path;
    t.log = log_open(t.dir);
    t.memory = log_store_memory_new();
    for (uint64_t step = 0; step < steps; step++) {
        write_batch(&t);
        if (rand_chance(&t.rand, 0.05)) {
            write_host(&t, step);
        }
        if (rand_chance(&t.rand, 0.2)) {
            t.log->ops->attest(t.log);
        }
        if (rand_chance(&t.rand, 0.03)) { /* between two writes */
            log_shut(t.log);
            reopen(&t);
            expect_same(&t);
        }
    }
    expect_same(&t);
    print_message("stopped in %" PRIu64 " writes, opened %" PRIu64 " times, %u segments\n", t.stops,
                  t.opens, segments_newest(&((struct disk_log *)t.log)->files)->number);
    assert_true(t.stops > steps / 20);
    log_shut(t.log);
    log_shut(t.memory);
    disk.path = NULL;
    bytes_deinit(&disk.id);
    for (size_t i = 0; i < disk.count; i++) {
        bytes_deinit(&disk.files[i].synced);
        bytes_deinit(&disk.files[i].dirty);
    }
    dir_free(t.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_power_loss_keeps_what_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
