#include "shards/store/segments.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/log.h"

#define SEGMENT_MAGIC UINT64_C(0x31676573656c6f68) /* "holeseg1" */
#define SEGMENT_VERSION 2

/* A small write that extends the file also writes zeros behind itself. The next writes then change
 * no metadata, and their syncs take half the time. Large writes do not: they would write twice as
 * much. */
#define ZERO_AHEAD_BYTES ((uint32_t)MIB)
#define ZERO_AHEAD_WRITE_MAX ((size_t)64 * KIB)
#define ZERO_CHUNK_BYTES (64 * KIB)
#define ZERO_CHUNKS_MAX (ZERO_AHEAD_BYTES / ZERO_CHUNK_BYTES + 1)

/* Spare segments beyond half the live ones, and beyond these, are deleted. */
#define SPARE_MIN 2

static enum thole_code fail_io(struct thole_status *st, const char *what, const struct segment *g)
{
    int err = errno;

    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "log segment %" PRIu32 ": %s: %s",
                      g->file, what, strerror(err));
}

/* ---- Rings ----------------------------------------------------------------------------------- */

static void ring_push(struct segment_ring *r, struct segment *g)
{
    if (r->head + r->count == r->capacity) {
        if (r->head > r->capacity / 2) {
            memmove(r->items, r->items + r->head, r->count * sizeof(struct segment *));
            r->head = 0;
        } else {
            r->capacity = r->capacity * 2 + 8;
            r->items = xrealloc(r->items, r->capacity * sizeof(struct segment *));
        }
    }
    r->items[r->head + r->count++] = g;
}

static struct segment *ring_pop(struct segment_ring *r)
{
    ASSERT(r->count > 0);
    r->count--;
    return r->items[r->head++];
}

struct segment *segments_get(const struct segments *s, uint32_t number)
{
    uint32_t first = segments_oldest(s)->number;

    ASSERT(number >= first && number - first < s->live.count);
    return s->live.items[s->live.head + (number - first)];
}

void segments_add_live(struct segments *s, struct log_place at)
{
    ASSERT(at.bytes > 0);
    segments_get(s, at.segment)->live += at.bytes;
    s->live_bytes += at.bytes;
}

void segments_drop(struct segments *s, struct log_place *at)
{
    if (at->segment != 0) {
        struct segment *g = segments_get(s, at->segment);

        ASSERT(g->live >= at->bytes && s->live_bytes >= at->bytes);
        g->live -= at->bytes;
        s->live_bytes -= at->bytes;
    }
    *at = (struct log_place){0};
}

/* The sum over the ring; and its numbers have no gap. */
static __attribute__((unused)) bool is_consistent(const struct segments *s)
{
    uint64_t live = 0;

    for (size_t i = 0; i < s->live.count; i++) {
        const struct segment *g = s->live.items[s->live.head + i];

        live += g->live;
        if (g->number != segments_oldest(s)->number + i) {
            return false;
        }
    }
    return live == s->live_bytes;
}

bool segments_retire(struct segments *s)
{
    struct segment *g = segments_oldest(s);

    if (s->live.count == 1 || g->live > 0 || g->readers > 0) {
        return false;
    }
    ring_push(&s->spare, ring_pop(&s->live));
    ASSERT_SLOW(is_consistent(s));
    return true;
}

/* ---- The file ID ----------------------------------------------------------------------------- */

#define ID_FILE_BYTES_MAX 256

/* The file ID identifies the log, and counts its segment files at least. So a file that is missing
 * or unreadable, even the newest, is never taken for the end of the log. */
static enum thole_code read_id(struct segments *s, struct thole_status *st)
{
    char text[UUID_TEXT_BYTES] = "";
    unsigned version = 0;
    struct buf *b = NULL;
    char line[ID_FILE_BYTES_MAX + 1] = "";
    char *path = xasprintf("%s/ID", s->path);
    enum thole_code code = file_read(path, ID_FILE_BYTES_MAX, &b, st);

    if (code == THOLE_OK) {
        memcpy(line, b->data, b->size);
        buf_unref(b);
        int n = sscanf(line, "thole log %u %36s %" SCNu32, &version, text, &s->files);

        if (n < 1 ||
            (version == SEGMENT_VERSION && (n < 3 || !uuid_parse(slice_str(text), &s->id)))) {
            code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s is damaged", path);
        } else if (version != SEGMENT_VERSION) {
            code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                              "the log has format %u, this program knows %d", version,
                              SEGMENT_VERSION);
        }
    }
    free(path);
    return code;
}

