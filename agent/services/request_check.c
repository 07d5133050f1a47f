/* Checks of what users send, before it is proposed. The registry has the last word: it checks again
 * what its invariants need. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/services/services_internal.h"

struct slice services__name_slice(upb_StringView name)
{
    return slice_of(name.data, name.size);
}

static bool bad(struct check *ret, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool bad(struct check *ret, const char *field, const char *format, ...)
{
    snprintf(ret->field, sizeof ret->field, "%s", field);
    va_list args;
    va_start(args, format);
    vsnprintf(ret->message, sizeof ret->message, format, args);
    va_end(args);
    return false;
}

static bool check_label(const char *field, upb_StringView text, size_t bytes_min, struct check *ret)
{
    const char *problem = text_label_problem(services__name_slice(text), bytes_min);
    return problem == NULL || bad(ret, field, "%s", problem);
}

#define SHOWN(s) (int)((s).size < 60 ? (s).size : 60), (s).data

bool services__check_host_spec(const thole_v1_HostSpec *spec, struct check *ret)
{
    size_t it = kUpb_Map_Begin;
    const thole_v1_HostSpec_TagsEntry *tag;
    while ((tag = thole_v1_HostSpec_tags_next(spec, &it)) != NULL) {
        upb_StringView key = thole_v1_HostSpec_TagsEntry_key(tag);
        upb_StringView value = thole_v1_HostSpec_TagsEntry_value(tag);
        const char *problem = text_label_problem(services__name_slice(key), 1);
        if (problem != NULL) {
            return bad(ret, "spec.tags", "a key %s", problem);
        }
        problem = text_label_problem(services__name_slice(value), 0);
        if (problem != NULL) {
            return bad(ret, "spec.tags", "the value of \"%.*s\" %s", SHOWN(key), problem);
        }
    }
    switch (thole_v1_HostSpec_state(spec)) {
    case thole_v1_HOST_STATE_UNSPECIFIED: /* leave it as it is */
    case thole_v1_HOST_STATE_ACTIVE:
    case thole_v1_HOST_STATE_CORDONED:
    case thole_v1_HOST_STATE_DRAINING:
        return true;
    case thole_v1_HOST_STATE_REMOVED:
        return bad(ret, "spec.state", "a host is removed with DeleteHost, after it was drained");
    }
    return bad(ret, "spec.state", "%d is no state", thole_v1_HostSpec_state(spec));
}

static bool check_constraint(const char *list, const thole_v1_Constraint *k, size_t i,
                             struct check *ret)
{
    char field[64];
    snprintf(field, sizeof field, "%s[%zu].key", list, i);
    if (!check_label(field, thole_v1_Constraint_key(k), 1, ret)) {
        return false;
    }
    size_t count = 0;
    const upb_StringView *values = thole_v1_Constraint_values(k, &count);
    snprintf(field, sizeof field, "%s[%zu].values", list, i);
    for (size_t v = 0; v < count; v++) {
        if (!check_label(field, values[v], 0, ret)) {
            return false;
        }
    }
    switch (thole_v1_Constraint_operator(k)) {
    case thole_v1_CONSTRAINT_OPERATOR_IN:
    case thole_v1_CONSTRAINT_OPERATOR_NOT_IN:
        return count > 0 || bad(ret, field, "IN and NOT_IN need at least one value");
    case thole_v1_CONSTRAINT_OPERATOR_EXISTS:
    case thole_v1_CONSTRAINT_OPERATOR_NOT_EXISTS:
        return count == 0 || bad(ret, field, "EXISTS and NOT_EXISTS take no values");
    case thole_v1_CONSTRAINT_OPERATOR_UNSPECIFIED:
        break;
    }
    snprintf(field, sizeof field, "%s[%zu].operator", list, i);
    return bad(ret, field, "must be IN, NOT_IN, EXISTS or NOT_EXISTS");
}

static bool check_constraints(const char *list, const thole_v1_Constraint *const *constraints,
                              size_t count, struct check *ret)
{
    if (count > 32) {
        return bad(ret, list, "%zu are more than 32", count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!check_constraint(list, constraints[i], i, ret)) {
            return false;
        }
    }
    return true;
}

