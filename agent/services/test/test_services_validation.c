/* Every wrong name, label, spec and role is refused twice in the same way. The control plane
 * refuses it before it proposes; shard zero's machine has the final decision. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/services/test/services_fixture.h"
#include "base/limits.h"
#include "proto/decode.h"
#include "registry/registry.h"
#include "registry/validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define IN thole_v1_CONSTRAINT_OPERATOR_IN
#define EXISTS thole_v1_CONSTRAINT_OPERATOR_EXISTS
#define BAD THOLE_REASON_BAD_REQUEST
#define TOO_LARGE THOLE_REASON_TOO_LARGE

/* ---- A machine of shard zero without an engine ----------------------------------------------- */

struct machine {
    struct registry *registry;
    const struct thole_machine_type *type;
    void *machine;
    uint64_t index;
    uint64_t code; /* of the last command */
    const thole_registry_v1_Result *result;
};

static struct services_fixture *host;
static struct machine zero;

struct memory_sink {
    struct thole_sink sink;
    struct bytes bytes;
};

static enum thole_code memory_write(struct thole_sink *s, const void *data, size_t size)
{
    bytes_append(&((struct memory_sink *)(void *)s)->bytes, data, size);
    return THOLE_OK;
}

static void machine_run(const thole_registry_v1_Command *c)
{
    size_t size = 0;
    const char *bytes = thole_registry_v1_Command_serialize(c, host->arena, &size);
    struct memory_sink sink = {.sink = {sizeof(struct thole_sink), memory_write}};
    struct thole_entry entry = {
        .size = sizeof entry,
        .kind = THOLE_ENTRY_COMMAND,
        .index = ++zero.index,
        .command = {bytes, size},
        .result = &sink.sink,
    };
    struct thole_apply batch = {
        .size = sizeof batch,
        .entry_size = sizeof entry,
        .entries = &entry,
        .entry_count = 1,
        .applied_index = zero.index,
    };
    assert_int_equal(zero.type->apply(zero.machine, &batch, NULL), THOLE_OK);
    zero.code = entry.code;
    zero.result = PROTO_DECODE(thole_registry_v1_Result, bytes_slice(&sink.bytes), host->arena);
    assert_non_null(zero.result);
    bytes_deinit(&sink.bytes);
}

static thole_registry_v1_Operation *operation(thole_registry_v1_Command **ret)
{
    *ret = registry_command_new("user", 1, host->arena);
    return thole_registry_v1_Command_add_operations(*ret, host->arena);
}

static void machine_bootstrap(void)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_Bootstrap *b =
        thole_registry_v1_Operation_mutable_bootstrap(operation(&c), host->arena);
    thole_registry_v1_Bootstrap_set_cluster_id(b, sv("0123456789abcdef"));
    thole_v1_Host *row = thole_registry_v1_Bootstrap_add_hosts(b, host->arena);
    thole_v1_Host_set_name(row, sv("h1"));
    thole_v1_Host_set_id(row, sv("6b1c5a52-3f0e-4d0b-9a34-7d5c0f3e2a11"));
    thole_v1_HostStatus *status = thole_v1_Host_mutable_status(row, host->arena);
    thole_v1_HostStatus_set_address(status, sv("127.0.0.1:7000"));
    thole_v1_MachineType_set_name(thole_v1_HostStatus_add_machine_types(status, host->arena),
                                  sv("counter"));
    machine_run(c);
    assert_int_equal(zero.code, THOLE_OK);
}

static int setup(void **state)
{
    const struct thole_machine_env env = {.size = sizeof env, .version = 1, .replica_id = 1};
    struct thole_machine_env own = env;
    host = services_fixture_new();
    zero.registry = registry_new();
    zero.type = registry_machine_type(zero.registry);
    own.type_ctx = zero.type->type_ctx;
    assert_int_equal(zero.type->open(&own, &zero.machine, NULL), THOLE_OK);
    machine_bootstrap();
    *state = host;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    zero.type->close(zero.machine);
    registry_free(zero.registry);
    services_fixture_free(host);
    return 0;
}