/* More files than counted are harmless: the count grows after a file is created, and shrinks before
 * one is deleted. */
static enum thole_code count_files(struct segments *s, uint32_t files, struct thole_status *st)
{
    char text[UUID_TEXT_BYTES], line[ID_FILE_BYTES_MAX];
    char *path = xasprintf("%s/ID", s->path);

    uuid_format(&s->id, text);
    snprintf(line, sizeof line, "thole log %d %s %" PRIu32 "\n", SEGMENT_VERSION, text, files);
    enum thole_code code = file_write_atomic(path, slice_str(line), st);
    if (code == THOLE_OK) {
        s->files = files;
    }
    free(path);
    return code;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static char *segment_path(const struct segments *s, uint32_t file)
{
    return xasprintf("%s/" SEGMENT_NAME_FORMAT, s->path, file);
}

static void segment_free(struct segment *g)
{
    if (g->fd >= 0) {
        close(g->fd);
    }
    free(g);
}

static enum thole_code segment_open(struct segments *s, uint32_t file, bool create,
                                    struct segment **ret, struct thole_status *st)
{
    struct segment *g = xcalloc(1, sizeof *g);
    char *path = segment_path(s, file);
    struct stat info;
    enum thole_code code = THOLE_OK;

    g->file = file;
    int mode = s->report != NULL ? O_RDONLY | O_NONBLOCK : O_RDWR;
    g->fd = file_open(path, mode | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
    if (g->fd < 0 || fstat(g->fd, &info) != 0) {
        code = fail_io(st, "open", g);
    } else if (!S_ISREG(info.st_mode) || info.st_size > UINT32_MAX) {
        code =
            THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s is not a log segment", path);
    } else if (info.st_nlink > 1 && s->report == NULL) { /* segments are overwritten in place */
        code = THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s is a hard link of another file, which the log would overwrite", path);
    } else {
        g->extent = (uint32_t)info.st_size;
    }
    if (code == THOLE_OK && create) {
        code = file_sync_dir(s->path, st); /* before it is counted */
    }
    if (code == THOLE_OK && create) {
        code = count_files(s, s->files + 1, st);
    }
    free(path);
    if (code != THOLE_OK) {
        segment_free(g);
        return code;
    }
    if (file >= s->next_file) {
        s->next_file = file + 1;
    }
    *ret = g;
    return THOLE_OK;
}

enum thole_code segment_read(const struct segment *g, uint32_t offset, void *to, size_t n,
                             struct thole_status *st)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(g->fd, (char *)to + done, n - done, (off_t)offset + (off_t)done);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_io(st, "read", g);
        }
        if (got == 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "log segment %" PRIu32 " ends too early", g->file);
        }
        done += (size_t)got;
    }
    return THOLE_OK;
}

enum thole_code segment_load(const struct segment *g, struct bytes *out, struct thole_status *st)
{
    bytes_clear(out);
    return segment_read(g, 0, bytes_extend(out, g->extent), g->extent, st);
}

/* ---- Headers --------------------------------------------------------------------------------- */

/* [magic 8][version 4][number 4][tail 4][0 4][first sequence 8][store id 16][0 8][checksum 8] */
static void header_encode(const struct segments *s, const struct segment *g, uint8_t *p)
{
    memset(p, 0, SEGMENT_HEADER_BYTES);
    put_le64(p, SEGMENT_MAGIC);
    put_le32(p + 8, SEGMENT_VERSION);
    put_le32(p + 12, g->number);
    put_le32(p + 16, g->tail);
    put_le64(p + 24, g->first_sequence);
    memcpy(p + 32, s->id.bytes, 16);
    put_le64(p + 56, hash64(p, 56, 0));
}

static enum thole_code header_read(struct segments *s, struct segment *g, struct thole_status *st)
{
    uint8_t p[SEGMENT_HEADER_BYTES];
    struct uuid id;

    if (g->extent < sizeof p) {
        return THOLE_OK;
    }
    enum thole_code code = segment_read(g, 0, p, sizeof p, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (get_le64(p) != SEGMENT_MAGIC || get_le64(p + 56) != hash64(p, 56, 0)) {
        return THOLE_OK;
    }
    if (get_le32(p + 8) != SEGMENT_VERSION) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "the log has format %" PRIu32 ", this program knows %d", get_le32(p + 8),
                          SEGMENT_VERSION);
    }
    memcpy(id.bytes, p + 32, 16);
    if (!uuid_equal(&s->id, &id)) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "%s/%08" PRIu32 ".seg belongs to another log", s->path, g->file);
    }
    g->number = get_le32(p + 12);
    g->tail = get_le32(p + 16);
    g->first_sequence = get_le64(p + 24);
    return THOLE_OK;
}