/* The groups' counts, on top of `all`. */
static bool check_groups(const thole_v1_ShardSpec *spec, uint64_t all, struct check *ret)
{
    size_t count = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &count);
    if (count > 8) {
        return bad(ret, "spec.non_voting", "%zu groups are more than 8", count);
    }
    for (size_t i = 0; i < count; i++) {
        char list[64];
        size_t constraint_count = 0;
        const thole_v1_Constraint *const *constraints =
            thole_v1_ReplicaGroup_constraints(groups[i], &constraint_count);
        snprintf(list, sizeof list, "spec.non_voting[%zu]", i);
        if ((thole_v1_ReplicaGroup_count(groups[i]) > 0) ==
            thole_v1_ReplicaGroup_cover(groups[i])) {
            return bad(ret, list, "needs either a count or cover");
        }
        all += thole_v1_ReplicaGroup_count(groups[i]);
        snprintf(list, sizeof list, "spec.non_voting[%zu].constraints", i);
        if (!check_constraints(list, constraints, constraint_count, ret)) {
            return false;
        }
    }
    return all <= LIMIT_MEMBERS / 2 ||
           bad(ret, "spec.non_voting", "a spec asks for at most %d replicas in all",
               LIMIT_MEMBERS / 2);
}

static bool check_counts(const thole_v1_ShardSpec *spec, struct check *ret)
{
    uint32_t voters = thole_v1_ShardSpec_voters(spec);
    uint32_t witnesses = thole_v1_ShardSpec_witnesses(spec);
    if (voters == 0) {
        return bad(ret, "spec.voters", "must be at least 1");
    }
    if (voters > 15 || witnesses > 15 || voters + witnesses > 15) {
        return bad(ret, "spec.voters", "%u with %u witnesses are more than 15", voters, witnesses);
    }
    if (witnesses >= voters) {
        return bad(ret, "spec.witnesses", "must be less than voters");
    }
    return check_groups(spec, (uint64_t)voters + witnesses, ret);
}

bool services__check_shard_spec(const thole_v1_ShardSpec *spec, struct check *ret)
{
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    if (type.size == 0 || type.size > 64) {
        return bad(ret, "spec.type", "a machine type is needed, such as \"kv\"");
    }
    if (!check_label("spec.type", type, 1, ret)) {
        return false;
    }
    if (!check_counts(spec, ret)) {
        return false;
    }
    if (thole_v1_ShardSpec_config(spec).size > 64 * KIB) {
        return bad(ret, "spec.config", "has more than %d bytes", 64 * KIB);
    }
    size_t count = 0;
    const upb_StringView *keys = thole_v1_ShardSpec_spread(spec, &count);
    if (count > 3) {
        return bad(ret, "spec.spread", "%zu tag keys are more than 3", count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!check_label("spec.spread", keys[i], 1, ret)) {
            return false;
        }
    }
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &count);
    if (!check_constraints("spec.constraints", constraints, count, ret)) {
        return false;
    }
    constraints = thole_v1_ShardSpec_leader_preference(spec, &count);
    return check_constraints("spec.leader_preference", constraints, count, ret);
}

bool services__check_pool_spec(const thole_v1_ShardPoolSpec *spec, struct check *ret)
{
    const thole_v1_ShardSpec *shard = thole_v1_ShardPoolSpec_shard(spec);
    if (shard == NULL) {
        return bad(ret, "spec.shard", "is needed: the spec of the pool's shards");
    }
    if (thole_v1_ShardPoolSpec_count(spec) > 100000) {
        return bad(ret, "spec.count", "%u is more than 100000", thole_v1_ShardPoolSpec_count(spec));
    }
    return services__check_shard_spec(shard, ret);
}

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
    if (name.size == 0) {
        services__call_refuse(c, field, "is needed");
        return false;
    }
    if (!registry_name_valid(services__name_slice(name))) {
        services__call_refuse(
            c, field,
            "\"%.*s\" is no name: lower case letters, digits, dots and dashes, at most %d",
            SHOWN(name), LIMIT_NAME_BYTES);
        return false;
    }
    return true;
}

bool services__call_request_id(struct call *c, upb_StringView id)
{
    const char *problem = text_label_problem(services__name_slice(id), 0);
    if (problem != NULL) {
        services__call_refuse(c, "request_id", "%s", problem);
        return false;
    }
    return true;
}

bool services__call_checked(struct call *c, bool ok, const struct check *check)
{
    if (!ok) {
        services__call_refuse(c, check->field, "%s", check->message);
    }
    return ok;
}
