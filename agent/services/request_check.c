/* Names in requests, and refusals that name a field. registry/validate.h decides what a valid name,
 * label or spec is; shard zero checks again with the same functions. */
#include <string.h>

#include "agent/services/services_internal.h"

upb_StringView services__name_strip(upb_StringView name, const char *collection)
{
    size_t n = strlen(collection);
    if (name.size > n + 1 && memcmp(name.data, collection, n) == 0 && name.data[n] == '/') {
        return (upb_StringView){name.data + n + 1, name.size - n - 1};
    }
    return name;
}

bool services__name_of_shard(upb_StringView given, char ret[static LIMIT_NAME_BYTES + 1],
                             struct thole_status *st)
{
    upb_StringView name = services__name_strip(given, "shards");
    if (name.size == 0 || name.size > LIMIT_NAME_BYTES ||
        memchr(name.data, '\0', name.size) != NULL) {
        (void)THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "shard: a name of 1 to %d bytes is needed", LIMIT_NAME_BYTES);
        return false;
    }
    memcpy(ret, name.data, name.size);
    ret[name.size] = '\0';
    return true;
}

bool services__name_of_data_shard(upb_StringView given, char ret[static LIMIT_NAME_BYTES + 1],
                                  struct thole_status *st)
{
    if (!services__name_of_shard(given, ret, st)) {
        return false;
    }
    if (strcmp(ret, REGISTRY_SHARD_NAME) == 0) {
        (void)agent_refuse_zero(st);
        return false;
    }
    return true;
}

bool services__call_name(struct call *c, const char *field, upb_StringView name)
{
    struct registry_violation v;
    return services__call_checked(c, registry_check_name(field, registry_str(name), &v), &v);
}

bool services__call_request_id(struct call *c, upb_StringView id)
{
    struct registry_violation v;
    return services__call_checked(c, registry_check_request_id(registry_str(id), &v), &v);
}

bool services__call_checked(struct call *c, bool ok, const struct registry_violation *v)
{
    if (!ok) {
        struct thole_status st;
        (void)THOLE_FAIL(&st, THOLE_INVALID_ARGUMENT, v->reason, "%s: %s", v->field, v->message);
        services__call_fail_field(c, &st, v->field);
    }
    return ok;
}
