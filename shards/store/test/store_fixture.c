#include "shards/store/test/store_fixture.h"

#include <dirent.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "shards/store/disk_log.h"

char *dir_new(void)
{
    const char *tmp = getenv("TMPDIR");
    struct bytes b = {0};

    bytes_printf(&b, "%s/thole-store-XXXXXX", tmp != NULL ? tmp : "/tmp");
    bytes_append(&b, "", 1);
    assert_non_null(mkdtemp((char *)b.data));
    return (char *)b.data;
}

void dir_free(char *dir)
{
    struct thole_status st = {0};

    if (file_remove_tree(dir, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
    free(dir);
}

char *dir_newest(const char *dir, const char *suffix)
{
    char best[256] = "";
    struct dirent *e;
    DIR *d = opendir(dir);

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        size_t n = strlen(e->d_name), m = strlen(suffix);
        if (n > m && strcmp(e->d_name + n - m, suffix) == 0 && strcmp(e->d_name, best) > 0) {
            snprintf(best, sizeof best, "%s", e->d_name);
        }
    }
    closedir(d);
    if (best[0] == '\0') {
        return NULL;
    }
    struct bytes b = {0};
    bytes_printf(&b, "%s/%s", dir, best);
    bytes_append(&b, "", 1);
    return (char *)b.data;
}

void file_flip(const char *path, const char *needle)
{
    FILE *f = fopen(path, "r+b");
    struct stat s;

    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &s), 0);
    size_t size = (size_t)s.st_size;
    char *data = xmalloc(size);
    assert_int_equal(fread(data, 1, size, f), size);
    char *at = memmem(data, size, needle, strlen(needle));
    if (at == NULL) {
        fail_msg("%s does not hold %s", path, needle);
        return;
    }
    assert_int_equal(fseek(f, at - data, SEEK_SET), 0);
    assert_int_not_equal(fputc(*at ^ 4, f), EOF);
    assert_int_equal(fclose(f), 0);
    free(data);
}

enum thole_code log_try_open(const char *dir, struct log_store **ret, struct thole_status *st)
{
    struct bytes path = {0};

    bytes_printf(&path, "%s/log", dir);
    bytes_append(&path, "", 1);
    struct log_store_options o = {.path = (const char *)path.data,
                                  .segment_bytes = TEST_SEGMENT_BYTES};
    enum thole_code code = log_store_open(&o, ret, st);
    bytes_deinit(&path);
    return code;
}

struct log_store *log_open(const char *dir)
{
    struct thole_status st = {0};
    struct log_store *s = NULL;

    if (log_try_open(dir, &s, &st) != THOLE_OK) {
        fail_msg("open: %s (%s:%d)", st.message, st.file, st.line);
    }
    return s;
}

void log_shut(struct log_store *s)
{
    s->ops->close(s);
}

struct raft_entry *entry_new(enum raft_entry_kind kind, uint64_t index, uint64_t term,
                             const char *payload)
{
    size_t n = strlen(payload);
    struct buf *b = n > 0 ? buf_copy(payload, n) : NULL;
    struct bufslice p = {b, b != NULL ? slice_of(b->data, n) : (struct slice){0}};
    struct raft_entry *e = raft_entry_new(kind, 0, 0, p);

    e->index = index;
    e->term = term;
    return e;
}

struct raft_entry **entries_new(uint64_t id, uint64_t first, size_t n, uint64_t term)
{
    struct raft_entry **list = xmalloc((n + 1) * sizeof(struct raft_entry *));
    char payload[80];

    for (size_t i = 0; i < n; i++) {
        snprintf(payload, sizeof payload, "%" PRIu64 ".%" PRIu64 ".%" PRIu64, id, first + i, term);
        list[i] = entry_new(RAFT_ENTRY_COMMAND, first + i, term, payload);
    }
    return list;
}

void entries_free(struct raft_entry **e, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        raft_entry_unref(e[i]);
    }
    free(e);
}

enum thole_code log_write_one(struct log_store *s, const struct store_update *u)
{
    return s->ops->write(s, u, 1, NULL);
}

