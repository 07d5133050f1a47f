/* A counter that fails in open, apply or restore, as its host's flags ask for. */
#include <stdlib.h>

#include "hostctl/test/cluster_fixture.h"
#include "shards/machine/builtin.h"

struct flaky {
    struct cluster_host *host;
    void *counter;
};

static enum thole_code flaky_open(const struct thole_machine_env *env, void **ret,
                                  struct thole_status *st)
{
    struct cluster_host *host = env->type_ctx;
    void *counter = NULL;
    if (host->flaky_open) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "a test fails open");
    }
    enum thole_code code = machine_counter.open(env, &counter, st);
    if (code == THOLE_OK) {
        struct flaky *f = xcalloc(1, sizeof *f);
        *f = (struct flaky){host, counter};
        *ret = f;
    }
    return code;
}

static void flaky_close(void *machine)
{
    struct flaky *f = machine;
    machine_counter.close(f->counter);
    free(f);
}

static enum thole_code flaky_apply(void *machine, struct thole_apply *batch,
                                   struct thole_status *st)
{
    struct flaky *f = machine;
    if (f->host->flaky_apply && batch->entry_count > 0) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "a test fails apply");
    }
    return machine_counter.apply(f->counter, batch, st);
}

static enum thole_code flaky_query(void *machine, const void *view, struct thole_slice query,
                                   struct thole_sink *answer, struct thole_status *st)
{
    struct flaky *f = machine;
    return machine_counter.query(f->counter, view, query, answer, st);
}

static enum thole_code flaky_view_acquire(void *machine, void **ret, struct thole_status *st)
{
    struct flaky *f = machine;
    return machine_counter.view_acquire(f->counter, ret, st);
}

static void flaky_view_release(void *machine, void *view)
{
    struct flaky *f = machine;
    machine_counter.view_release(f->counter, view);
}

static enum thole_code flaky_save(void *machine, const void *view, struct thole_save *to,
                                  struct thole_status *st)
{
    struct flaky *f = machine;
    return machine_counter.save(f->counter, view, to, st);
}

static enum thole_code flaky_restore(void *machine, struct thole_restore *from,
                                     struct thole_status *st)
{
    struct flaky *f = machine;
    if (f->host->flaky_restore) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "a test fails restore");
    }
    return machine_counter.restore(f->counter, from, st);
}

struct thole_machine_type flaky_type(struct cluster_host *host)
{
    struct thole_machine_type type = machine_counter;
    type.name = "flaky";
    type.type_ctx = host;
    type.open = flaky_open;
    type.close = flaky_close;
    type.apply = flaky_apply;
    type.query = flaky_query;
    type.view_acquire = flaky_view_acquire;
    type.view_release = flaky_view_release;
    type.save = flaky_save;
    type.restore = flaky_restore;
    return type;
}