/* ---- Both answers ---------------------------------------------------------------------------- */

static const char *text(upb_StringView s, char ret[static 256])
{
    snprintf(ret, 256, "%.*s", (int)s.size, s.size > 0 ? s.data : "");
    return ret;
}

/* `shown`: the row's name in failure messages. */
static void assert_refused(const void *reply, const char *shown, enum thole_reason reason,
                           const char *field)
{
    char a[256], b[256];
    if (reply != NULL || host->st.code != THOLE_INVALID_ARGUMENT || host->st.reason != reason) {
        fail_msg("%s: the control plane answered %s %s: %s", shown,
                 reply != NULL ? "OK" : thole_code_name(host->st.code),
                 thole_reason_name(host->st.reason), host->st.message);
    }
    if (zero.code != THOLE_INVALID_ARGUMENT) {
        fail_msg("%s: the machine answered %s: %s", shown,
                 thole_code_name((enum thole_code)zero.code),
                 text(thole_registry_v1_Result_message(zero.result), a));
    }
    assert_string_equal(text(thole_registry_v1_Result_reason(zero.result), a),
                        thole_reason_name(reason));
    assert_string_equal(text(thole_registry_v1_Result_field(zero.result), a), field);
    assert_string_equal(text(thole_registry_v1_Result_message(zero.result), b), host->st.message);
    assert_int_equal(strncmp(host->st.message, field, strlen(field)), 0);
    assert_int_equal(strncmp(host->st.message + strlen(field), ": ", 2), 0);
}

/* ---- Specs ----------------------------------------------------------------------------------- */

struct constraint {
    const char *key;
    int32_t operator;
    size_t values;
    const char *value;
};

/* A spec with one fault. A constraint without a key ends its list. Text that is no UTF-8 is not
 * here: protobuf refuses it before any check, except in maps such as tags. */
struct spec {
    const char *type;
    uint32_t voters, witnesses;
    size_t config_bytes;
    size_t groups;
    uint32_t group_count;
    bool group_cover;
    struct constraint group_constraint;
    const char *spread[5];
    struct constraint constraints[2];
    size_t constraint_times; /* the first one; 0: once */
    struct constraint preference;
    /* The error; in a pool, "spec" is "spec.shard". */
    enum thole_reason reason;
    const char *field;
};

static char long_text[LIMIT_NAME_BYTES + 2];    /* longer than any label */
static char long_type[REGISTRY_TYPE_BYTES + 2]; /* a label, but too long for a type */

