#include "shards/machine/test/machine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"

static enum thole_code sink_write(struct thole_sink *base, const void *data, size_t size)
{
    struct test_sink *s = (struct test_sink *)base;

    if (s->limit != 0 && s->out.size + size > s->limit) {
        return THOLE_RESOURCE_EXHAUSTED;
    }
    bytes_append(&s->out, data, size);
    return THOLE_OK;
}

void test_sink_init(struct test_sink *s)
{
    *s = (struct test_sink){.base = {sizeof(struct thole_sink), sink_write}};
}

bool test_sink_is(const struct test_sink *s, const char *text)
{
    return slice_equal(bytes_slice(&s->out), slice_str(text));
}

static int64_t source_read(struct thole_source *base, void *data, size_t size)
{
    struct test_source *s = (struct test_source *)base;
    size_t n = size < s->in.size ? size : s->in.size;

    n = s->step != 0 && s->step < n ? s->step : n;
    if (n > 0) {
        memcpy(data, s->in.data, n);
        s->in.data += n;
        s->in.size -= n;
    }
    return (int64_t)n;
}

void test_source_init(struct test_source *s, struct slice in, size_t step)
{
    *s = (struct test_source){
        .base = {sizeof(struct thole_source), source_read}, .in = in, .step = step};
}

static void watch_event(struct thole_watch_sink *base, uint64_t index, struct thole_slice key,
                        struct thole_slice event)
{
    struct test_watch *w = (struct test_watch *)base;

    assert_true(w->count < 64);
    struct test_event *e = &w->events[w->count++];
    e->index = index;
    snprintf(e->key, sizeof e->key, "%.*s", (int)key.size, (const char *)key.data);
    e->event = buf_copy(event.data, event.size);
}

void test_watch_init(struct test_watch *w)
{
    *w = (struct test_watch){.base = {sizeof(struct thole_watch_sink), watch_event}};
}

void test_watch_clear(struct test_watch *w)
{
    for (size_t i = 0; i < w->count; i++) {
        buf_unref(w->events[i].event);
    }
    w->count = 0;
}

/* ---- The machine ----------------------------------------------------------------------------- */

static void record_meta(void *ctx, struct thole_slice key, struct thole_slice value)
{
    struct test_machine *t = ctx;
    size_t n = strlen(t->meta);

    snprintf(t->meta + n, sizeof t->meta - n, "%.*s=%.*s;", (int)key.size, (const char *)key.data,
             (int)value.size, (const char *)value.data);
}

static void open_all(struct test_machine *t)
{
    struct thole_status st = {0};

    if (t->dir != NULL) {
        if (state_db_open(&(struct state_db_options){.path = t->dir}, &t->db, &st) != THOLE_OK) {
            fail_msg("%s", st.message);
        }
    }
    t->env.state_db = t->db;
    t->meta[0] = '\0';
    t->due = (struct thole_due){THOLE_NEVER, THOLE_NEVER};
    if (t->type->open(&t->env, &t->m, &st) != THOLE_OK) {
        fail_msg("%s", st.message);
    }
}

void test_machine_init(struct test_machine *t, const struct thole_machine_type *type)
{
    *t = (struct test_machine){.type = type};
    t->env = (struct thole_machine_env){
        .size = sizeof t->env,
        .version = type->version,
        .shard_id = 1,
        .replica_id = 11,
        .generation = 1,
        .meta = record_meta,
        .meta_ctx = t,
        .due = &t->due,
    };
    if ((type->flags & THOLE_MACHINE_PERSISTENT) != 0) {
        const char *tmp = getenv("TMPDIR");
        struct bytes b = {0};

        bytes_printf(&b, "%s/thole-machine-XXXXXX", tmp != NULL ? tmp : "/tmp");
        bytes_append(&b, "", 1);
        t->dir = (char *)b.data;
        assert_non_null(mkdtemp(t->dir));
    }
    open_all(t);
}

void test_machine_deinit(struct test_machine *t)
{
    t->type->close(t->m);
    state_db_close(t->db);
    if (t->dir != NULL) {
        assert_int_equal(file_remove_tree(t->dir, NULL), THOLE_OK);
        free(t->dir);
    }
}

void test_machine_reopen(struct test_machine *t)
{
    t->type->close(t->m);
    state_db_close(t->db);
    open_all(t);
}

