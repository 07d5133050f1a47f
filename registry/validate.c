/* See validate.h. */
#include "registry/validate.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/address.h"
#include "base/slot.h"
#include "base/text.h"
#include "registry/registry_internal.h"

#define SPEC "spec"
#define POOL_SHARD "spec.shard"

/* How much of a wrong name is quoted. */
#define SHOWN_BYTES 60
#define SHOWN(s) (int)((s).size < SHOWN_BYTES ? (s).size : SHOWN_BYTES), (const char *)(s).data

bool registry__violates(struct registry_violation *ret, enum thole_reason reason, const char *field,
                        const char *format, ...)
{
    va_list args;
    ret->reason = reason;
    snprintf(ret->field, sizeof ret->field, "%s", field);
    va_start(args, format);
    vsnprintf(ret->message, sizeof ret->message, format, args);
    va_end(args);
    return false;
}

#define BAD REGISTRY__BAD
#define TOO_LARGE REGISTRY__TOO_LARGE

/* ---- Names and texts ------------------------------------------------------------------------- */

static bool is_name_char(uint8_t c, bool first)
{
    bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    return word || (!first && (c == '.' || c == '-'));
}

bool registry_name_is_valid(struct slice name)
{
    if (name.size == 0 || name.size > LIMIT_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        if (!is_name_char(name.data[i], i == 0)) {
            return false;
        }
    }
    return true;
}

bool registry_check_name(const char *field, struct slice name, struct registry_violation *ret)
{
    if (name.size == 0) {
        return BAD(ret, field, "is needed");
    }
    return registry_name_is_valid(name) ||
           BAD(ret, field,
               "\"%.*s\" is no name: 1 to %d lower case letters, digits, dots and dashes, "
               "the first a letter or digit",
               SHOWN(name), LIMIT_NAME_BYTES);
}

bool registry_check_pool_name(const char *field, struct slice name, struct registry_violation *ret)
{
    if (name.size > REGISTRY_POOL_NAME_BYTES) {
        return BAD(ret, field,
                   "a pool's name has at most %d bytes, as its shards are named after it",
                   REGISTRY_POOL_NAME_BYTES);
    }
    return registry_check_name(field, name, ret);
}

bool registry_check_label(const char *field, struct slice text, size_t bytes_min,
                          struct registry_violation *ret)
{
    const char *problem = text_label_problem(text, bytes_min);
    return problem == NULL || BAD(ret, field, "%s", problem);
}

bool registry_check_text(const char *field, struct slice text, size_t bytes_max,
                         struct registry_violation *ret)
{
    if (text.size > bytes_max || (text.size > 0 && memchr(text.data, 0, text.size) != NULL)) {
        return BAD(ret, field, "has more than %zu bytes, or a NUL", bytes_max);
    }
    return true;
}

bool registry_check_request_id(struct slice id, struct registry_violation *ret)
{
    return registry_check_label("request_id", id, 0, ret);
}