#define OK_SPEC .type = "counter", .voters = 1
static const struct spec wrong_specs[] = {
    {.type = "", .voters = 1, .reason = BAD, .field = "spec.type"},
    {.type = long_type, .voters = 1, .reason = BAD, .field = "spec.type"},
    {.type = "a\nb", .voters = 1, .reason = BAD, .field = "spec.type"},
    {.type = "registry", .voters = 1, .reason = BAD, .field = "spec.type"},
    {OK_SPEC, .config_bytes = REGISTRY_CONFIG_BYTES + 1, .reason = TOO_LARGE,
     .field = "spec.config"},
    {.type = "counter", .voters = 0, .reason = BAD, .field = "spec.voters"},
    {.type = "counter", .voters = 16, .reason = BAD, .field = "spec.voters"},
    {.type = "counter", .voters = UINT32_MAX, .reason = BAD, .field = "spec.voters"},
    {.type = "counter", .voters = 3, .witnesses = 3, .reason = BAD, .field = "spec.witnesses"},
    {.type = "counter", .voters = 9, .witnesses = 7, .reason = BAD, .field = "spec.witnesses"},
    {.type = "counter",
     .voters = 2,
     .witnesses = UINT32_MAX,
     .reason = BAD,
     .field = "spec.witnesses"},
    {OK_SPEC, .groups = 9, .group_count = 1, .reason = TOO_LARGE, .field = "spec.non_voting"},
    {OK_SPEC, .groups = 2, .reason = BAD, .field = "spec.non_voting[0]"},
    {OK_SPEC, .groups = 1, .group_count = 1, .group_cover = true, .reason = BAD,
     .field = "spec.non_voting[0]"},
    {OK_SPEC, .groups = 1, .group_count = 32, .reason = BAD, .field = "spec.non_voting"},
    {OK_SPEC, .groups = 8, .group_count = UINT32_MAX, .reason = BAD, .field = "spec.non_voting"},
    {OK_SPEC, .groups = 1, .group_count = 1,
     .group_constraint = {.key = "", .operator= EXISTS },
                          .reason = BAD,
                          .field = "spec.non_voting[0].constraints[0].key"},
     {OK_SPEC, .spread = {"a", "b", "c", "d"}, .reason = TOO_LARGE, .field = "spec.spread"},
     {OK_SPEC, .spread = {""}, .reason = BAD, .field = "spec.spread"},
     {OK_SPEC, .spread = {"zone", "zone"}, .reason = BAD, .field = "spec.spread"},
     {OK_SPEC, .spread = {long_text}, .reason = BAD, .field = "spec.spread"},
     {OK_SPEC,
      .constraints = {{.key = "a", .operator= EXISTS } }, .constraint_times = 33,
                      .reason = TOO_LARGE, .field = "spec.constraints"},
      {OK_SPEC,
       .constraints = {{.key = "", .operator= EXISTS } }, .reason = BAD,
                       .field = "spec.constraints[0].key"},
       {OK_SPEC,
        .constraints = {{.key = "a", .operator= EXISTS },
                         {.key = "b\x7f", .operator= EXISTS } },
                         .reason = BAD,
                         .field = "spec.constraints[1].key"},
        {OK_SPEC,
         .constraints = {{.key = "a", .operator= 0 } }, .reason = BAD,
                         .field = "spec.constraints[0].operator"},
         {OK_SPEC,
          .constraints = {{.key = "a", .operator= 77 } }, .reason = BAD,
                          .field = "spec.constraints[0].operator"},
          {OK_SPEC, .constraints = {{.key = "a", .operator= - 1 } }, .reason = BAD,
                                    .field = "spec.constraints[0].operator"},
                    {OK_SPEC, .constraints = {{.key = "a", .operator= IN } }, .reason = BAD,
                                              .field = "spec.constraints[0].values"},
                              {OK_SPEC, .constraints = {{"a", EXISTS, 1, "x"}}, .reason = BAD,
                               .field = "spec.constraints[0].values"},
                              {OK_SPEC, .constraints = {{"a", IN, 65, "x"}}, .reason = TOO_LARGE,
                               .field = "spec.constraints[0].values"},
                              {OK_SPEC, .constraints = {{"a", IN, 1, "\x1b[1m"}}, .reason = BAD,
                               .field = "spec.constraints[0].values"},
                              {
                                  OK_SPEC,
                                  .preference = {.key = "a", .operator= IN },
                                                 .reason = BAD,
                                                 .field = "spec.leader_preference[0].values"},
                              };

static void fill_constraint(thole_v1_Constraint *to, const struct constraint *k)
{
    thole_v1_Constraint_set_key(to, sv(k->key));
    thole_v1_Constraint_set_operator(to, k->operator);
    for (size_t i = 0; i < k->values; i++) {
        (void)thole_v1_Constraint_add_values(to, sv(k->value), host->arena);
    }
}