/* ---- Open ------------------------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    uint32_t x = (*(struct segment *const *)a)->number, y = (*(struct segment *const *)b)->number;

    return x < y ? -1 : x > y;
}

/* If the log is opened for reading alone, damage is reported instead. */
static enum thole_code fail_or_report(const struct segments *s, uint32_t file, enum thole_code code,
                                      const struct thole_status *why)
{
    if (s->report == NULL || code == THOLE_OK || why->reason == THOLE_REASON_FORMAT) {
        return code;
    }
    s->report(s->report_ctx, file, why->message);
    return THOLE_OK;
}

static enum thole_code open_named(struct segments *s, const char *name, struct thole_status *st)
{
    char *end;
    struct segment *g;
    uint64_t file = strtoul(name, &end, 10);

    if (end != name + 8 || strcmp(end, ".seg") != 0) {
        return THOLE_OK;
    }
    enum thole_code code = segment_open(s, (uint32_t)file, false, &g, st);
    if (code == THOLE_OK) {
        ring_push(&s->spare, g);
        code = header_read(s, g, st);
    }
    return fail_or_report(s, (uint32_t)file, code, st);
}

static enum thole_code open_files(struct segments *s, struct thole_status *st)
{
    DIR *d = opendir(s->path);
    struct dirent *e;
    enum thole_code code = THOLE_OK;

    if (d == NULL) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "%s: %s", s->path,
                          strerror(errno));
    }
    while (code == THOLE_OK) {
        errno = 0;
        if ((e = readdir(d)) == NULL) {
            if (errno != 0) {
                code = THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_DISK, "%s: %s", s->path,
                                  strerror(errno));
            }
            break;
        }
        code = open_named(s, e->d_name, st);
    }
    closedir(d);
    return code;
}

/* Divide the files into the live ones, from tail to head without a gap, and the spare ones. */
static enum thole_code arrange(struct segments *s, struct thole_status *st)
{
    struct segment_ring all = s->spare;

    qsort(all.items, all.count, sizeof(struct segment *), by_number);
    struct segment *newest = all.items[all.count - 1];
    s->spare = (struct segment_ring){0};
    s->recorded_tail = newest->tail;
    uint32_t expected = newest->tail;
    enum thole_code code = THOLE_OK;
    for (size_t i = 0; i < all.count; i++) {
        struct segment *g = all.items[i];

        if (newest->number == 0 || g->number < newest->tail) {
            ring_push(&s->spare, g);
            continue;
        }
        if (g->number != expected++ && code == THOLE_OK) {
            code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "segment number %" PRIu32 " of the log is missing, or its header is "
                              "damaged",
                              expected - 1);
        }
        ring_push(&s->live, g);
    }
    free(all.items);
    for (size_t i = 0; i < s->live.count && s->report != NULL; i++) {
        s->live.items[i]->number = (uint32_t)i + 1;
    }
    return fail_or_report(s, 0, code, st);
}

/* The first segment of a new log. Uses only an empty file: one with an unreadable header may hold
 * data. */
static enum thole_code begin_log(struct segments *s, struct thole_status *st)
{
    struct segment *g = NULL;
    enum thole_code code = THOLE_OK;

    for (size_t i = s->spare.head; i < s->spare.head + s->spare.count && g == NULL; i++) {
        if (s->spare.items[i]->extent == 0) {
            g = s->spare.items[i];
            s->spare.items[i] = s->spare.items[s->spare.head];
            s->spare.items[s->spare.head] = g;
            (void)ring_pop(&s->spare);
        }
    }
    if (g == NULL) {
        code = segment_open(s, s->next_file, true, &g, st);
    }
    if (code == THOLE_OK) {
        g->number = g->tail = s->recorded_tail = 1;
        ring_push(&s->live, g);
    }
    return code;
}

/* Open the existing files, and check that none is missing. */
static enum thole_code find_files(struct segments *s, struct thole_status *st)
{
    enum thole_code code = read_id(s, st);
    bool is_new = code == THOLE_NOT_FOUND && s->report == NULL;

