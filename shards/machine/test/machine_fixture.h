/* Drives a machine through its interface, as the engine would. */
#ifndef SHARDS_MACHINE_TEST_MACHINE_FIXTURE_H
#define SHARDS_MACHINE_TEST_MACHINE_FIXTURE_H

#include <thole/machine.h>

#include "shards/store/store.h"

struct test_sink {
    struct thole_sink base; /* first */
    struct bytes out;
    size_t limit; /* 0: none */
};
void test_sink_init(struct test_sink *s);
bool test_sink_is(const struct test_sink *s, const char *text);

/* An entry whose result goes into `sink`, which is initialised; a batch of such entries. */
struct thole_entry test_entry(uint64_t index, struct slice command, struct test_sink *sink);
struct thole_apply test_batch(struct thole_entry *entries, size_t n);

struct test_source {
    struct thole_source base; /* first */
    struct slice in;
    size_t step; /* bytes per read, to try short reads; 0: as asked */
};
void test_source_init(struct test_source *s, struct slice in, size_t step);

struct test_event {
    uint64_t index;
    char key[32];
    struct buf *event;
};
struct test_watch {
    struct thole_watch_sink base; /* first */
    struct test_event events[64];
    size_t count;
};
void test_watch_init(struct test_watch *w);
void test_watch_clear(struct test_watch *w);

/* A machine of `type`, with a state database if it is persistent. */
struct test_machine {
    const struct thole_machine_type *type;
    void *m;
    struct thole_machine_env env;
    struct state_db *db;
    char *dir;
    uint64_t index;
    char meta[256];       /* "key=value;" in the order reported at open */
    uint64_t alive_ms;    /* of entries */
    struct thole_due due; /* as last reported */
};
void test_machine_init(struct test_machine *t, const struct thole_machine_type *type);
void test_machine_deinit(struct test_machine *t);
/* Close the machine, and (flushed or not) the database, and open both again. */
void test_machine_reopen(struct test_machine *t);

/* Apply one command; returns its code, and the result in `out` (may be NULL). */
uint64_t test_apply(struct test_machine *t, struct slice command, struct bytes *out);
/* A TICK at t->alive_ms. */
void test_tick(struct test_machine *t);
/* Apply text; the result must be `expect`, the code `code`. */
void test_text(struct test_machine *t, const char *command, uint64_t code, const char *expect);
/* Query text on a fresh view. With `expect` NULL, the query must fail with INVALID_ARGUMENT or
 * NOT_FOUND. */
void test_ask(struct test_machine *t, const char *query, const char *expect);
void test_save(struct test_machine *t, struct bytes *out);
enum thole_code test_restore(struct test_machine *t, struct slice snapshot, size_t step,
                             struct thole_status *st);

#endif