static thole_v1_ShardSpec *fill_spec(const struct spec *s)
{
    static char config[REGISTRY_CONFIG_BYTES + 1];
    thole_v1_ShardSpec *to = thole_v1_ShardSpec_new(host->arena);
    thole_v1_ShardSpec_set_type(to, sv(s->type));
    thole_v1_ShardSpec_set_voters(to, s->voters);
    thole_v1_ShardSpec_set_witnesses(to, s->witnesses);
    thole_v1_ShardSpec_set_config(to, upb_StringView_FromDataAndSize(config, s->config_bytes));
    for (size_t i = 0; i < s->groups; i++) {
        thole_v1_ReplicaGroup *g = thole_v1_ShardSpec_add_non_voting(to, host->arena);
        thole_v1_ReplicaGroup_set_count(g, s->group_count);
        thole_v1_ReplicaGroup_set_cover(g, s->group_cover);
        if (s->group_constraint.key != NULL) {
            fill_constraint(thole_v1_ReplicaGroup_add_constraints(g, host->arena),
                            &s->group_constraint);
        }
    }
    for (size_t i = 0; s->spread[i] != NULL; i++) {
        (void)thole_v1_ShardSpec_add_spread(to, sv(s->spread[i]), host->arena);
    }
    for (size_t i = 0; i < 2 && s->constraints[i].key != NULL; i++) {
        for (size_t k = 0; k < 1 || k < s->constraint_times; k++) {
            fill_constraint(thole_v1_ShardSpec_add_constraints(to, host->arena),
                            &s->constraints[i]);
        }
    }
    if (s->preference.key != NULL) {
        fill_constraint(thole_v1_ShardSpec_add_leader_preference(to, host->arena), &s->preference);
    }
    return to;
}

/* ---- Shards and pools, through both ways ----------------------------------------------------- */

static const void *create_shard(const char *name, thole_v1_ShardSpec *spec)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_CreateShard *o =
        thole_registry_v1_Operation_mutable_create_shard(operation(&c), host->arena);
    thole_v1_CreateShardRequest *q = NEW(host, CreateShardRequest);
    thole_v1_Shard *shard = thole_v1_CreateShardRequest_mutable_shard(q, host->arena);
    thole_v1_Shard_set_name(shard, sv(name));
    thole_registry_v1_CreateShard_set_name(o, sv(name));
    if (spec != NULL) {
        thole_v1_Shard_set_spec(shard, spec);
        thole_registry_v1_CreateShard_set_spec(o, spec);
    }
    machine_run(c);
    return CALL(host, Shards, CreateShard, q, Shard);
}

static const void *update_shard(const char *name, thole_v1_ShardSpec *spec)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_UpdateShard *o =
        thole_registry_v1_Operation_mutable_update_shard(operation(&c), host->arena);
    thole_v1_UpdateShardRequest *q = NEW(host, UpdateShardRequest);
    thole_v1_Shard *shard = thole_v1_UpdateShardRequest_mutable_shard(q, host->arena);
    thole_v1_Shard_set_name(shard, sv(name));
    thole_registry_v1_UpdateShard_set_name(o, sv(name));
    if (spec != NULL) {
        thole_v1_Shard_set_spec(shard, spec);
        thole_registry_v1_UpdateShard_set_spec(o, spec);
    }
    machine_run(c);
    return CALL(host, Shards, UpdateShard, q, Shard);
}

static const void *create_pool(const char *name, thole_v1_ShardPoolSpec *spec)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_CreatePool *o =
        thole_registry_v1_Operation_mutable_create_pool(operation(&c), host->arena);
    thole_v1_CreatePoolRequest *q = NEW(host, CreatePoolRequest);
    thole_v1_ShardPool *pool = thole_v1_CreatePoolRequest_mutable_pool(q, host->arena);
    thole_v1_ShardPool_set_name(pool, sv(name));
    thole_registry_v1_CreatePool_set_name(o, sv(name));
    if (spec != NULL) {
        thole_v1_ShardPool_set_spec(pool, spec);
        thole_registry_v1_CreatePool_set_spec(o, spec);
    }
    machine_run(c);
    return CALL(host, Pools, CreatePool, q, ShardPool);
}