static void write_ok(struct log_store *s, const struct store_update *u)
{
    struct thole_status st = {0};

    if (s->ops->write(s, u, 1, &st) != THOLE_OK) {
        fail_msg("write: %s", st.message);
    }
}

void log_create(struct log_store *s, uint64_t id)
{
    struct store_identity identity = {
        .replica_id = id,
        .shard_id = id + 1000,
        .incarnation_created = 3,
        .descriptor = slice_str("descriptor"),
    };

    write_ok(s, &(struct store_update){
                    .replica_id = id,
                    .create = &identity,
                    .has_start = true,
                    .start_config = slice_str("config0"),
                    .machine_generation = 1,
                });
}

void log_append(struct log_store *s, uint64_t id, uint64_t first, size_t n, uint64_t term)
{
    struct raft_entry **e = entries_new(id, first, n, term);

    write_ok(s, &(struct store_update){
                    .replica_id = id,
                    .has_hard = true,
                    .hard = {.term = term, .vote = 1, .commit = first - 1},
                    .entries = e,
                    .entry_count = n,
                });
    entries_free(e, n);
}

void log_start(struct log_store *s, uint64_t id, uint64_t index, uint64_t term, bool reset)
{
    write_ok(s, &(struct store_update){
                    .replica_id = id,
                    .has_start = true,
                    .start_reset = reset,
                    .start_index = index,
                    .start_term = term,
                    .start_config = slice_str(reset ? "config-reset" : "config-compact"),
                    .machine_generation = 2,
                });
}

void log_hard(struct log_store *s, uint64_t id, uint64_t term, uint64_t vote, uint64_t commit)
{
    write_ok(s, &(struct store_update){
                    .replica_id = id, .has_hard = true, .hard = {term, vote, commit}});
}

void log_remove(struct log_store *s, uint64_t id)
{
    write_ok(s, &(struct store_update){.replica_id = id, .remove = true});
}

void log_forget(struct log_store *s, uint64_t id)
{
    write_ok(s, &(struct store_update){.replica_id = id, .forget = true});
}

const struct store_replica *log_find(struct log_store *s, uint64_t id)
{
    const struct store_replica *r;
    size_t it = 0;

    while ((r = s->ops->next(s, &it)) != NULL && r->replica_id != id) {
    }
    return r;
}

void log_expect(struct log_store *s, uint64_t id, uint64_t start, uint64_t last)
{
    const struct store_replica *r = log_find(s, id);
    struct raft_entry *got[500];
    struct thole_status st = {0};
    uint64_t next = start + 1;
    /* Few, so that reads begin and end anywhere; but each looks through its run from the front. */
    const size_t most = last - start > 1000 ? 500 : 7;
    char payload[80];

    assert_non_null(r);
    assert_false(r->removed);
    assert_int_equal(r->start_index, start);
    assert_int_equal(r->last_index, last);
    while (next <= last) {
        size_t n = 0;
        if (s->ops->read(s, id, next, last, SIZE_MAX, most, got, &n, &st) != THOLE_OK || n == 0) {
            fail_msg("read %" PRIu64 ": %s", next, st.message);
        }
        for (size_t i = 0; i < n; i++, next++) {
            size_t run = r->run_count;
            while (run > 0 && r->runs[run - 1].first_index > next) {
                run--;
            }
            assert_true(run > 0);
            assert_int_equal(got[i]->index, next);
            assert_int_equal(got[i]->term, r->runs[run - 1].term);
            snprintf(payload, sizeof payload, "%" PRIu64 ".%" PRIu64 ".%" PRIu64, id, next,
                     got[i]->term);
            assert_true(slice_equal(got[i]->payload.bytes, slice_str(payload)));
            raft_entry_unref(got[i]);
        }
    }
    size_t n = 0;
    assert_int_equal(s->ops->read(s, id, last + 1, last + 1, SIZE_MAX, 7, got, &n, &st),
                     THOLE_OUT_OF_RANGE);
    assert_int_equal(s->ops->read(s, id, start, last, SIZE_MAX, 7, got, &n, &st),
                     THOLE_OUT_OF_RANGE);
    assert_int_equal(st.reason, THOLE_REASON_COMPACTED);
}

