/* A registry outside any group: the rows of a snapshot, to read. */
#include <string.h>

#include "base/worker.h"
#include "registry/registry_internal.h"

static int64_t read_memory(struct thole_source *base, void *data, size_t size)
{
    struct memory_source *s = CONTAINER_OF(base, struct memory_source, base);
    size_t n = size < s->rest.size ? size : s->rest.size;
    if (n > 0) {
        memcpy(data, s->rest.data, n);
        s->rest = slice_of(s->rest.data + n, s->rest.size - n);
    }
    return (int64_t)n;
}

struct memory_source registry__memory_source(struct slice bytes)
{
    return (struct memory_source){.base = {sizeof(struct thole_source), read_memory},
                                  .rest = bytes};
}

enum thole_code registry_of_snapshot(struct slice in, struct registry **ret,
                                     struct thole_status *st)
{
    struct registry *r = registry_new();
    const struct thole_machine_type *type = registry_machine_type(r);
    struct memory_source source = registry__memory_source(in);
    struct thole_restore from = {.size = sizeof from, .in = &source.base};
    const struct thole_machine_env env = {
        .size = sizeof env, .version = type->version, .replica_id = 1, .type_ctx = type->type_ctx};
    void *machine = NULL;
    enum thole_code code = type->open(&env, &machine, st);
    if (code == THOLE_OK) {
        code = type->restore(machine, &from, st);
        type->close(machine);
    }
    if (code == THOLE_OK) {
        *ret = r;
    } else {
        registry_free(r);
    }
    return code;
}