static const void *update_pool(const char *name, thole_v1_ShardPoolSpec *spec)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_UpdatePool *o =
        thole_registry_v1_Operation_mutable_update_pool(operation(&c), host->arena);
    thole_v1_UpdatePoolRequest *q = NEW(host, UpdatePoolRequest);
    thole_v1_ShardPool *pool = thole_v1_UpdatePoolRequest_mutable_pool(q, host->arena);
    thole_v1_ShardPool_set_name(pool, sv(name));
    thole_registry_v1_UpdatePool_set_name(o, sv(name));
    if (spec != NULL) {
        thole_v1_ShardPool_set_spec(pool, spec);
        thole_registry_v1_UpdatePool_set_spec(o, spec);
    }
    machine_run(c);
    return CALL(host, Pools, UpdatePool, q, ShardPool);
}

static thole_v1_ShardPoolSpec *pool_spec(uint32_t count, thole_v1_ShardSpec *shard)
{
    thole_v1_ShardPoolSpec *spec = thole_v1_ShardPoolSpec_new(host->arena);
    thole_v1_ShardPoolSpec_set_count(spec, count);
    if (shard != NULL) {
        thole_v1_ShardPoolSpec_set_shard(spec, shard);
    }
    return spec;
}

static thole_v1_ShardSpec *good_spec(void)
{
    static const struct spec good = {OK_SPEC, .groups = 1, .group_count = 1, .spread = {"zone"}};
    return fill_spec(&good);
}

static void test_wrong_specs_of_shards_and_pools_are_refused_alike(void **state)
{
    (void)state;
    assert_non_null(create_shard("made", good_spec()));
    assert_int_equal(zero.code, THOLE_OK);
    assert_non_null(create_pool("pool", pool_spec(1, good_spec())));
    assert_int_equal(zero.code, THOLE_OK);
    for (size_t i = 0; i < sizeof wrong_specs / sizeof wrong_specs[0]; i++) {
        const struct spec *s = &wrong_specs[i];
        char shown[64], in_pool[REGISTRY_FIELD_BYTES];
        snprintf(shown, sizeof shown, "row %zu, %s", i, s->field);
        snprintf(in_pool, sizeof in_pool, "spec.shard%s", s->field + strlen("spec"));
        assert_refused(create_shard("x", fill_spec(s)), shown, s->reason, s->field);
        assert_refused(create_pool("x", pool_spec(1, fill_spec(s))), shown, s->reason, in_pool);
        if (s->type[0] != '\0') {
            assert_refused(update_shard("made", fill_spec(s)), shown, s->reason, s->field);
            assert_refused(update_pool("pool", pool_spec(1, fill_spec(s))), shown, s->reason,
                           in_pool);
        }
    }
    assert_refused(create_shard("x", NULL), "no spec", BAD, "shard.spec");
    assert_refused(update_shard("made", NULL), "no spec", BAD, "shard.spec");
    assert_refused(create_pool("x", NULL), "no spec", BAD, "pool.spec");
    assert_refused(update_pool("pool", NULL), "no spec", BAD, "pool.spec");
    assert_refused(create_pool("x", pool_spec(1, NULL)), "no shard", BAD, "spec.shard");
    assert_refused(update_pool("pool", pool_spec(1, NULL)), "no shard", BAD, "spec.shard");
    assert_refused(create_pool("x", pool_spec(100001, good_spec())), "count", TOO_LARGE,
                   "spec.count");
    assert_refused(update_pool("pool", pool_spec(100001, good_spec())), "count", TOO_LARGE,
                   "spec.count");
}

/* A field that cannot change may be left out: it keeps its value. */
static void test_a_change_may_leave_out_the_type(void **state)
{
    static const struct spec change = {.type = "", .voters = 1};
    (void)state;
    assert_non_null(update_shard("made", fill_spec(&change)));
    assert_int_equal(zero.code, THOLE_OK);
    assert_non_null(update_pool("pool", pool_spec(1, fill_spec(&change))));
    assert_int_equal(zero.code, THOLE_OK);
}