void log_turn_over(struct log_store *s)
{
    const struct segments *g = &((struct disk_log *)s)->files;
    uint32_t newest = segments_newest(g)->number;

    if (log_find(s, TURN_OVER_ID) == NULL) {
        log_create(s, TURN_OVER_ID);
    }
    for (int i = 0; segments_oldest(g)->number <= newest; i++) {
        uint64_t last = log_find(s, TURN_OVER_ID)->last_index;

        assert_true(i < 10000);
        log_append(s, TURN_OVER_ID, last + 1, 100, 1);
        log_start(s, TURN_OVER_ID, last + 50, 1, false);
    }
}

uint64_t log_live_bytes(struct log_store *s)
{
    return ((struct disk_log *)s)->files.live_bytes;
}

static void expect_same_read(struct log_store *a, struct log_store *b, uint64_t id, uint64_t first,
                             uint64_t last, size_t max_bytes)
{
    struct raft_entry *x[32], *y[32];
    size_t nx = 0, ny = 0;
    enum thole_code code = a->ops->read(a, id, first, last, max_bytes, 32, x, &nx, NULL);

    assert_int_equal(code, b->ops->read(b, id, first, last, max_bytes, 32, y, &ny, NULL));
    assert_int_equal(nx, ny);
    for (size_t i = 0; i < nx; i++) {
        assert_int_equal(x[i]->index, y[i]->index);
        assert_int_equal(x[i]->term, y[i]->term);
        assert_int_equal(x[i]->kind, y[i]->kind);
        assert_int_equal(x[i]->session, y[i]->session);
        assert_int_equal(x[i]->sequence, y[i]->sequence);
        assert_true(slice_equal(x[i]->payload.bytes, y[i]->payload.bytes));
        raft_entry_unref(x[i]);
        raft_entry_unref(y[i]);
    }
}

static void expect_same_configs(struct log_store *a, struct log_store *b, uint64_t id)
{
    struct raft_entry **x = NULL, **y = NULL;
    size_t nx = 0, ny = 0;

    assert_int_equal(a->ops->config_entries(a, id, &x, &nx, NULL), THOLE_OK);
    assert_int_equal(b->ops->config_entries(b, id, &y, &ny, NULL), THOLE_OK);
    assert_int_equal(nx, ny);
    for (size_t i = 0; i < nx; i++) {
        assert_int_equal(x[i]->index, y[i]->index);
        assert_true(slice_equal(x[i]->payload.bytes, y[i]->payload.bytes));
    }
    entries_free(x, nx);
    entries_free(y, ny);
}

void log_expect_same(struct log_store *a, struct log_store *b)
{
    const struct store_replica *x, *y;
    size_t ia = 0, ib = 0;

    while ((x = a->ops->next(a, &ia)) != NULL) {
        y = b->ops->next(b, &ib);
        assert_non_null(y);
        assert_int_equal(x->replica_id, y->replica_id);
        assert_int_equal(x->removed, y->removed);
        if (x->removed) {
            continue;
        }
        assert_int_equal(x->shard_id, y->shard_id);
        assert_true(slice_equal(x->descriptor, y->descriptor));
        assert_int_equal(x->hard.term, y->hard.term);
        assert_int_equal(x->hard.vote, y->hard.vote);
        assert_int_equal(x->hard.commit, y->hard.commit);
        assert_int_equal(x->start_index, y->start_index);
        assert_int_equal(x->start_term, y->start_term);
        assert_int_equal(x->last_index, y->last_index);
        assert_int_equal(x->machine_generation, y->machine_generation);
        assert_true(slice_equal(x->start_config, y->start_config));
        assert_int_equal(x->run_count, y->run_count);
        for (size_t i = 0; i < x->run_count; i++) {
            assert_int_equal(x->runs[i].first_index, y->runs[i].first_index);
            assert_int_equal(x->runs[i].term, y->runs[i].term);
        }
        for (uint64_t i = x->start_index; i <= x->last_index + 1; i += 1 + (i % 3)) {
            expect_same_read(a, b, x->replica_id, i, i + i % 11, 60 + 40 * (i % 9));
        }
        expect_same_configs(a, b, x->replica_id);
    }
    assert_null(b->ops->next(b, &ib));
}
