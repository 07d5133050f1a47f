/* What users and hosts send is checked here, field by field, before it becomes a row. */
#include "registry/registry_internal.h"

#include "base/address.h"

#include <string.h>

#include "base/text.h"

static bool name_char(uint8_t c, bool first)
{
    bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    return word || (!first && (c == '.' || c == '-'));
}

bool registry_name_valid(struct slice name)
{
    if (name.size == 0 || name.size > LIMIT_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        if (!name_char(name.data[i], i == 0)) {
            return false;
        }
    }
    return true;
}

static enum thole_code check_name(struct txn *t, const char *field, struct slice name)
{
    if (registry_name_valid(name)) {
        return THOLE_OK;
    }
    return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "%s: must be 1 to %d lower case letters, digits, dots and dashes, and begin "
                      "with a letter or digit",
                      field, LIMIT_NAME_BYTES);
}

enum thole_code registry__check_shard_name(struct txn *t, struct slice name)
{
    return check_name(t, "shard name", name);
}

enum thole_code registry__check_pool_name(struct txn *t, struct slice name)
{
    if (name.size > REGISTRY_POOL_NAME_BYTES) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "pool name: at most %d bytes", REGISTRY_POOL_NAME_BYTES);
    }
    return check_name(t, "pool name", name);
}

enum thole_code registry__check_label(struct txn *t, const char *field, upb_StringView text,
                                      size_t bytes_min)
{
    const char *problem = text_label_problem(registry_str(text), bytes_min);
    return problem == NULL ? THOLE_OK
                           : THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                        "%s: %s", field, problem);
}

enum thole_code registry__check_text(struct txn *t, const char *field, upb_StringView text,
                                     size_t bytes_max)
{
    if (text.size > bytes_max || memchr(text.data != NULL ? text.data : "", 0, text.size) != NULL) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s: more than %zu bytes, or a NUL", field, bytes_max);
    }
    return THOLE_OK;
}

static enum thole_code check_required(struct txn *t, const char *field, upb_StringView text,
                                      size_t bytes_max)
{
    if (text.size == 0) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s: must not be empty", field);
    }
    return registry__check_text(t, field, text, bytes_max);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

enum thole_code registry__check_tags(struct txn *t, const thole_v1_HostSpec *spec)
{
    if (spec == NULL) {
        return THOLE_OK;
    }
    if (thole_v1_HostSpec_tags_size(spec) > REGISTRY_TAGS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "spec.tags: at most %d", REGISTRY_TAGS_MAX);
    }
    size_t it = kUpb_Map_Begin;
    const thole_v1_HostSpec_TagsEntry *tag;
    enum thole_code code = THOLE_OK;
    while (code == THOLE_OK && (tag = thole_v1_HostSpec_tags_next(spec, &it)) != NULL) {
        code = registry__check_label(t, "spec.tags: key", thole_v1_HostSpec_TagsEntry_key(tag), 1);
        if (code == THOLE_OK) {
            code = registry__check_label(t, "spec.tags: value",
                                         thole_v1_HostSpec_TagsEntry_value(tag), 0);
        }
    }
    return code;
}

enum thole_code registry__check_host_status(struct txn *t, const thole_v1_HostStatus *status)
{
    if (status == NULL) {
        return THOLE_OK;
    }
    int32_t liveness = thole_v1_HostStatus_liveness(status);
    if (liveness < thole_v1_HOST_LIVENESS_UNSPECIFIED || liveness > thole_v1_HOST_LIVENESS_DEAD) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "status.liveness: unknown value %d", (int)liveness);
    }
    int32_t disk = thole_v1_HostStatus_disk(status);
    if (disk < thole_v1_HOST_DISK_UNSPECIFIED || disk > thole_v1_HOST_DISK_STALLED) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "status.disk: unknown value %d", (int)disk);
    }
    if (thole_v1_HostStatus_has_failures(status)) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "status.failures: not for hosts to say");
    }
    enum thole_code code = registry__check_text(
        t, "status.address", thole_v1_HostStatus_address(status), REGISTRY_TEXT_BYTES);
    upb_StringView address = thole_v1_HostStatus_address(status);
    if (code == THOLE_OK && address.size > 0) {
        code = address_check("status.address", registry_str(address), ADDRESS_REACH, &t->st);
    }
    if (code == THOLE_OK) {
        code = registry__check_label(t, "status.version", thole_v1_HostStatus_version(status), 0);
    }
    size_t count = 0;
    const thole_v1_MachineType *const *types = thole_v1_HostStatus_machine_types(status, &count);
    if (code == THOLE_OK && count > REGISTRY_TYPES_MAX) {
        code = THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "status.machine_types: at most %d", REGISTRY_TYPES_MAX);
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        code = check_required(t, "status.machine_types: name", thole_v1_MachineType_name(types[i]),
                              REGISTRY_TYPE_BYTES);
    }
    return code;
}

