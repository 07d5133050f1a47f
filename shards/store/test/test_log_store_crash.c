/* How the log recovers from kill -9, from a failed write, and from a torn end.
 *
 * The killed process is this executable again: "test_log_store_crash write DIR" appends and prints
 * each acknowledged batch. Power loss at a random moment is tested in test_log_store_power; here
 * every way to tear a frame is tried. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rand.h"
#include "shards/store/test/log_files.h"
#include "shards/store/test/store_fixture.h"

enum { GROUPS = 5, SECTOR_BYTES = 512 };
static char *self;

/* A killed process leaves the system running, so no data has to reach the disk. */
int fdatasync(int fildes)
{
    (void)fildes;
    return 0;
}
int fsync(int fd)
{
    (void)fd;
    return 0;
}

/* ---- kill -9 --------------------------------------------------------------------------------- */

/* One line per acknowledged batch: "GROUP LAST TERM". */
static int child_write(const char *dir)
{
    struct log_store *s = log_open(dir);
    uint64_t last[GROUPS] = {0}, term = 1;
    struct rand r;

    rand_seed(&r, (uint64_t)getpid());
    for (uint64_t g = 0; g < GROUPS; g++) {
        const struct store_replica *found = log_find(s, g + 1);
        if (found == NULL) {
            log_create(s, g + 1);
        } else {
            last[g] = found->last_index;
            term = found->hard.term > term ? found->hard.term : term;
        }
    }
    for (uint64_t batch = 0;; batch++) {
        uint64_t g = batch % GROUPS;
        size_t n = 1 + rand_below(&r, 100);
        char line[64];
        uint64_t back = rand_chance(&r, 0.1) ? rand_below(&r, 10) : 0;
        uint64_t first = last[g] - (back < last[g] ? back : last[g]) + 1;

        term += back > 0;
        if (first <= log_find(s, g + 1)->start_index) {
            first = last[g] + 1;
        }
        log_append(s, g + 1, first, n, term);
        last[g] = first + n - 1;
        if (rand_chance(&r, 0.2)) {
            const struct store_replica *x = log_find(s, g + 1);
            log_start(s, g + 1, x->start_index + (x->last_index - x->start_index) / 2,
                      x->start_term, false);
        }
        int size = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", g + 1,
                            last[g], term);
        if (write(STDOUT_FILENO, line, (size_t)size) != size) {
            return 1;
        }
    }
}