struct thole_entry test_entry(uint64_t index, struct slice command, struct test_sink *sink)
{
    test_sink_init(sink);
    return (struct thole_entry){
        .size = sizeof(struct thole_entry),
        .kind = THOLE_ENTRY_COMMAND,
        .index = index,
        .command = {command.data, command.size},
        .result = &sink->base,
    };
}

struct thole_apply test_batch(struct thole_entry *entries, size_t n)
{
    return (struct thole_apply){
        .size = sizeof(struct thole_apply),
        .entry_size = sizeof *entries,
        .entries = entries,
        .entry_count = n,
        .applied_index = n > 0 ? entries[n - 1].index : 0,
        .due = {THOLE_NEVER, THOLE_NEVER},
    };
}

uint64_t test_apply(struct test_machine *t, struct slice command, struct bytes *out)
{
    struct thole_status st = {0};
    struct test_sink sink;
    struct thole_entry e = test_entry(++t->index, command, &sink);
    struct thole_apply batch = test_batch(&e, 1);

    e.alive_ms = t->alive_ms;
    if (t->type->apply(t->m, &batch, &st) != THOLE_OK) {
        fail_msg("apply: %s", st.message);
    }
    t->due = batch.due;
    if (out != NULL) {
        bytes_clear(out);
        bytes_append_slice(out, bytes_slice(&sink.out));
    }
    bytes_deinit(&sink.out);
    return e.code;
}

void test_tick(struct test_machine *t)
{
    struct test_sink sink;
    struct thole_entry e = test_entry(++t->index, (struct slice){0}, &sink);
    struct thole_apply batch = test_batch(&e, 1);

    e.kind = THOLE_ENTRY_TICK;
    e.alive_ms = t->alive_ms;
    assert_int_equal(t->type->apply(t->m, &batch, NULL), THOLE_OK);
    assert_int_equal(sink.out.size, 0);
    t->due = batch.due;
}

void test_text(struct test_machine *t, const char *command, uint64_t code, const char *expect)
{
    struct bytes out = {0};
    uint64_t got = test_apply(t, slice_str(command), &out);

    if (got != code || !slice_equal(bytes_slice(&out), slice_str(expect))) {
        fail_msg("\"%s\": code %u, \"%.*s\"", command, (unsigned)got, (int)out.size,
                 (const char *)out.data);
    }
    bytes_deinit(&out);
}

void test_ask(struct test_machine *t, const char *query, const char *expect)
{
    struct thole_status st = {0};
    struct test_sink sink;
    void *view = NULL;

    test_sink_init(&sink);
    assert_int_equal(t->type->view_acquire(t->m, &view, NULL), THOLE_OK);
    enum thole_code code =
        t->type->query(t->m, view, (struct thole_slice){query, strlen(query)}, &sink.base, &st);
    t->type->view_release(t->m, view);
    if (expect == NULL) {
        assert_true(code == THOLE_INVALID_ARGUMENT || code == THOLE_NOT_FOUND);
    } else if (code != THOLE_OK || !test_sink_is(&sink, expect)) {
        fail_msg("\"%s\": %s \"%.*s\"", query, st.message, (int)sink.out.size,
                 (const char *)sink.out.data);
    }
    bytes_deinit(&sink.out);
}

void test_save(struct test_machine *t, struct bytes *out)
{
    struct test_sink sink;
    void *view = NULL;

    test_sink_init(&sink);
    assert_int_equal(t->type->view_acquire(t->m, &view, NULL), THOLE_OK);
    struct thole_save to = {.size = sizeof to, .out = &sink.base, .index = t->index};
    assert_int_equal(t->type->save(t->m, view, &to, NULL), THOLE_OK);
    t->type->view_release(t->m, view);
    bytes_deinit(out);
    *out = sink.out;
}

enum thole_code test_restore(struct test_machine *t, struct slice snapshot, size_t step,
                             struct thole_status *st)
{
    struct thole_meta meta = {{"applied", 7}, {"77", 2}};
    struct test_source source;

    test_source_init(&source, snapshot, step);
    struct thole_restore from = {
        .size = sizeof from,
        .in = &source.base,
        .index = 77,
        .meta = &meta,
        .meta_count = 1,
        .due = {THOLE_NEVER, THOLE_NEVER},
    };
    return t->type->restore(t->m, &from, st);
}