enum thole_code registry__check_host(struct txn *t, const thole_v1_Host *host, struct uuid *ret_id)
{
    if (host == NULL) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "host: missing");
    }
    if (!registry__parse_uuid(thole_v1_Host_id(host), ret_id)) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "host.id: not a UUID in text form");
    }
    enum thole_code code = check_name(t, "host.name", registry_str(thole_v1_Host_name(host)));
    if (code == THOLE_OK) {
        code = registry__check_tags(t, thole_v1_Host_spec(host));
    }
    if (code == THOLE_OK) {
        code = registry__check_host_status(t, thole_v1_Host_status(host));
    }
    return code;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static enum thole_code check_constraint(struct txn *t, const char *field,
                                        const thole_v1_Constraint *c)
{
    enum thole_code code = registry__check_label(t, field, thole_v1_Constraint_key(c), 1);
    if (code != THOLE_OK) {
        return code;
    }
    int32_t op = thole_v1_Constraint_operator(c);
    if (op <= thole_v1_CONSTRAINT_OPERATOR_UNSPECIFIED ||
        op > thole_v1_CONSTRAINT_OPERATOR_NOT_EXISTS) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s: unknown operator %d", field, (int)op);
    }
    size_t count = 0;
    const upb_StringView *values = thole_v1_Constraint_values(c, &count);
    bool takes_values =
        op == thole_v1_CONSTRAINT_OPERATOR_IN || op == thole_v1_CONSTRAINT_OPERATOR_NOT_IN;
    if (takes_values != (count > 0) || count > REGISTRY_VALUES_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "%s: IN and NOT_IN need 1 to %d values, others none", field,
                          REGISTRY_VALUES_MAX);
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        code = registry__check_label(t, field, values[i], 0);
    }
    return code;
}

static enum thole_code check_constraints(struct txn *t, const char *field,
                                         const thole_v1_Constraint *const *constraints,
                                         size_t count)
{
    enum thole_code code = THOLE_OK;
    if (count > REGISTRY_CONSTRAINTS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE, "%s: at most %d",
                          field, REGISTRY_CONSTRAINTS_MAX);
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        code = check_constraint(t, field, constraints[i]);
    }
    return code;
}

static enum thole_code check_groups(struct txn *t, const thole_v1_ShardSpec *spec, uint64_t *io)
{
    size_t count = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &count);
    enum thole_code code = THOLE_OK;
    if (count > REGISTRY_GROUPS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "spec.non_voting: at most %d groups", REGISTRY_GROUPS_MAX);
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        size_t constraint_count = 0;
        const thole_v1_Constraint *const *constraints =
            thole_v1_ReplicaGroup_constraints(groups[i], &constraint_count);
        if ((thole_v1_ReplicaGroup_count(groups[i]) > 0) ==
            thole_v1_ReplicaGroup_cover(groups[i])) {
            return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "spec.non_voting: a group needs either a count or cover");
        }
        *io += thole_v1_ReplicaGroup_count(groups[i]);
        code = check_constraints(t, "spec.non_voting: constraints", constraints, constraint_count);
    }
    return code;
}

static enum thole_code check_counts(struct txn *t, const thole_v1_ShardSpec *spec)
{
    uint64_t voters = thole_v1_ShardSpec_voters(spec);
    uint64_t witnesses = thole_v1_ShardSpec_witnesses(spec);
    uint64_t all = voters + witnesses;
    if (voters < 1 || voters > REGISTRY_VOTERS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "spec.voters: must be 1 to %d", REGISTRY_VOTERS_MAX);
    }
    if (witnesses >= voters || all > REGISTRY_VOTERS_MAX) {
        if (witnesses > 0) {
            return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "spec.witnesses: must be less than voters, and both together at "
                              "most %d",
                              REGISTRY_VOTERS_MAX);
        }
    }
    enum thole_code code = check_groups(t, spec, &all);
    if (code == THOLE_OK && all > REGISTRY_SPEC_REPLICAS_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "spec.non_voting: at most %d replicas in all",
                          REGISTRY_SPEC_REPLICAS_MAX);
    }
    return code;
}

static enum thole_code check_spread(struct txn *t, const thole_v1_ShardSpec *spec)
{
    size_t count = 0;
    const upb_StringView *keys = thole_v1_ShardSpec_spread(spec, &count);
    enum thole_code code = THOLE_OK;
    if (count > REGISTRY_SPREAD_MAX) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "spec.spread: at most %d tag keys", REGISTRY_SPREAD_MAX);
    }
    for (size_t i = 0; code == THOLE_OK && i < count; i++) {
        code = registry__check_label(t, "spec.spread", keys[i], 1);
        for (size_t k = 0; code == THOLE_OK && k < i; k++) {
            if (slice_equal(registry_str(keys[i]), registry_str(keys[k]))) {
                code = THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                                  "spec.spread: a tag key is there twice");
            }
        }
    }
    return code;
}

enum thole_code registry__check_shard_spec(struct txn *t, const thole_v1_ShardSpec *spec)
{
    upb_StringView type = thole_v1_ShardSpec_type(spec);
    enum thole_code code = check_required(t, "spec.type", type, REGISTRY_TYPE_BYTES);
    if (code == THOLE_OK && slice_equal(registry_str(type), slice_str(REGISTRY_MACHINE_TYPE))) {
        code = THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "spec.type: %s is shard zero's alone", REGISTRY_MACHINE_TYPE);
    }
    if (code == THOLE_OK && thole_v1_ShardSpec_config(spec).size > REGISTRY_CONFIG_BYTES) {
        code = THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "spec.config: at most %d bytes", REGISTRY_CONFIG_BYTES);
    }
    if (code == THOLE_OK) {
        code = check_counts(t, spec);
    }
    if (code == THOLE_OK) {
        code = check_spread(t, spec);
    }
    size_t count = 0;
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &count);
    if (code == THOLE_OK) {
        code = check_constraints(t, "spec.constraints", constraints, count);
    }
    if (code == THOLE_OK) {
        constraints = thole_v1_ShardSpec_leader_preference(spec, &count);
        code = check_constraints(t, "spec.leader_preference", constraints, count);
    }
    return code;
}

enum thole_code registry__check_role(struct txn *t, int32_t role)
{
    if (role < thole_v1_REPLICA_ROLE_VOTER || role > thole_v1_REPLICA_ROLE_WITNESS) {
        return THOLE_FAIL(&t->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "role: must be VOTER, NON_VOTING or WITNESS");
    }
    return THOLE_OK;
}
