/* What the registry accepts in names, labels, specs and roles: pure functions of the value alone.
 *
 * The control plane calls them before it proposes, so that a wrong request costs shard zero
 * nothing. Apply calls them again and has the last word. Both therefore refuse the same values with
 * the same code (INVALID_ARGUMENT), reason, field and message. Only apply checks what depends on
 * the state, such as whether a host runs the machine type. */
#ifndef REGISTRY_VALIDATE_H
#define REGISTRY_VALIDATE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/limits.h"
#include "thole/v1/access.upb.h"
#include "thole/v1/resources.upb.h"

#define REGISTRY_TAGS_MAX 64        /* of one host */
#define REGISTRY_CONSTRAINTS_MAX 32 /* in one list */
#define REGISTRY_VALUES_MAX 64      /* of one constraint */
#define REGISTRY_TYPES_MAX 64       /* machine types of one host */
#define REGISTRY_TYPE_BYTES 64
#define REGISTRY_CONFIG_BYTES (64 * KIB) /* a shard row is copied with each change of its status */
#define REGISTRY_TEXT_BYTES 512          /* addresses, messages */
#define REGISTRY_VOTERS_MAX 15           /* of one shard, witnesses among them */
#define REGISTRY_GROUPS_MAX 8            /* of non-voting replicas of one shard */
#define REGISTRY_SPREAD_MAX 3            /* tag keys of one shard */
#define REGISTRY_CONTROLLERS_MAX 8       /* named by one pause */
#define REGISTRY_POOL_SHARDS_MAX 100000
#define REGISTRY_KEYED_SHARDS 64 /* of a pool with keys whose spec gives no count */
#define REGISTRY_POOL_NAME_BYTES (LIMIT_NAME_BYTES - 8) /* room for "-99999" */
#define REGISTRY_ROLES_MAX 256      /* built-in roles that have a row among them */
#define REGISTRY_ROLE_RULES_MAX 64  /* of either kind in one role */
#define REGISTRY_RULE_VALUES_MAX 16 /* verbs, kinds or rights of one rule */
#define REGISTRY_RULE_NAMES_MAX 64  /* patterns of one rule */
#define REGISTRY_ROLE_MEMBERS_MAX 512
#define REGISTRY_ROLE_BYTES (64 * KIB) /* an encoded spec */
#define REGISTRY_TOKENS_MAX 4096       /* expired and revoked ones among them */
#define REGISTRY_TOKEN_HASH_BYTES 32
#define REGISTRY_TOKEN_LIFE_MS_MAX (INT64_C(3650) * 24 * 3600 * 1000)
/* Half of what a group may have, so that every replica can be replaced at once. */
#define REGISTRY_SPEC_REPLICAS_MAX (LIMIT_MEMBERS / 2)

_Static_assert(REGISTRY_CONFIG_BYTES * 2 < LIMIT_RESULT_BYTES, "a result holds a shard row");
_Static_assert(REGISTRY_VOTERS_MAX < REGISTRY_SPEC_REPLICAS_MAX, "voters are replicas");

#define REGISTRY_FIELD_BYTES 80

/* One field that violates a rule. */
struct registry_violation {
    /* TOO_LARGE: a list has more elements, or a value more bytes, than a limit of
     * docs/operations.md allows. BAD_REQUEST: everything else. */
    enum thole_reason reason;
    char field[REGISTRY_FIELD_BYTES]; /* its path: "spec.constraints[2].key" */
    char message[160];                /* what is wrong, without the path: "must not be empty" */
};

/* Each returns true, or false with `ret` filled. */

/* The rule of thole.v1.Host.name, for the name in `field`. */
bool registry_check_name(const char *field, struct slice name, struct registry_violation *ret);
bool registry_check_pool_name(const char *field, struct slice name, struct registry_violation *ret);
/* See text_label_problem. */
bool registry_check_label(const char *field, struct slice text, size_t bytes_min,
                          struct registry_violation *ret);
/* A message for people: it may have lines, but no NUL. */
bool registry_check_text(const char *field, struct slice text, size_t bytes_max,
                         struct registry_violation *ret);
/* The name of a machine type: a name, of at most REGISTRY_TYPE_BYTES. */
bool registry_check_machine_type(const char *field, struct slice type,
                                 struct registry_violation *ret);
bool registry_check_request_id(struct slice id, struct registry_violation *ret);
/* `field` is where the spec is ("host.spec"); its own fields are called "spec.tags" and so on. */
bool registry_check_host_spec(const char *field, const thole_v1_HostSpec *spec,
                              struct registry_violation *ret);
/* NULL, which says nothing, is accepted. */
bool registry_check_host_status(const thole_v1_HostStatus *status, struct registry_violation *ret);

/* Of a change, the type may be left out: then it stays. */
enum registry_spec_use { REGISTRY_SPEC_NEW, REGISTRY_SPEC_CHANGE };
bool registry_check_shard_spec(const char *field, const thole_v1_ShardSpec *spec,
                               enum registry_spec_use use, struct registry_violation *ret);
/* The fields of its shards' spec are called "spec.shard.voters" and so on. */
bool registry_check_pool_spec(const char *field, const thole_v1_ShardPoolSpec *spec,
                              enum registry_spec_use use, struct registry_violation *ret);
bool registry_check_role(int32_t role, struct registry_violation *ret);
/* Of a replica that a user creates: a witness would need placement to find its copies. */
bool registry_check_user_role(int32_t role, struct registry_violation *ret);
/* Of a built-in role, rules may be left out. */
bool registry_check_role_spec(const char *field, const thole_v1_RoleSpec *spec,
                              struct registry_violation *ret);
/* A name of a user, as certificates and tokens have it. */
bool registry_check_user(const char *field, struct slice user, struct registry_violation *ret);
bool registry_check_controllers(const int32_t *controllers, size_t count,
                                struct registry_violation *ret);

#endif