    if (code == THOLE_OK || is_new) {
        code = open_files(s, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (is_new && s->spare.count > 0) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "%s has segments, but the file ID is missing", s->path);
    }
    if (s->spare.count < s->files) {
        code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                          "%s has %zu segments of %" PRIu32, s->path, s->spare.count, s->files);
    }
    if (code != THOLE_OK || s->report != NULL) {
        return fail_or_report(s, 0, code, st);
    }
    if (is_new) {
        s->id = uuid_random();
    }
    /* A process that was killed may have created files without syncing the directory. */
    code = file_sync_dir(s->path, st);
    if (code == THOLE_OK && (is_new || s->spare.count != s->files)) {
        code = count_files(s, (uint32_t)s->spare.count, st);
    }
    return code;
}

static void use_id(struct segments *s)
{
    s->seed = hash64(s->id.bytes, sizeof s->id.bytes, SEGMENT_MAGIC);
}

enum thole_code segments_open_read_only(struct segments *s, pthread_mutex_t *lock, const char *path,
                                        void (*report)(void *ctx, uint32_t file, const char *what),
                                        void *ctx, struct thole_status *st)
{
    *s = (struct segments){
        .lock = lock,
        .path = xstrdup(path),
        .lock_fd = -1,
        .sequence = 1,
        .report = report,
        .report_ctx = ctx,
    };
    enum thole_code code = find_files(s, st);
    if (code == THOLE_OK && s->spare.count > 0) {
        code = arrange(s, st);
    }
    use_id(s);
    return code;
}

enum thole_code segments_open(struct segments *s, pthread_mutex_t *lock, const char *path,
                              uint32_t segment_bytes, struct thole_status *st)
{
    *s = (struct segments){
        .lock = lock,
        .path = xstrdup(path),
        .lock_fd = -1,
        .segment_bytes = segment_bytes != 0 ? segment_bytes : SEGMENT_BYTES_DEFAULT,
        .sequence = 1,
        .next_file = 1,
    };
    enum thole_code code = file_make_dirs(path, st);
    if (code == THOLE_OK) {
        char *name = xasprintf("%s/LOCK", path);
        code = file_lock(name, &s->lock_fd, st);
        free(name);
    }
    if (code == THOLE_OK) {
        code = find_files(s, st);
    }
    if (code == THOLE_OK && s->spare.count > 0) {
        code = arrange(s, st);
    }
    if (code == THOLE_OK && s->live.count == 0) {
        code = begin_log(s, st);
    }
    use_id(s);
    return code;
}

static void ring_free(struct segment_ring *r)
{
    while (r->count > 0) {
        segment_free(ring_pop(r));
    }
    free(r->items);
}

void segments_close(struct segments *s)
{
    ring_free(&s->live);
    ring_free(&s->spare);
    if (s->lock_fd >= 0) {
        close(s->lock_fd);
    }
    free(s->path);
}

/* ---- Append ---------------------------------------------------------------------------------- */

static bool is_free(const struct segments *s)
{
    return s->spare.count > 0 && s->spare.items[s->spare.head]->number < s->recorded_tail;
}

/* Deletes surplus spare files after a burst, one at a time. A deletion that a crash undoes brings a
 * spare back. */
static void trim_spares(struct segments *s)
{
    if (s->spare.count <= SPARE_MIN + s->live.count / 2 || !is_free(s)) {
        return;
    }
    struct segment *g = s->spare.items[s->spare.head];
    char *path = segment_path(s, g->file);
    struct thole_status st = {0};
    if (count_files(s, s->files - 1, &st) != THOLE_OK) {
        LOG_WARN(STORE, "spare segment not deleted file=%s error=\"%s\"", path, st.message);
    } else {
        if (unlink(path) != 0) {
            LOG_WARN(STORE, "spare segment not deleted file=%s error=\"%s\"", path,
                     strerror(errno));
        }
        segment_free(ring_pop(&s->spare));
    }
    free(path);
}

static enum thole_code begin_segment(struct segments *s, struct thole_status *st)
{
    uint32_t number = segments_newest(s)->number + 1;
    struct segment *g;

