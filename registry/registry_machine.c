/* The machine that the engine runs for a host's replica of shard zero. Its state is in memory; the
 * engine has its log and snapshots. */
#include "registry/registry_internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <string.h>

#define MACHINE_MAGIC UINT32_C(0x72656731) /* "reg1" */

struct machine {
    uint32_t magic;
    struct registry *registry;
    struct state s;
    struct registry_view *view; /* of `s` */
};

static struct machine *machine_of(void *p)
{
    struct machine *m = p;
    ASSERT(m != NULL && m->magic == MACHINE_MAGIC);
    return m;
}

static enum thole_code machine_open(const struct thole_machine_env *env, void **ret_machine,
                                    struct thole_status *st)
{
    struct registry *r = env->type_ctx;
    if (env->shard_id != REGISTRY_SHARD_ID) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the registry is the machine of shard zero alone");
    }
    struct machine *m = xcalloc(1, sizeof *m);
    m->magic = MACHINE_MAGIC;
    m->registry = r;
    registry__state_init(&m->s);
    m->view = registry__view_new(r, &m->s);
    *ret_machine = m;
    return THOLE_OK;
}

static void machine_close(void *machine)
{
    struct machine *m = machine_of(machine);
    registry_view_release(m->view);
    registry__state_deinit(&m->s);
    m->magic = 0;
    free(m);
}

static void show(struct machine *m)
{
    registry_view_release(m->view);
    m->view = registry__view_new(m->registry, &m->s);
    registry__publish(m->registry, m->view);
}

static enum thole_code machine_apply(void *machine, struct thole_apply *batch,
                                     struct thole_status *st)
{
    (void)st;
    struct machine *m = machine_of(machine);
    struct bytes result = {0};
    for (size_t i = 0; i < batch->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(batch, i);
        bytes_clear(&result);
        e->code = registry__apply(&m->s, slice_of(e->command.data, e->command.size), &result);
        if (e->result != NULL &&
            e->result->write(e->result, result.data, result.size) != THOLE_OK) {
            LOG_WARN(REGISTRY, "a result was not delivered; the command took effect index=%" PRIu64,
                     e->index);
        }
    }
    bytes_deinit(&result);
    if (batch->entry_count > 0) {
        show(m);
    }
    return THOLE_OK;
}

static enum thole_code machine_query(void *machine, const void *view, struct thole_slice query,
                                     struct thole_sink *answer, struct thole_status *st)
{
    (void)machine_of(machine);
    const struct registry_view *v = view;
    if (query.size != 0) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "the registry answers the empty query alone, with its revision");
    }
    uint8_t revision[8];
    put_le64(revision, v->s.revision);
    return answer->write(answer, revision, sizeof revision);
}

static enum thole_code machine_view_acquire(void *machine, void **ret_view, struct thole_status *st)
{
    (void)st;
    *ret_view = registry_view_ref(machine_of(machine)->view);
    return THOLE_OK;
}

static void machine_view_release(void *machine, void *view)
{
    (void)machine;
    registry_view_release(view);
}

static enum thole_code machine_save(void *machine, const void *view, struct thole_save *to,
                                    struct thole_status *st)
{
    struct thole_sink *out = to->out;
    (void)machine_of(machine);
    const struct registry_view *v = view;
    return registry__save(&v->s, out, st);
}

static enum thole_code machine_restore(void *machine, struct thole_restore *from,
                                       struct thole_status *st)
{
    struct thole_source *in = from->in;
    struct machine *m = machine_of(machine);
    struct state s;
    enum thole_code code = registry__restore(in, &s, st);
    if (code != THOLE_OK) {
        return code;
    }
    registry__state_deinit(&m->s);
    m->s = s;
    show(m);
    return THOLE_OK;
}

void registry__machine_type(struct registry *r, struct thole_machine_type *ret)
{
    *ret = (struct thole_machine_type){
        .size = sizeof *ret,
        .version = 1,
        .name = REGISTRY_MACHINE_TYPE,
        .type_ctx = r,
        .open = machine_open,
        .close = machine_close,
        .apply = machine_apply,
        .query = machine_query,
        .view_acquire = machine_view_acquire,
        .view_release = machine_view_release,
        .save = machine_save,
        .restore = machine_restore,
    };
}
