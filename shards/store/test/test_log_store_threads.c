/* Readers beside the writer: each read returns a range of some log that was durable. Run it under
 * ThreadSanitizer. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rand.h"
#include "shards/store/test/store_fixture.h"

enum { GROUPS = 4, READERS = 3, BATCHES = 1500 };

struct shared {
    struct log_store *s;
    _Atomic bool stop;
    _Atomic uint64_t last[GROUPS + 1];
    _Atomic uint64_t entries_read, refused;
};

static void check_entries(struct raft_entry **e, size_t n, uint64_t id, uint64_t first)
{
    char payload[80];
    uint64_t term = 0;

    for (size_t i = 0; i < n; i++) {
        int size = snprintf(payload, sizeof payload, "%" PRIu64 ".%" PRIu64 ".%" PRIu64, id,
                            first + i, e[i]->term);
        /* Not cmocka's assertion: these are other threads. */
        if (e[i]->index != first + i ||
            !slice_equal(e[i]->payload.bytes, slice_of(payload, (size_t)size)) ||
            e[i]->term < term) {
            fprintf(stderr, "replica %" PRIu64 " index %" PRIu64 ": wrong entry\n", id, first + i);
            abort();
        }
        term = e[i]->term;
        raft_entry_unref(e[i]);
    }
}

static void *reader(void *arg)
{
    struct shared *h = arg;
    struct raft_entry *got[64];
    struct thole_status st = {0};
    struct rand r;

    rand_seed(&r, (uint64_t)(uintptr_t)&r);
    while (!h->stop) {
        uint64_t id = 1 + rand_below(&r, GROUPS);
        uint64_t last = h->last[id] + 1, back = rand_below(&r, 60);
        uint64_t first = back < last ? last - back : 1;
        size_t n = 0;
        enum thole_code code =
            h->s->ops->read(h->s, id, first, first + rand_below(&r, 70), 1200, 64, got, &n, &st);

        if (code == THOLE_OK) {
            check_entries(got, n, id, first);
            h->entries_read += n;
        } else if (code == THOLE_OUT_OF_RANGE) {
            h->refused++;
        } else {
            fprintf(stderr, "read: %s\n", st.message);
            abort();
        }
    }
    return NULL;
}

static void test_log_reads_beside_writes(void **state)
{
    char *dir = dir_new();
    struct shared h = {.s = log_open(dir)};
    pthread_t threads[READERS];
    uint64_t start[GROUPS + 1] = {0}, last[GROUPS + 1] = {0}, term = 1;
    struct rand r;

    (void)state;
    rand_seed(&r, 3);
    for (uint64_t id = 1; id <= GROUPS; id++) {
        log_create(h.s, id);
    }
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, reader, &h), 0);
    }
    for (int i = 0; i < BATCHES || h.entries_read == 0; i++) { /* the readers may lag behind */
        uint64_t id = 1 + rand_below(&r, GROUPS);
        size_t n = 1 + rand_below(&r, 12);
        uint64_t first = last[id] + 1;

        if (rand_chance(&r, 0.2)) {
            first = rand_between(&r, start[id] + 1, last[id] + 1);
            term++;
        }
        log_append(h.s, id, first, n, term);
        last[id] = first + n - 1;
        if (rand_chance(&r, 0.05)) {
            bool reset = rand_chance(&r, 0.3);
            start[id] = reset ? last[id] + 5 : rand_between(&r, start[id], last[id]);
            log_start(h.s, id, start[id], term, reset);
            last[id] = last[id] > start[id] ? last[id] : start[id];
        }
        h.last[id] = last[id];
    }
    h.stop = true;
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    print_message("%" PRIu64 " entries read, %" PRIu64 " reads out of range\n",
                  (uint64_t)h.entries_read, (uint64_t)h.refused);
    for (uint64_t id = 1; id <= GROUPS; id++) {
        log_expect(h.s, id, start[id], last[id]);
    }
    log_shut(h.s);
    dir_free(dir);
}

/* ---- A long read while the log is cut -------------------------------------------------------- */

enum { KEPT = 100, CUT = 200, TIMES = 300 };

/* Entries behind KEPT are always replaced together, by entries of another term. */
static void *long_reader(void *arg)
{
    struct shared *h = arg;
    struct raft_entry *got[KEPT + CUT];
    struct thole_status st = {0};

    while (!h->stop) {
        uint64_t term = 0;
        size_t n = 0;

        if (h->s->ops->read(h->s, 1, KEPT - 10, KEPT + CUT, SIZE_MAX, KEPT + CUT, got, &n, &st) !=
            THOLE_OK) {
            fprintf(stderr, "read: %s\n", st.message);
            abort();
        }
        for (size_t i = 0; i < n; i++) {
            if (got[i]->index > KEPT && term != 0 && got[i]->term != term) {
                fprintf(stderr, "index %" PRIu64 ": the end of another log\n", got[i]->index);
                abort();
            }
            term = got[i]->index > KEPT ? got[i]->term : 0;
            raft_entry_unref(got[i]);
        }
        h->entries_read += n;
    }
    return NULL;
}

static void test_log_long_reads_do_not_join_two_histories(void **state)
{
    char *dir = dir_new();
    struct shared h = {.s = log_open(dir)};
    static struct store_update u[CUT];
    pthread_t thread;

    (void)state;
    log_create(h.s, 1);
    log_append(h.s, 1, 1, KEPT, 1);
    assert_int_equal(pthread_create(&thread, NULL, long_reader, &h), 0);
    for (uint64_t term = 2; term < TIMES || h.entries_read == 0; term++) {
        struct raft_entry **e = entries_new(1, KEPT + 1, CUT, term);

        for (size_t i = 0; i < CUT; i++) { /* a run each */
            u[i] = (struct store_update){.replica_id = 1, .entries = e + i, .entry_count = 1};
        }
        assert_int_equal(h.s->ops->write(h.s, u, CUT, NULL), THOLE_OK);
        entries_free(e, CUT);
    }
    h.stop = true;
    pthread_join(thread, NULL);
    log_shut(h.s);
    dir_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_reads_beside_writes),
        cmocka_unit_test(test_log_long_reads_do_not_join_two_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