static void test_wrong_names_are_refused_alike(void **state)
{
    static const char *const wrong[] = {"",    "UPPER", "-a",          ".a",
                                        "a b", "a/b",   "caf\xc3\xa9", long_text};
    char pool_name[REGISTRY_POOL_NAME_BYTES + 2];
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_refused(create_shard(wrong[i], good_spec()), wrong[i], BAD, "shard.name");
        assert_refused(create_pool(wrong[i], pool_spec(1, good_spec())), wrong[i], BAD,
                       "pool.name");
    }
    memset(pool_name, 'a', sizeof pool_name - 1);
    pool_name[sizeof pool_name - 1] = '\0';
    assert_refused(create_pool(pool_name, pool_spec(1, good_spec())), pool_name, BAD, "pool.name");
    pool_name[sizeof pool_name - 2] = '\0';
    assert_non_null(create_pool(pool_name, pool_spec(0, good_spec())));
    assert_int_equal(zero.code, THOLE_OK);
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static const void *update_host(thole_v1_HostSpec *spec)
{
    thole_registry_v1_Command *c;
    thole_registry_v1_UpdateHost *o =
        thole_registry_v1_Operation_mutable_update_host(operation(&c), host->arena);
    thole_v1_UpdateHostRequest *q = NEW(host, UpdateHostRequest);
    thole_v1_Host *row = thole_v1_UpdateHostRequest_mutable_host(q, host->arena);
    thole_v1_Host_set_name(row, sv("h1"));
    thole_registry_v1_UpdateHost_set_name(o, sv("h1"));
    if (spec != NULL) {
        thole_v1_Host_set_spec(row, spec);
        thole_registry_v1_UpdateHost_set_spec(o, spec);
    }
    machine_run(c);
    return CALL(host, Hosts, UpdateHost, q, Host);
}

static void test_wrong_specs_of_hosts_are_refused_alike(void **state)
{
    static const struct {
        int32_t state;
        const char *key, *value;
        size_t tags;
        enum thole_reason reason;
        const char *field;
    } wrong[] = {
        {.state = thole_v1_HOST_STATE_REMOVED, .reason = BAD, .field = "spec.state"},
        {.state = 77, .reason = BAD, .field = "spec.state"},
        {.state = -1, .reason = BAD, .field = "spec.state"},
        {.key = "", .value = "x", .reason = BAD, .field = "spec.tags"},
        {.key = "a\nb", .value = "x", .reason = BAD, .field = "spec.tags"},
        {.key = long_text, .value = "x", .reason = BAD, .field = "spec.tags"},
        {.key = "zone", .value = "caf\xe9", .reason = BAD, .field = "spec.tags"},
        {.key = "zone", .value = "\x1b[1m", .reason = BAD, .field = "spec.tags"},
        {.key = "zone", .value = long_text, .reason = BAD, .field = "spec.tags"},
        {.tags = REGISTRY_TAGS_MAX + 1, .reason = TOO_LARGE, .field = "spec.tags"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char shown[64];
        thole_v1_HostSpec *spec = thole_v1_HostSpec_new(host->arena);
        snprintf(shown, sizeof shown, "row %zu, %s", i, wrong[i].field);
        thole_v1_HostSpec_set_state(spec, wrong[i].state);
        if (wrong[i].key != NULL) {
            thole_v1_HostSpec_tags_set(spec, sv(wrong[i].key), sv(wrong[i].value), host->arena);
        }
        for (size_t k = 0; k < wrong[i].tags; k++) {
            char *key = upb_Arena_Malloc(host->arena, 24);
            snprintf(key, 24, "k%zu", k);
            thole_v1_HostSpec_tags_set(spec, sv(key), sv("x"), host->arena);
        }
        assert_refused(update_host(spec), shown, wrong[i].reason, wrong[i].field);
    }
    assert_refused(update_host(NULL), "no spec", BAD, "host.spec");
}

/* ---- Replicas, operations, request ids ------------------------------------------------------- */

static void test_wrong_roles_are_refused_alike(void **state)
{
    static const int32_t wrong[] = {thole_v1_REPLICA_ROLE_WITNESS, 9, -1};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char shown[32];
        thole_registry_v1_Command *c;
        thole_registry_v1_CreateReplica *o =
            thole_registry_v1_Operation_mutable_create_replica(operation(&c), host->arena);
        thole_v1_CreateReplicaRequest *q = NEW(host, CreateReplicaRequest);
        snprintf(shown, sizeof shown, "role %d", (int)wrong[i]);
        thole_registry_v1_CreateReplica_set_shard(o, sv("made"));
        thole_registry_v1_CreateReplica_set_host(o, sv("h1"));
        thole_registry_v1_CreateReplica_set_role(o, wrong[i]);
        thole_v1_CreateReplicaRequest_set_shard(q, sv("made"));
        thole_v1_CreateReplicaRequest_set_host(q, sv("h1"));
        thole_v1_CreateReplicaRequest_set_role(q, wrong[i]);
        machine_run(c);
        const void *reply = CALL(host, Replicas, CreateReplica, q, Replica);
        assert_refused(reply, shown, BAD, "role");
    }
}

