/* How a command is refused: with a code, a reason and, if one is to blame, a field of the request.
 * The values themselves are judged in validate.c. */
#include "registry/registry_internal.h"

#include <stdarg.h>
#include <stdio.h>

enum thole_code registry__refuse(struct txn *t, enum thole_code code, enum thole_reason reason,
                                 const char *field, const char *format, ...)
{
    char message[THOLE_STATUS_MESSAGE_BYTES];
    va_list args;
    ASSERT(code != THOLE_OK && field[0] != '\0');
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    snprintf(t->field, sizeof t->field, "%s", field);
    return THOLE_FAIL(&t->st, code, reason, "%s: %s", field, message);
}

enum thole_code registry__checked(struct txn *t, bool ok, const struct registry_violation *v)
{
    return ok ? THOLE_OK
              : registry__refuse(t, THOLE_INVALID_ARGUMENT, v->reason, v->field, "%s", v->message);
}

enum thole_code registry__check_text(struct txn *t, const char *field, upb_StringView text,
                                     size_t bytes_max)
{
    struct registry_violation v;
    return registry__checked(t, registry_check_text(field, registry_str(text), bytes_max, &v), &v);
}

enum thole_code registry__check_host(struct txn *t, const thole_v1_Host *host, struct uuid *ret_id)
{
    struct registry_violation v;
    if (host == NULL) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "host",
                                "is needed");
    }
    if (!uuid_parse(registry_str(thole_v1_Host_id(host)), ret_id)) {
        return registry__refuse(t, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, "host.id",
                                "is no UUID in text form");
    }
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host);
    bool ok = registry_check_name("host.name", registry_str(thole_v1_Host_name(host)), &v) &&
              (spec == NULL || registry_check_host_spec("host.spec", spec, &v)) &&
              registry_check_host_status(thole_v1_Host_status(host), &v);
    return registry__checked(t, ok, &v);
}

enum thole_code registry__no_such_shard(struct txn *t, upb_StringView name)
{
    return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                      "no shard is named \"%.*s\"", (int)(name.size < 128 ? name.size : 128),
                      name.data != NULL ? name.data : "");
}

enum thole_code registry__no_such_replica(struct txn *t, uint64_t id)
{
    return THOLE_FAIL(&t->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_REPLICA,
                      "no replica has the id %" PRIu64, id);
}
