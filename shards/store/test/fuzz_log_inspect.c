/* A log whose records are the input, with right checksums, so that their content is reached: it is
 * only looked at, and then recovered as a host does. Neither may fall over it, looking changes
 * nothing, and what both find of a replica is the same.
 *
 * Input: per record a byte each of kind, flags, replica, epoch, first index and size, then so many
 * bytes of the record's body. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/hash.h"
#include "shards/store/disk_log.h"
#include "shards/store/inspect.h"
#include "shards/store/record_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64], copy[72];

static void remove_dir(void)
{
    struct thole_status st;
    (void)!file_remove_tree(dir, &st);
}

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "%s/thole-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ASSERT(mkdtemp(dir) != NULL);
    snprintf(copy, sizeof copy, "%s/log", dir);
    atexit(remove_dir);
}

/* One record, sealed under its key. */
static bool add_record(struct frame_writer *w, struct slice *in)
{
    struct slice head, body;

    if (!slice_take(in, 6, &head)) {
        return false;
    }
    if (!slice_take(in, head.data[5], &body)) {
        body = *in;
        in->size = 0;
    }
    struct frame_entry e = {
        .kind = (uint8_t)(1 + head.data[0] % 7),
        .flags = head.data[1] & 3,
        .replica_id = 1 + head.data[2] % 3,
        .epoch = head.data[3] % 3,
        .first = head.data[4] % 16,
    };
    struct bytes *out = frame_record(w);
    if ((e.flags & FRAME_DELETE) == 0 && e.kind != STORE_KIND_HOST) {
        struct store_key key = frame_key(&e);
        size_t at = store__record_begin(out);
        bytes_append_slice(out, body);
        store__record_seal(out, at, store_key_slice(&key), head.data[1] >> 2 & 7,
                           head.data[3] >> 4);
    } else if ((e.flags & FRAME_DELETE) == 0) {
        bytes_append_slice(out, body);
    }
    frame_record_end(w, e);
    return true;
}

static void append_input(struct log_store *s, struct slice in)
{
    struct disk_log *log = (struct disk_log *)s;
    struct thole_status st;
    bool more = true;

    while (more && in.size > 0) {
        frame_begin(&log->frame);
        for (int i = 0; i < 3 && more; i++) {
            more = add_record(&log->frame, &in);
        }
        struct slice frame = frame_end(&log->frame, log->files.sequence, log->files.seed);
        ASSERT(segments_append(&log->files, frame, &st) == THOLE_OK);
    }
    log->poisoned = true; /* its memory knows nothing of these records */
    s->ops->close(s);
}

static uint64_t hash_of_segment(void)
{
    char path[96];
    struct buf *b = NULL;
    struct thole_status st;

    snprintf(path, sizeof path, "%s/00000001.seg", copy);
    ASSERT(file_read(path, (size_t)4 * MIB, &b, &st) == THOLE_OK);
    uint64_t hash = hash64(b->data, b->size, 0);
    buf_unref(b);
    return hash;
}

/* Both have the same replicas in the same states. */
static void compare(struct log_store *a, struct log_store *b)
{
    size_t it_a = 0, it_b = 0;
    const struct store_replica *x, *y;

    while ((x = a->ops->next(a, &it_a)) != NULL) {
        y = b->ops->next(b, &it_b);
        ASSERT(y != NULL && x->replica_id == y->replica_id && x->removed == y->removed);
        ASSERT(x->hard.term == y->hard.term && x->last_index == y->last_index);
    }
    ASSERT(b->ops->next(b, &it_b) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct log_store_options o = {.path = copy, .segment_bytes = 64 * KIB};
    const struct log_visitor nobody = {0};
    struct log_store *s = NULL, *seen = NULL;
    struct thole_status st;

    if (dir[0] == '\0') {
        make_dir();
    }
    ASSERT(file_remove_tree(copy, &st) == THOLE_OK);
    ASSERT(log_store_open(&o, &s, &st) == THOLE_OK);
    append_input(s, slice_of(data, size < 32 * KIB ? size : 32 * KIB));
    uint64_t before = hash_of_segment();
    enum thole_code code = log_inspect(copy, &nobody, &seen, &st);
    ASSERT(code == THOLE_OK && hash_of_segment() == before);
    if (log_store_open(&o, &s, &st) == THOLE_OK) {
        compare(seen, s);
        s->ops->close(s);
    }
    seen->ops->close(seen);
    return 0;
}
