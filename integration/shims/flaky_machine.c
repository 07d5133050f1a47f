/* Linked into a daemon: a machine type "flaky" that counts its commands. Its apply fails while
 * there is a file `fail` in the host's data directory.
 *
 * agent_new is wrapped, so the daemon's own sources stay unchanged. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/core/agent.h"

static char *fail_path;

static enum thole_code flaky_open(const struct thole_machine_env *env, void **ret,
                                  struct thole_status *st)
{
    (void)env, (void)st;
    *ret = xcalloc(1, sizeof(uint64_t));
    return THOLE_OK;
}

static enum thole_code flaky_apply(void *machine, struct thole_apply *batch,
                                   struct thole_status *st)
{
    uint64_t *count = machine;
    if (batch->entry_count > 0 && access(fail_path, F_OK) == 0) {
        return THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_MACHINE_FAILED, "flaky: %s says to fail",
                          fail_path);
    }
    *count += batch->entry_count;
    return THOLE_OK;
}

static enum thole_code flaky_query(void *machine, const void *view, struct thole_slice query,
                                   struct thole_sink *answer, struct thole_status *st)
{
    (void)view, (void)query, (void)st;
    char text[32];
    int n = snprintf(text, sizeof text, "%" PRIu64, *(uint64_t *)machine);
    return answer->write(answer, text, (size_t)n);
}

static enum thole_code flaky_save(void *machine, const void *view, struct thole_save *to,
                                  struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)view, (void)st;
    return out->write(out, machine, sizeof(uint64_t));
}

static enum thole_code flaky_restore(void *machine, struct thole_restore *from,
                                     struct thole_status *st)
{
    struct thole_source *in = from->in;
    if (in->read(in, machine, sizeof(uint64_t)) != (int64_t)sizeof(uint64_t)) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "flaky: a short snapshot");
    }
    return THOLE_OK;
}

static const struct thole_machine_type flaky = {
    .size = sizeof(struct thole_machine_type),
    .version = 1,
    .name = "flaky",
    .open = flaky_open,
    .close = free,
    .apply = flaky_apply,
    .query = flaky_query,
    .save = flaky_save,
    .restore = flaky_restore,
};

enum thole_code __real_agent_new(const struct agent_options *o, struct agent **ret,
                                 struct thole_status *st);
enum thole_code __wrap_agent_new(const struct agent_options *o, struct agent **ret,
                                 struct thole_status *st);

enum thole_code __wrap_agent_new(const struct agent_options *o, struct agent **ret,
                                 struct thole_status *st)
{
    static const struct thole_machine_type *const types[] = {&flaky, NULL};
    struct agent_options with = *o;
    with.types = types;
    with.type_count = 1;
    with.compact_log_bytes = UINT64_C(64) * 1024; /* soon beyond what new members find in the log */
    fail_path = xasprintf("%s/fail", o->data_dir);
    return __real_agent_new(&with, ret, st);
}