static void test_wrong_controllers_are_refused_alike(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        static const int32_t wrong[] = {0, 77, thole_v1_CONTROLLER_BALANCE};
        size_t count = i < 2 ? 1 : REGISTRY_CONTROLLERS_MAX + 1;
        thole_registry_v1_Command *c;
        thole_registry_v1_StartOperation *o =
            thole_registry_v1_Operation_mutable_start_operation(operation(&c), host->arena);
        thole_v1_PauseControllersRequest *q = NEW(host, PauseControllersRequest);
        thole_registry_v1_StartOperation_set_kind(o, thole_v1_OPERATION_KIND_PAUSE);
        for (size_t k = 0; k < count; k++) {
            thole_registry_v1_StartOperation_add_controllers(o, wrong[i], host->arena);
            thole_v1_PauseControllersRequest_add_controllers(q, wrong[i], host->arena);
        }
        machine_run(c);
        const void *reply = CALL(host, Operations, PauseControllers, q, Operation);
        assert_refused(reply, "controllers", i < 2 ? BAD : TOO_LARGE, "controllers");
    }
}

static void test_wrong_request_ids_are_refused_alike(void **state)
{
    static const char *const wrong[] = {long_text, "a\nb", "\x7f"};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        thole_registry_v1_Command *c;
        thole_registry_v1_DeleteShard *o =
            thole_registry_v1_Operation_mutable_delete_shard(operation(&c), host->arena);
        thole_v1_DeleteShardRequest *q = NEW(host, DeleteShardRequest);
        thole_registry_v1_DeleteShard_set_name(o, sv("made"));
        thole_registry_v1_Command_set_request_id(c, sv(wrong[i]));
        thole_v1_DeleteShardRequest_set_name(q, sv("made"));
        thole_v1_DeleteShardRequest_set_request_id(q, sv(wrong[i]));
        machine_run(c);
        const void *reply = CALL(host, Shards, DeleteShard, q, DeleteShardResponse);
        assert_refused(reply, "request_id", BAD, "request_id");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_specs_of_shards_and_pools_are_refused_alike),
        cmocka_unit_test(test_a_change_may_leave_out_the_type),
        cmocka_unit_test(test_wrong_names_are_refused_alike),
        cmocka_unit_test(test_wrong_specs_of_hosts_are_refused_alike),
        cmocka_unit_test(test_wrong_roles_are_refused_alike),
        cmocka_unit_test(test_wrong_controllers_are_refused_alike),
        cmocka_unit_test(test_wrong_request_ids_are_refused_alike),
    };
    memset(long_text, 'x', sizeof long_text - 1);
    memset(long_type, 'x', sizeof long_type - 1);
    return cmocka_run_group_tests(tests, setup, teardown);
}