/* Start the writer, kill it once `lines` were printed; returns all printed lines. */
static struct bytes run_and_kill(const char *dir, uint64_t lines)
{
    struct bytes out = {0};
    int fds[2], status;
    bool killed = false;

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        execl(self, self, "write", dir, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    for (;;) { /* all lines from before the kill are read to the end */
        uint8_t *p = bytes_extend(&out, 4096);
        ssize_t n = read(fds[0], p, 4096);

        out.size -= 4096 - (n > 0 ? (size_t)n : 0);
        if (n <= 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            lines -= lines > 0 && p[i] == '\n';
        }
        if (lines == 0 && !killed) {
            kill(pid, SIGKILL);
            killed = true;
        }
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    close(fds[0]);
    bytes_append(&out, "", 1);
    return out;
}

static void test_log_kill_keeps_what_was_acknowledged(void **state)
{
    char *dir = dir_new();
    struct rand r;

    (void)state;
    rand_seed(&r, (uint64_t)time(NULL));
    for (int round = 0; round < 8; round++) {
        struct bytes out = run_and_kill(dir, 1 + rand_below(&r, 200));
        uint64_t last[GROUPS + 1] = {0}, term[GROUPS + 1] = {0};
        char *save = NULL;

        for (char *l = strtok_r((char *)out.data, "\n", &save); l != NULL;
             l = strtok_r(NULL, "\n", &save)) {
            uint64_t g, a, b;
            if (sscanf(l, "%" SCNu64 " %" SCNu64 " %" SCNu64, &g, &a, &b) == 3) {
                last[g] = a;
                term[g] = b;
            }
        }
        struct log_store *s = log_open(dir);
        for (uint64_t g = 1; g <= GROUPS && last[g] > 0; g++) {
            const struct store_replica *x = log_find(s, g);
            assert_true(x->hard.term >= term[g]);
            /* The writer may have written one more batch than it printed, and that batch may have
             * cut the tail. */
            if (x->hard.term == term[g]) {
                assert_true(x->last_index >= last[g]);
            }
            log_expect(s, g, x->start_index, x->last_index);
        }
        log_shut(s);
        bytes_deinit(&out);
    }
    dir_free(dir);
}

/* ---- A write that fails ---------------------------------------------------------------------- */

static void expect_poisoned(struct log_store *s)
{
    struct store_update u = {.replica_id = 1, .has_hard = true, .hard = {9, 9, 9}};
    struct thole_status st = {0};
    struct raft_entry *got[10];
    size_t n = 0;

    assert_int_equal(s->ops->write(s, &u, 1, &st), THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_DISK);
    assert_int_equal(s->ops->put_host(s, "x", slice_str("y"), &st), THOLE_UNAVAILABLE);
    /* Readers see the durable entries. */
    assert_int_equal(s->ops->read(s, 1, 1, 9010, SIZE_MAX, 10, got, &n, &st), THOLE_OK);
    assert_int_equal(n, 10);
    for (size_t i = 0; i < n; i++) {
        raft_entry_unref(got[i]);
    }
}

/* No file can grow beyond `limit`. A write into the newest segment fails, or a write that starts
 * the next. */
static void fail_write(rlim_t limit, size_t entries)
{
    char *dir = dir_new();
    struct log_store *s = log_open(dir);
    struct raft_entry **e = entries_new(1, 11, entries, 1);
    struct store_update u = {.replica_id = 1, .entries = e, .entry_count = entries};
    struct rlimit old, small;
    struct thole_status st = {0};

    log_create(s, 1);
    log_append(s, 1, 1, 10, 1);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum thole_code code = s->ops->write(s, &u, 1, &st);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(code, THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_DISK);
    expect_poisoned(s); /* the disk works again, but its content is unknown */
    log_shut(s);
    s = log_open(dir);
    log_expect(s, 1, 0, 10);
    assert_int_equal(log_find(s, 1)->hard.term, 1);
    log_append(s, 1, 11, 1, 1);
    log_shut(s);
    s = log_open(dir);
    log_expect(s, 1, 0, 11);
    log_shut(s);
    entries_free(e, entries);
    dir_free(dir);
}

static void test_log_failed_write_poisons_the_store(void **state)
{
    (void)state;
    fail_write((rlim_t)2 * TEST_SEGMENT_BYTES, 20000); /* half of the frame is written */
    fail_write(16, 9000);                              /* none of it is written */
}

static void test_log_without_files_to_open_is_poisoned(void **state)
{
    char *dir = dir_new();
    struct log_store *s = log_open(dir);
    struct raft_entry **e = entries_new(1, 11, 20000, 1);
    struct store_update u = {.replica_id = 1, .entries = e, .entry_count = 20000};
    struct rlimit old, small;

    (void)state;
    log_create(s, 1);
    log_append(s, 1, 1, 10, 1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    small = old;
    small.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    enum thole_code code = s->ops->write(s, &u, 1, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(code, THOLE_UNAVAILABLE);
    expect_poisoned(s);
    log_shut(s);
    s = log_open(dir);
    log_expect(s, 1, 0, 10);
    log_shut(s);
    entries_free(e, 20000);
    dir_free(dir);
}

/* ---- A torn end ------------------------------------------------------------------------------ */

/* A log before and after its last write. */
struct torn {
    char *before, *after;
    uint64_t last;         /* index before */
    uint32_t from, to;     /* the last frame */
    char *name;            /* of the file that holds it */
    struct bytes old, new; /* that file */
};

/* Write until the last frame is in the wanted place: `begins` a segment or not, in a new or a
 * reused file. */
static struct torn make_torn(bool begins, bool again, size_t entries)
{
    struct torn t = {.before = dir_new(), .after = dir_new()};
    struct log_store *s = log_open(t.after);
    uint32_t number;

    log_create(s, 1);
    log_append(s, 1, 1, 5, 1);
    t.last = 5;
    for (int i = 0; i < 3 && again; i++) {
        log_turn_over(s);
    }
    do {
        number = log_newest(s)->number;
        t.from = begins ? 0 : log_newest(s)->end;
        assert_int_equal(file_remove_tree(t.before, NULL), THOLE_OK);
        free(t.before);
        t.before = dir_new();
        log_copy(t.after, t.before);
        log_append(s, 1, t.last + 1, entries, 1);
        t.last += entries;
        free(t.name);
        t.name = xasprintf("%08" PRIu32 ".seg", log_newest(s)->file);
        char *a = log_file(t.before, t.name);
        bytes_deinit(&t.old);
        t.old = file_load(a);
        free(a);
    } while ((log_newest(s)->number != number) != begins || (begins && (t.old.size > 0) != again));
    t.last -= entries;
    char *b = log_file(t.after, t.name);
    t.new = file_load(b);
    t.to = log_newest(s)->end;
    log_shut(s);
    free(b);
    return t;
}

static void free_torn(struct torn *t)
{
    dir_free(t->before);
    dir_free(t->after);
    free(t->name);
    bytes_deinit(&t->old);
    bytes_deinit(&t->new);
}

/* `file` replaces the last frame's file: that frame is lost and all else is there. The log goes on
 * in the same place or, if there is no room, in the next segment. */
static void expect_torn(const struct torn *t, struct slice file)
{
    static const uint8_t large[TEST_SEGMENT_BYTES];
    static int round;
    char *dir = dir_new();

    log_copy(t->after, dir);
    char *path = log_file(dir, t->name);
    file_save(path, file);
    struct log_store *s = log_open(dir);
    log_expect(s, 1, 0, t->last);
    if (round++ % 3 == 0) {
        assert_int_equal(s->ops->put_host(s, "large", slice_of(large, sizeof large), NULL),
                         THOLE_OK);
    }
    log_append(s, 1, t->last + 1, 1, 2);
    log_shut(s);
    s = log_open(dir);
    log_append(s, 1, t->last + 2, 1, 2);
    log_shut(s);
    s = log_open(dir);
    log_expect(s, 1, 0, t->last + 2);
    log_shut(s);
    free(path);
    dir_free(dir);
}

static void copy_sector(struct bytes *to, const struct bytes *from, size_t at)
{
    size_t end = at + SECTOR_BYTES < to->size ? at + SECTOR_BYTES : to->size;

    for (size_t i = at; i < end; i++) {
        to->data[i] = i < from->size ? from->data[i] : 0;
    }
}

static bool same_sector(const struct bytes *a, const struct bytes *b, size_t at)
{
    struct bytes x = {0};

    bytes_append_slice(&x, bytes_slice(a));
    copy_sector(&x, b, at);
    bool same = slice_equal(bytes_slice(&x), bytes_slice(a));
    bytes_deinit(&x);
    return same;
}

/* Salvage, open, and count the lost spaces. */
static void tear_sectors(const struct torn *t)
{
    size_t step = (t->to - t->from) / SECTOR_BYTES / 12 + 1;
    struct bytes b = {0};

    for (size_t at = t->from / SECTOR_BYTES * SECTOR_BYTES; at < t->to; at += step * SECTOR_BYTES) {
        if (same_sector(&t->new, &t->old, at)) {
            continue;
        }
        for (int way = 0; way < 4; way++) {
            bytes_clear(&b);
            bytes_append_slice(&b, bytes_slice(&t->new));
            for (size_t i = 0; i < b.size; i += SECTOR_BYTES) {
                bool gone = way == 0 ? i == at : way == 1 ? i != at : way == 2 ? i >= at : i <= at;
                if (gone) {
                    copy_sector(&b, &t->old, i);
                }
            }
            if (!slice_equal(bytes_slice(&b), bytes_slice(&t->new))) {
                expect_torn(t, bytes_slice(&b));
            }
        }
    }
    bytes_deinit(&b);
}

static void tear_sectors_of(bool begins, bool again, size_t entries)
{
    struct torn t = make_torn(begins, again, entries);

    tear_sectors(&t);
    if (begins && !again) {
        expect_torn(&t, (struct slice){0});
    }
    free_torn(&t);
}

static void test_log_torn_sectors_lose_only_the_torn_batch(void **state)
{
    (void)state;
    tear_sectors_of(false, false, 200);
    tear_sectors_of(false, true, 200);
    tear_sectors_of(true, false, 200);
    tear_sectors_of(true, true, 200);
    tear_sectors_of(true, true, 9000); /* larger than a segment */
}

static void test_log_torn_bytes_lose_only_the_torn_batch(void **state)
{
    struct torn t = make_torn(false, false, 20);
    struct bytes b = {0};

    (void)state;
    for (uint32_t cut = t.from; cut < t.to; cut += 7) {
        expect_torn(&t, slice_of(t.new.data, cut));
        bytes_clear(&b);
        bytes_append_slice(&b, bytes_slice(&t.new));
        memset(b.data + cut, 0, t.to - cut);
        if (!slice_equal(bytes_slice(&b), bytes_slice(&t.new))) { /* it may end in zeros */
            expect_torn(&t, bytes_slice(&b));
        }
    }
    bytes_deinit(&b);
    free_torn(&t);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        return child_write(argv[2]);
    }
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_kill_keeps_what_was_acknowledged),
        cmocka_unit_test(test_log_failed_write_poisons_the_store),
        cmocka_unit_test(test_log_without_files_to_open_is_poisoned),
        cmocka_unit_test(test_log_torn_sectors_lose_only_the_torn_batch),
        cmocka_unit_test(test_log_torn_bytes_lose_only_the_torn_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
