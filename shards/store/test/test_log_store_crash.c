/* What the log database makes of kill -9, of a torn tail, and of bits that flipped.
 *
 * The process that is killed is this executable again: "test_log_store_crash write DIR" appends
 * and prints what was acknowledged. (A fork without exec would inherit RocksDB without its
 * threads.) */
#include <dirent.h>
#include <fcntl.h>
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rand.h"
#include "shards/store/rocks_log.h"
#include "shards/store/test/store_fixture.h"

enum { GROUPS = 5 };
static char *self;

/* One line per acknowledged batch: "LAST TERM" of group 1 + batch % GROUPS. */
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
        size_t n = 1 + rand_below(&r, 20);
        char line[64];
        uint64_t back = rand_chance(&r, 0.1) ? rand_below(&r, 10) : 0;
        uint64_t first = last[g] - (back < last[g] ? back : last[g]) + 1;

        term += back > 0;
        if (first <= log_find(s, g + 1)->start_index) {
            first = last[g] + 1;
        }
        log_append(s, g + 1, first, n, term);
        last[g] = first + n - 1;
        if (rand_chance(&r, 0.05)) {
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

/* Start the writer, kill it when `lines` were printed; returns all that was. */
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
    for (;;) { /* what was printed before the kill is read to the end */
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
    for (int round = 0; round < 5; round++) {
        struct bytes out = run_and_kill(dir, 1 + rand_below(&r, 80));
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
            /* One more batch may have been written than was printed, and may have cut the tail. */
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

/* ---- Torn and damaged files ------------------------------------------------------------------- */

static char *log_folder(const char *dir)
{
    struct bytes b = {0};

    bytes_printf(&b, "%s/log", dir);
    bytes_append(&b, "", 1);
    return (char *)b.data;
}

static void test_log_failed_write_poisons_the_store(void **state)
{
    char *dir = dir_new();
    struct log_store *s = log_open(dir);
    struct raft_entry **e = entries_new(1, 11, 9000, 1);
    struct store_update u = {.replica_id = 1, .entries = e, .entry_count = 9000};
    struct rlimit old, small;
    struct thole_status st = {0};

    (void)state;
    log_create(s, 1);
    log_append(s, 1, 1, 10, 1);
    /* The WAL cannot grow any more. */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 65536; /* but the diagnostic files can, which are smaller */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum thole_code code = s->ops->write(s, &u, 1, &st);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(code, THOLE_UNAVAILABLE);
    assert_int_equal(st.reason, THOLE_REASON_DISK);
    /* The disk is well again, but what it holds is unknown. */
    assert_int_equal(s->ops->write(s, &u, 1, &st), THOLE_UNAVAILABLE);
    u = (struct store_update){.replica_id = 1, .has_hard = true, .hard = {9, 9, 9}};
    assert_int_equal(s->ops->write(s, &u, 1, &st), THOLE_UNAVAILABLE);
    assert_int_equal(s->ops->put_host(s, "x", slice_str("y"), &st), THOLE_UNAVAILABLE);
    struct raft_entry *got[10];
    size_t n = 0; /* readers see what was durable */
    assert_int_equal(s->ops->read(s, 1, 1, 9010, SIZE_MAX, 10, got, &n, &st), THOLE_OK);
    assert_int_equal(n, 10);
    for (size_t i = 0; i < n; i++) {
        raft_entry_unref(got[i]);
    }
    log_shut(s);
    s = log_open(dir);
    log_expect(s, 1, 0, 10);
    assert_int_equal(log_find(s, 1)->hard.term, 1);
    log_append(s, 1, 11, 1, 1);
    log_shut(s);
    entries_free(e, 9000);
    dir_free(dir);
}

/* Ten batches that are only in the WAL; returns its path. */
static char *wal_of_ten(const char *dir)
{
    struct log_store *s = log_open(dir);

    log_create(s, 1);
    for (uint64_t i = 1; i <= 10; i++) {
        log_append(s, 1, i, 1, 1);
    }
    log_shut(s);
    char *folder = log_folder(dir);
    char *wal = dir_newest(folder, ".log");
    free(folder);
    assert_non_null(wal);
    return wal;
}

static void test_log_torn_tail_loses_only_the_torn_batch(void **state)
{
    (void)state;
    for (off_t cut = 1; cut < 60; cut += 9) {
        char *dir = dir_new();
        char *wal = wal_of_ten(dir);
        struct stat st;

        assert_int_equal(stat(wal, &st), 0);
        assert_int_equal(truncate(wal, st.st_size - cut), 0);
        struct log_store *s = log_open(dir);
        log_expect(s, 1, 0, 9);
        log_append(s, 1, 10, 5, 2);
        log_shut(s);
        s = log_open(dir);
        log_expect(s, 1, 0, 14);
        log_shut(s);
        free(wal);
        dir_free(dir);
    }
}

static void test_log_flip_in_the_middle_of_the_wal_is_data_loss(void **state)
{
    char *dir = dir_new();
    char *wal = wal_of_ten(dir);
    struct thole_status st = {0};
    struct log_store *s = NULL;

    (void)state;
    file_flip(wal, "1.5.1");
    assert_int_equal(log_try_open(dir, &s, &st), THOLE_DATA_LOSS);
    assert_int_equal(st.reason, THOLE_REASON_CORRUPT);
    free(wal);
    dir_free(dir);
}

/* Groups with payloads larger than a file block, all in one flushed file. */
static char *table_of_groups(const char *dir)
{
    struct log_store *s = log_open(dir);
    char *payload = xmalloc(6001);

    for (uint64_t g = 1; g <= GROUPS; g++) {
        log_create(s, g);
        for (uint64_t i = 1; i <= 3; i++) {
            memset(payload, 'a' + (int)i, 6000);
            payload[6000] = '\0';
            payload[0] = '<', payload[4] = '>', payload[2] = '.';
            payload[1] = (char)('0' + g), payload[3] = (char)('0' + i);
            struct raft_entry *e = entry_new(RAFT_ENTRY_COMMAND, i, 1, payload);
            assert_int_equal(
                log_write_one(
                    s, &(struct store_update){.replica_id = g, .entries = &e, .entry_count = 1}),
                THOLE_OK);
            raft_entry_unref(e);
        }
    }
    free(payload);
    log_shut(s);
    log_shut(log_open(dir)); /* recovery writes the file */
    char *folder = log_folder(dir);
    char *table = dir_newest(folder, ".sst");
    free(folder);
    assert_non_null(table);
    return table;
}

static void test_log_flip_in_a_run_hurts_that_replica_alone(void **state)
{
    static const char *const where[] = {"<3.1>", "<3.2>", "<3.3>"};

    (void)state;
    for (size_t w = 0; w < sizeof where / sizeof where[0]; w++) {
        char *dir = dir_new();
        char *table = table_of_groups(dir);
        struct raft_entry *got[3];
        size_t n = 0;

        file_flip(table, where[w]);
        struct log_store *s = log_open(dir);
        for (uint64_t g = 1; g <= GROUPS; g++) {
            const struct store_replica *x = log_find(s, g);
            assert_non_null(x);
            assert_int_equal(x->shard_id, g + 1000);
            if (g == 3) {
                assert_true(x->hard.term == UINT64_MAX);
                assert_int_equal(s->ops->read(s, g, 1, 3, SIZE_MAX, 3, got, &n, NULL),
                                 THOLE_DATA_LOSS);
                continue;
            }
            assert_int_equal(x->last_index, 3);
            assert_int_equal(s->ops->read(s, g, 1, 3, SIZE_MAX, 3, got, &n, NULL), THOLE_OK);
            assert_int_equal(n, 3);
            for (size_t i = 0; i < n; i++) {
                raft_entry_unref(got[i]);
            }
        }
        assert_int_equal(
            log_write_one(
                s, &(struct store_update){.replica_id = 3, .has_hard = true, .hard = {9, 0, 0}}),
            THOLE_INVALID_ARGUMENT);
        /* The bad block is gone: compactions do not stumble over it, the others can be written. */
        char *error = NULL;
        rocksdb_compact_range(((struct rocks_log *)s)->db, NULL, 0, NULL, 0);
        rocksdb_put(((struct rocks_log *)s)->db, ((struct rocks_log *)s)->sync, "x", 1, "", 0,
                    &error);
        assert_null(error);
        rocksdb_delete(((struct rocks_log *)s)->db, ((struct rocks_log *)s)->sync, "x", 1, &error);
        log_append(s, 2, 4, 2, 2);
        log_shut(s);
        s = log_open(dir);
        assert_int_equal(log_find(s, 2)->last_index, 5);
        assert_true(log_find(s, 3)->hard.term == UINT64_MAX);
        assert_int_equal(log_find(s, 3)->shard_id, 1003);
        log_remove(s, 3); /* how it is rebuilt: under another id */
        log_create(s, 33);
        log_shut(s);
        s = log_open(dir);
        assert_true(log_find(s, 3)->removed);
        log_shut(s);
        free(table);
        dir_free(dir);
    }
}

static void copy_file(const char *from, const char *to)
{
    struct buf *b = NULL;

    assert_int_equal(file_read(from, (size_t)64 << 20, &b, NULL), THOLE_OK);
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, b->size, f), b->size);
    assert_int_equal(fclose(f), 0);
    buf_unref(b);
}

static void copy_dir(const char *from, const char *to)
{
    DIR *d = opendir(from);
    struct dirent *e;

    assert_non_null(d);
    assert_int_equal(mkdir(to, 0700), 0);
    while ((e = readdir(d)) != NULL) {
        char a[1024], b[1024];

        if (e->d_name[0] != '.') {
            snprintf(a, sizeof a, "%s/%s", from, e->d_name);
            snprintf(b, sizeof b, "%s/%s", to, e->d_name);
            copy_file(a, b);
        }
    }
    closedir(d);
}

static void flip_bit(const char *path, struct rand *r, bool near_end)
{
    struct stat info;
    uint8_t byte;
    int fd = open(path, O_RDWR);

    assert_int_equal(fstat(fd, &info), 0);
    uint64_t size = (uint64_t)info.st_size;
    off_t at = (off_t)(near_end ? size - 1 - rand_below(r, 2000) : rand_below(r, size));
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1 << rand_below(r, 8));
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_log_flips_never_go_unnoticed(void **state)
{
    char *original = dir_new(), from[512];
    struct thole_status st = {0};
    struct rand r;

    (void)state;
    rand_seed(&r, 7);
    free(table_of_groups(original));
    snprintf(from, sizeof from, "%s/log", original);
    for (int round = 0; round < 60; round++) {
        struct log_store *s = NULL;
        char *dir = dir_new(), to[512];

        snprintf(to, sizeof to, "%s/log", dir);
        copy_dir(from, to);
        char *table = dir_newest(to, ".sst");
        /* Half of them near the end, where the file's own structures are. */
        flip_bit(table, &r, round % 2 == 0);
        enum thole_code code = log_try_open(dir, &s, &st);
        if (code == THOLE_OK) { /* what is not reported as damaged is complete */
            for (uint64_t g = 1; g <= GROUPS; g++) {
                const struct store_replica *x = log_find(s, g);
                assert_non_null(x);
                assert_true(x->hard.term == UINT64_MAX || x->last_index == 3);
            }
            log_shut(s);
        } else {
            assert_int_equal(code, THOLE_DATA_LOSS);
        }
        free(table);
        dir_free(dir);
    }
    dir_free(original);
}

static void test_log_interrupted_salvage_is_finished(void **state)
{
    char *dir = dir_new(), a[512], b[512];
    struct log_store *s = log_open(dir);

    (void)state;
    log_create(s, 1);
    log_append(s, 1, 1, 3, 1);
    log_shut(s);
    snprintf(a, sizeof a, "%s/log", dir);
    snprintf(b, sizeof b, "%s/log.new", dir);
    assert_int_equal(rename(a, b), 0); /* between the two renames */
    s = log_open(dir);
    log_expect(s, 1, 0, 3);
    log_shut(s);
    dir_free(dir);
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
        cmocka_unit_test(test_log_torn_tail_loses_only_the_torn_batch),
        cmocka_unit_test(test_log_flip_in_the_middle_of_the_wal_is_data_loss),
        cmocka_unit_test(test_log_flip_in_a_run_hurts_that_replica_alone),
        cmocka_unit_test(test_log_flips_never_go_unnoticed),
        cmocka_unit_test(test_log_interrupted_salvage_is_finished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