bool registry_check_machine_type(const char *field, struct slice type,
                                 struct registry_violation *ret)
{
    if (type.size == 0) {
        return BAD(ret, field, "is needed");
    }
    return (type.size <= REGISTRY_TYPE_BYTES && registry_name_is_valid(type)) ||
           BAD(ret, field,
               "\"%.*s\" is no machine type: 1 to %d lower case letters, digits, dots and dashes, "
               "the first a letter or digit",
               SHOWN(type), REGISTRY_TYPE_BYTES);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static bool check_tags(const thole_v1_HostSpec *spec, struct registry_violation *ret)
{
    if (thole_v1_HostSpec_tags_size(spec) > REGISTRY_TAGS_MAX) {
        return TOO_LARGE(ret, "spec.tags", "%zu tags are more than %d",
                         thole_v1_HostSpec_tags_size(spec), REGISTRY_TAGS_MAX);
    }
    size_t it = kUpb_Map_Begin;
    const thole_v1_HostSpec_TagsEntry *tag;
    while ((tag = thole_v1_HostSpec_tags_next(spec, &it)) != NULL) {
        struct slice key = registry_str(thole_v1_HostSpec_TagsEntry_key(tag));
        struct slice value = registry_str(thole_v1_HostSpec_TagsEntry_value(tag));
        const char *problem = text_label_problem(key, 1);
        if (problem != NULL) {
            return BAD(ret, "spec.tags", "a key %s", problem);
        }
        problem = text_label_problem(value, 0);
        if (problem != NULL) {
            return BAD(ret, "spec.tags", "the value of \"%.*s\" %s", SHOWN(key), problem);
        }
    }
    return true;
}

bool registry_check_host_spec(const char *field, const thole_v1_HostSpec *spec,
                              struct registry_violation *ret)
{
    if (spec == NULL) {
        return BAD(ret, field, "is needed");
    }
    if (!check_tags(spec, ret)) {
        return false;
    }
    switch (thole_v1_HostSpec_state(spec)) {
    case thole_v1_HOST_STATE_UNSPECIFIED: /* leave it as it is */
    case thole_v1_HOST_STATE_ACTIVE:
    case thole_v1_HOST_STATE_CORDONED:
    case thole_v1_HOST_STATE_DRAINING:
        return true;
    case thole_v1_HOST_STATE_REMOVED:
        return BAD(ret, "spec.state", "a host is removed with DeleteHost, after it was drained");
    }
    return BAD(ret, "spec.state", "%d is no state", (int)thole_v1_HostSpec_state(spec));
}

static bool check_address(upb_StringView address, struct registry_violation *ret)
{
    static const char field[] = "status.address";
    if (!registry_check_text(field, registry_str(address), REGISTRY_TEXT_BYTES, ret)) {
        return false;
    }
    return address.size == 0 || address_valid(registry_str(address), ADDRESS_REACH) ||
           BAD(ret, field,
               "must be HOST:PORT where others reach the host: HOST a name or an IP address "
               "(IPv6 in brackets), PORT 1 to 65535");
}

bool registry_check_host_status(const thole_v1_HostStatus *status, struct registry_violation *ret)
{
    if (status == NULL) {
        return true;
    }
    int32_t liveness = thole_v1_HostStatus_liveness(status);
    if (liveness < thole_v1_HOST_LIVENESS_UNSPECIFIED || liveness > thole_v1_HOST_LIVENESS_DEAD) {
        return BAD(ret, "status.liveness", "%d is no liveness", (int)liveness);
    }
    int32_t disk = thole_v1_HostStatus_disk(status);
    if (disk < thole_v1_HOST_DISK_UNSPECIFIED || disk > thole_v1_HOST_DISK_STALLED) {
        return BAD(ret, "status.disk", "%d is no state of a disk", (int)disk);
    }
    int32_t clock = thole_v1_HostStatus_clock(status);
    if (clock < thole_v1_HOST_CLOCK_UNSPECIFIED || clock > thole_v1_HOST_CLOCK_WRONG) {
        return BAD(ret, "status.clock", "%d is no state of a clock", (int)clock);
    }
    if (thole_v1_HostStatus_has_failures(status)) {
        return BAD(ret, "status.failures", "is written by the registry alone");
    }
    if (!check_address(thole_v1_HostStatus_address(status), ret) ||
        !registry_check_label("status.version", registry_str(thole_v1_HostStatus_version(status)),
                              0, ret)) {
        return false;
    }
    size_t count = 0;
    const thole_v1_MachineType *const *types = thole_v1_HostStatus_machine_types(status, &count);
    if (count > REGISTRY_TYPES_MAX) {
        return TOO_LARGE(ret, "status.machine_types", "%zu types are more than %d", count,
                         REGISTRY_TYPES_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        char field[REGISTRY_FIELD_BYTES];
        snprintf(field, sizeof field, "status.machine_types[%zu].name", i);
        if (!registry_check_machine_type(field, registry_str(thole_v1_MachineType_name(types[i])),
                                         ret)) {
            return false;
        }
    }
    return true;
}

/* ---- Constraints ----------------------------------------------------------------------------- */

static bool check_values(const char *list, const thole_v1_Constraint *k, size_t i,
                         struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    size_t count = 0;
    const upb_StringView *values = thole_v1_Constraint_values(k, &count);
    snprintf(field, sizeof field, "%s[%zu].values", list, i);
    if (count > REGISTRY_VALUES_MAX) {
        return TOO_LARGE(ret, field, "%zu values are more than %d", count, REGISTRY_VALUES_MAX);
    }
    for (size_t v = 0; v < count; v++) {
        if (!registry_check_label(field, registry_str(values[v]), 0, ret)) {
            return false;
        }
    }
    switch (thole_v1_Constraint_operator(k)) {
    case thole_v1_CONSTRAINT_OPERATOR_IN:
    case thole_v1_CONSTRAINT_OPERATOR_NOT_IN:
        return count > 0 || BAD(ret, field, "IN and NOT_IN need at least one value");
    case thole_v1_CONSTRAINT_OPERATOR_EXISTS:
    case thole_v1_CONSTRAINT_OPERATOR_NOT_EXISTS:
        return count == 0 || BAD(ret, field, "EXISTS and NOT_EXISTS take no values");
    case thole_v1_CONSTRAINT_OPERATOR_UNSPECIFIED:
        break;
    }
    snprintf(field, sizeof field, "%s[%zu].operator", list, i);
    return BAD(ret, field, "must be IN, NOT_IN, EXISTS or NOT_EXISTS");
}

static bool check_constraints(const char *list, const thole_v1_Constraint *const *constraints,
                              size_t count, struct registry_violation *ret)
{
    if (count > REGISTRY_CONSTRAINTS_MAX) {
        return TOO_LARGE(ret, list, "%zu constraints are more than %d", count,
                         REGISTRY_CONSTRAINTS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        char field[REGISTRY_FIELD_BYTES];
        snprintf(field, sizeof field, "%s[%zu].key", list, i);
        if (!registry_check_label(field, registry_str(thole_v1_Constraint_key(constraints[i])), 1,
                                  ret) ||
            !check_values(list, constraints[i], i, ret)) {
            return false;
        }
    }
    return true;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

/* A field of the spec that is at `at`. */
static const char *path(char field[static REGISTRY_FIELD_BYTES], const char *at, const char *name)
{
    snprintf(field, REGISTRY_FIELD_BYTES, "%s.%s", at, name);
    return field;
}

static bool check_spec_type(const char *at, const thole_v1_ShardSpec *spec,
                            enum registry_spec_use use, struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    struct slice type = registry_str(thole_v1_ShardSpec_type(spec));
    if (type.size == 0 && use == REGISTRY_SPEC_CHANGE) {
        return true;
    }
    if (type.size == 0) {
        return BAD(ret, path(field, at, "type"), "a machine type is needed, such as \"kv\"");
    }
    if (slice_equal(type, slice_str(REGISTRY_MACHINE_TYPE))) {
        return BAD(ret, path(field, at, "type"), "\"%s\" is for shard zero alone",
                   REGISTRY_MACHINE_TYPE);
    }
    return registry_check_machine_type(path(field, at, "type"), type, ret);
}

/* `replicas`: those that vote. */
static bool check_groups(const char *at, const thole_v1_ShardSpec *spec, uint64_t replicas,
                         struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    size_t count = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &count);
    if (count > REGISTRY_GROUPS_MAX) {
        return TOO_LARGE(ret, path(field, at, "non_voting"), "%zu groups are more than %d", count,
                         REGISTRY_GROUPS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        size_t constraint_count = 0;
        const thole_v1_Constraint *const *constraints =
            thole_v1_ReplicaGroup_constraints(groups[i], &constraint_count);
        snprintf(field, sizeof field, "%s.non_voting[%zu]", at, i);
        if ((thole_v1_ReplicaGroup_count(groups[i]) > 0) ==
            thole_v1_ReplicaGroup_cover(groups[i])) {
            return BAD(ret, field, "needs either a count or cover");
        }
        replicas += thole_v1_ReplicaGroup_count(groups[i]);
        snprintf(field, sizeof field, "%s.non_voting[%zu].constraints", at, i);
        if (!check_constraints(field, constraints, constraint_count, ret)) {
            return false;
        }
    }
    return replicas <= REGISTRY_SPEC_REPLICAS_MAX ||
           BAD(ret, path(field, at, "non_voting"), "a spec asks for at most %d replicas in all",
               REGISTRY_SPEC_REPLICAS_MAX);
}

static bool check_counts(const char *at, const thole_v1_ShardSpec *spec,
                         struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    uint64_t voters = thole_v1_ShardSpec_voters(spec);
    uint64_t witnesses = thole_v1_ShardSpec_witnesses(spec);
    if (voters < 1 || voters > REGISTRY_VOTERS_MAX) {
        return BAD(ret, path(field, at, "voters"), "must be 1 to %d", REGISTRY_VOTERS_MAX);
    }
    if (witnesses >= voters) {
        return BAD(ret, path(field, at, "witnesses"), "must be less than voters");
    }
    if (voters + witnesses > REGISTRY_VOTERS_MAX) { /* the voters alone would do */
        return BAD(ret, path(field, at, "witnesses"),
                   "%" PRIu64 " with %" PRIu64 " voters are more than %d", witnesses, voters,
                   REGISTRY_VOTERS_MAX);
    }
    return check_groups(at, spec, voters + witnesses, ret);
}

static bool check_spread(const char *at, const thole_v1_ShardSpec *spec,
                         struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    size_t count = 0;
    const upb_StringView *keys = thole_v1_ShardSpec_spread(spec, &count);
    path(field, at, "spread");
    if (count > REGISTRY_SPREAD_MAX) {
        return TOO_LARGE(ret, field, "%zu tag keys are more than %d", count, REGISTRY_SPREAD_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        if (!registry_check_label(field, registry_str(keys[i]), 1, ret)) {
            return false;
        }
        for (size_t k = 0; k < i; k++) {
            if (slice_equal(registry_str(keys[i]), registry_str(keys[k]))) {
                return BAD(ret, field, "the tag key \"%.*s\" is there twice", SHOWN(keys[i]));
            }
        }
    }
    return true;
}

static bool check_spec_at(const char *at, const thole_v1_ShardSpec *spec,
                          enum registry_spec_use use, struct registry_violation *ret)
{
    char field[REGISTRY_FIELD_BYTES];
    if (!check_spec_type(at, spec, use, ret)) {
        return false;
    }
    if (thole_v1_ShardSpec_config(spec).size > REGISTRY_CONFIG_BYTES) {
        return TOO_LARGE(ret, path(field, at, "config"), "has more than %d bytes",
                         REGISTRY_CONFIG_BYTES);
    }
    if (!check_counts(at, spec, ret) || !check_spread(at, spec, ret)) {
        return false;
    }
    size_t count = 0;
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &count);
    if (!check_constraints(path(field, at, "constraints"), constraints, count, ret)) {
        return false;
    }
    constraints = thole_v1_ShardSpec_leader_preference(spec, &count);
    return check_constraints(path(field, at, "leader_preference"), constraints, count, ret);
}

bool registry_check_shard_spec(const char *field, const thole_v1_ShardSpec *spec,
                               enum registry_spec_use use, struct registry_violation *ret)
{
    return spec == NULL ? BAD(ret, field, "is needed") : check_spec_at(SPEC, spec, use, ret);
}

bool registry_check_pool_spec(const char *field, const thole_v1_ShardPoolSpec *spec,
                              enum registry_spec_use use, struct registry_violation *ret)
{
    if (spec == NULL) {
        return BAD(ret, field, "is needed");
    }
    if (thole_v1_ShardPoolSpec_count(spec) > REGISTRY_POOL_SHARDS_MAX) {
        return TOO_LARGE(ret, "spec.count", "%" PRIu32 " is more than %d",
                         thole_v1_ShardPoolSpec_count(spec), REGISTRY_POOL_SHARDS_MAX);
    }
    int32_t keys = thole_v1_ShardPoolSpec_keys(spec);
    if (keys != thole_v1_POOL_KEYS_UNSPECIFIED && keys != thole_v1_POOL_KEYS_SLOTS) {
        return BAD(ret, "spec.keys", "must be SLOTS, or be left out");
    }
    if (keys == thole_v1_POOL_KEYS_SLOTS && thole_v1_ShardPoolSpec_count(spec) > SLOT_COUNT) {
        return TOO_LARGE(ret, "spec.count", "%" PRIu32 " is more than the %d slots of keys",
                         thole_v1_ShardPoolSpec_count(spec), SLOT_COUNT);
    }
    if (thole_v1_ShardPoolSpec_shard(spec) == NULL) {
        return BAD(ret, POOL_SHARD, "is needed: the spec of the pool's shards");
    }
    return check_spec_at(POOL_SHARD, thole_v1_ShardPoolSpec_shard(spec), use, ret);
}

/* ---- Replicas and operations ----------------------------------------------------------------- */

bool registry_check_role(int32_t role, struct registry_violation *ret)
{
    return (role >= thole_v1_REPLICA_ROLE_VOTER && role <= thole_v1_REPLICA_ROLE_WITNESS) ||
           BAD(ret, "role", "must be VOTER, NON_VOTING or WITNESS");
}

bool registry_check_user_role(int32_t role, struct registry_violation *ret)
{
    return role == thole_v1_REPLICA_ROLE_VOTER || role == thole_v1_REPLICA_ROLE_NON_VOTING ||
           BAD(ret, "role", "must be VOTER or NON_VOTING: witnesses are placed by the spec");
}

bool registry_check_controllers(const int32_t *controllers, size_t count,
                                struct registry_violation *ret)
{
    if (count > REGISTRY_CONTROLLERS_MAX) {
        return TOO_LARGE(ret, "controllers", "%zu controllers are more than %d", count,
                         REGISTRY_CONTROLLERS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        if (controllers[i] <= thole_v1_CONTROLLER_UNSPECIFIED ||
            controllers[i] > thole_v1_CONTROLLER_BALANCE) {
            return BAD(ret, "controllers", "%d is no controller", (int)controllers[i]);
        }
    }
    return true;
}