    trim_spares(s);
    if (is_free(s)) {
        g = s->spare.items[s->spare.head];
        if (g->extent > s->segment_bytes) { /* it had to hold a larger frame */
            if (ftruncate(g->fd, s->segment_bytes) != 0) {
                return fail_io(st, "truncate", g);
            }
            g->extent = s->segment_bytes;
        }
        (void)ring_pop(&s->spare);
    } else {
        enum thole_code code = segment_open(s, s->next_file, true, &g, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    ASSERT(g->live == 0 && g->readers == 0 && g->number < number);
    g->number = number;
    g->end = 0;
    g->tail = segments_oldest(s)->number;
    pthread_mutex_lock(s->lock);
    ring_push(&s->live, g);
    pthread_mutex_unlock(s->lock);
    return THOLE_OK;
}

static enum thole_code write_at(const struct segment *g, struct iovec *v, int count, off_t at,
                                struct thole_status *st)
{
    while (count > 0) {
        ssize_t n = pwritev(g->fd, v, count, at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_io(st, "write", g);
        }
        at += n;
        while (count > 0 && (size_t)n >= v->iov_len) {
            n -= (ssize_t)v->iov_len;
            v++;
            count--;
        }
        if (count > 0) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= (size_t)n;
        }
    }
    return THOLE_OK;
}

static enum thole_code write_synced(const struct segment *g, struct iovec *v, int count, off_t at,
                                    struct thole_status *st)
{
    enum thole_code code = write_at(g, v, count, at, st);

    return code == THOLE_OK && fdatasync(g->fd) != 0 ? fail_io(st, "sync", g) : code;
}

/* How many zeros to write behind `end`. */
static uint32_t zeros_ahead(const struct segments *s, const struct segment *g, size_t frame,
                            uint32_t end)
{
    if (end <= g->extent || frame > ZERO_AHEAD_WRITE_MAX || end >= s->segment_bytes) {
        return 0;
    }
    uint32_t room = s->segment_bytes - end;
    return room < ZERO_AHEAD_BYTES ? room : ZERO_AHEAD_BYTES;
}

enum thole_code segments_rewrite(struct segments *s, uint32_t at, struct slice bytes,
                                 struct thole_status *st)
{
    const struct segment *g = segments_newest(s);
    struct iovec v = {(void *)(uintptr_t)bytes.data, bytes.size};

    return write_synced(g, &v, 1, at, st);
}

enum thole_code segments_attest(struct segments *s, struct slice frame, bool sync,
                                struct thole_status *st)
{
    struct segment *g = segments_newest(s);
    struct iovec v = {(void *)(uintptr_t)frame.data, frame.size};
    enum thole_code code =
        sync ? write_synced(g, &v, 1, g->end, st) : write_at(g, &v, 1, g->end, st);

    if (code == THOLE_OK && g->end + (uint32_t)frame.size > g->extent) {
        g->extent = g->end + (uint32_t)frame.size;
    }
    return code;
}

enum thole_code segments_append(struct segments *s, struct slice frame, struct thole_status *st)
{
    static uint8_t zeros[ZERO_CHUNK_BYTES];
    uint8_t header[SEGMENT_HEADER_BYTES];
    struct iovec v[2 + ZERO_CHUNKS_MAX];
    struct segment *g = segments_newest(s);
    int count = 0;
    ASSERT(frame.size > 0);

    if (g->end > SEGMENT_HEADER_BYTES &&
        (frame.size > s->segment_bytes || g->end > s->segment_bytes - frame.size)) {
        enum thole_code code = begin_segment(s, st);
        if (code != THOLE_OK) {
            return code;
        }
        g = segments_newest(s);
    }
    uint32_t at = g->end;
    bool begins = at <= SEGMENT_HEADER_BYTES;
    if (begins) {
        at = 0;
        g->first_sequence = s->sequence;
        header_encode(s, g, header);
        v[count++] = (struct iovec){header, sizeof header};
    }
    v[count++] = (struct iovec){(void *)(uintptr_t)frame.data, frame.size};
    ASSERT(frame.size <= UINT32_MAX - at - SEGMENT_HEADER_BYTES);
    uint32_t end = at + (begins ? SEGMENT_HEADER_BYTES : 0) + (uint32_t)frame.size;
    uint32_t ahead = zeros_ahead(s, g, frame.size, end);
    for (uint32_t left = ahead; left > 0;) {
        uint32_t n = left < ZERO_CHUNK_BYTES ? left : ZERO_CHUNK_BYTES;
        v[count++] = (struct iovec){zeros, n};
        left -= n;
    }
    enum thole_code code = write_synced(g, v, count, at, st);
    if (code != THOLE_OK) {
        return code;
    }
    g->end = end;
    if (end + ahead > g->extent) {
        g->extent = end + ahead;
    }
    ASSERT(g->end <= g->extent && g->tail >= s->recorded_tail);
    s->recorded_tail = g->tail;
    s->sequence++;
    return THOLE_OK;
}
