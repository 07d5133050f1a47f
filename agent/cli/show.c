/* Showing rows: as tables, and in the other formats of -o. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/rows.h"
#include "base/clock.h"
#include "proto/names.h"

#define NAME_OF(names, value) \
    ((value) >= 0 && (size_t)(value) < sizeof(names) / sizeof(names)[0] ? (names)[value] : "?")

const char *show_host_state(int32_t value)
{
    static const char *const names[] = {"-", "active", "cordoned", "draining", "removed"};
    return NAME_OF(names, value);
}

const char *show_liveness(int32_t value)
{
    static const char *const names[] = {"-", "live", "suspect", "dead"};
    return NAME_OF(names, value);
}

/* After the liveness; empty for a healthy disk. */
static const char *show_disk(int32_t value)
{
    static const char *const names[] = {"", "", ", low space", ", disk stalled"};
    return NAME_OF(names, value);
}

/* After the liveness; empty for a right clock. */
static const char *show_clock(int32_t value)
{
    static const char *const names[] = {"", "", ", wrong clock"};
    return NAME_OF(names, value);
}

/* After the liveness; empty if replicas do not keep failing. */
static const char *show_failing(const thole_v1_HostStatus *status)
{
    const thole_v1_HostFailures *f = thole_v1_HostStatus_failures(status);
    return f != NULL && thole_v1_HostFailures_failing(f) ? ", replicas failing" : "";
}

const char *show_role(int32_t value)
{
    const char *name = proto_replica_role(value);
    return name != NULL ? name : "-";
}

const char *show_phase(int32_t value)
{
    static const char *const names[] = {"waiting", "joining", "catching-up", "running",
                                        "out",     "gone",    "failed"};
    return NAME_OF(names, value);
}

const char *show_owner(int32_t value)
{
    static const char *const names[] = {"-", "placement", "user"};
    return NAME_OF(names, value);
}

static const char *constraint_operator(int32_t value)
{
    static const char *const names[] = {"?", "in", "not in", "exists", "does not exist"};
    return NAME_OF(names, value);
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "disk=ssd,zone=a", in the order of the keys. */
void show_tags(const thole_v1_Host *host, struct bytes *out)
{
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host);
    size_t n = spec != NULL ? thole_v1_HostSpec_tags_size(spec) : 0;
    char **tags = xcalloc(n + 1, sizeof *tags);
    size_t it = kUpb_Map_Begin, count = 0;
    const thole_v1_HostSpec_TagsEntry *tag;
    while (count < n && (tag = thole_v1_HostSpec_tags_next(spec, &it)) != NULL) {
        tags[count++] = xasprintf("%.*s=%.*s", CLI_SV(thole_v1_HostSpec_TagsEntry_key(tag)),
                                  CLI_SV(thole_v1_HostSpec_TagsEntry_value(tag)));
    }
    qsort(tags, count, sizeof *tags, compare_text);
    for (size_t i = 0; i < count; i++) {
        bytes_printf(out, "%s%s", i > 0 ? "," : "", tags[i]);
        free(tags[i]);
    }
    free(tags);
}

void show_constraints(const thole_v1_Constraint *const *constraints, size_t count,
                      struct bytes *out)
{
    for (size_t i = 0; i < count; i++) {
        size_t values = 0;
        const upb_StringView *value = thole_v1_Constraint_values(constraints[i], &values);
        bytes_printf(out, "%s%.*s %s", i > 0 ? "; " : "",
                     CLI_SV(thole_v1_Constraint_key(constraints[i])),
                     constraint_operator(thole_v1_Constraint_operator(constraints[i])));
        for (size_t k = 0; k < values; k++) {
            bytes_printf(out, "%s%.*s", k == 0 ? " " : ",", CLI_SV(value[k]));
        }
    }
}

void show_groups(const thole_v1_ShardSpec *spec, struct bytes *out)
{
    size_t n = 0;
    const thole_v1_ReplicaGroup *const *groups = thole_v1_ShardSpec_non_voting(spec, &n);
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        const thole_v1_Constraint *const *constraints =
            thole_v1_ReplicaGroup_constraints(groups[i], &count);
        bytes_append_str(out, i > 0 ? "; " : "");
        if (thole_v1_ReplicaGroup_cover(groups[i])) {
            bytes_append_str(out, "one per host");
        } else {
            bytes_printf(out, "%" PRIu32, thole_v1_ReplicaGroup_count(groups[i]));
        }
        if (count > 0) {
            bytes_append_str(out, " on ");
            show_constraints(constraints, count, out);
        }
    }
}

static const char *text_of(struct bytes *b)
{
    bytes_append(b, "", 1);
    return (const char *)b->data;
}

/* Used and allowed: "12/200", or "12/-" without a limit. */
static void capacity_cell(struct cli_table *t, const thole_v1_Host *h)
{
    char used[16] = "-", limit[16] = "-";
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(h);
    if (thole_v1_Host_has_replicas(h)) {
        snprintf(used, sizeof used, "%" PRIu32, thole_v1_Host_replicas(h));
    }
    if (spec != NULL && thole_v1_HostSpec_capacity(spec) > 0) {
        snprintf(limit, sizeof limit, "%" PRIu32, thole_v1_HostSpec_capacity(spec));
    }
    cli__table_cell(t, "%s/%s", used, limit);
}

static void host_row(struct cli_table *t, const thole_v1_Host *h)
{
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(h);
    const thole_v1_HostStatus *status = thole_v1_Host_status(h);
    struct bytes tags = {0}, types = {0};
    char age[24];
    show_tags(h, &tags);
    size_t n = 0;
    const thole_v1_MachineType *const *type =
        status != NULL ? thole_v1_HostStatus_machine_types(status, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        bytes_printf(&types, "%s%.*s", i > 0 ? "," : "",
                     CLI_SV(thole_v1_MachineType_name(type[i])));
    }
    upb_StringView none = {NULL, 0};
    cli__table_row(t);
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Host_name(h)));
    cli__table_cell(t, "%s", show_host_state(spec != NULL ? thole_v1_HostSpec_state(spec) : 0));
    cli__table_cell(t, "%s%s%s%s",
                    show_liveness(status != NULL ? thole_v1_HostStatus_liveness(status) : 0),
                    show_disk(status != NULL ? thole_v1_HostStatus_disk(status) : 0),
                    show_clock(status != NULL ? thole_v1_HostStatus_clock(status) : 0),
                    status != NULL ? show_failing(status) : "");
    cli__table_cell(t, "%.*s", CLI_SV(status != NULL ? thole_v1_HostStatus_address(status) : none));
    cli__table_cell(t, "%s", text_of(&tags));
    capacity_cell(t, h);
    cli__table_cell(t, "%.*s", CLI_SV(status != NULL ? thole_v1_HostStatus_version(status) : none));
    cli__table_cell(t, "%s", cli__age(thole_v1_Host_create_time_ms(h), age, sizeof age));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Host_id(h)));
    cli__table_cell(t, "%" PRIu64, status != NULL ? thole_v1_HostStatus_incarnation(status) : 0);
    cli__table_cell(t, "%s", text_of(&types));
    bytes_deinit(&tags);
    bytes_deinit(&types);
}

static void ready_cell(struct cli_table *t, const thole_v1_Shard *s)
{
    const thole_v1_Condition *placed = rows_condition(s, "Placed");
    const thole_v1_Condition *ready = rows_condition(s, "Ready");
    const thole_v1_Condition *why =
        placed != NULL && !thole_v1_Condition_status(placed) ? placed : ready;
    if (thole_v1_Shard_deleting(s)) {
        bool waits = ready != NULL &&
                     upb_StringView_IsEqual(thole_v1_Condition_reason(ready), cli__sv("Deleting"));
        cli__table_cell(t, "%s", waits ? "deleting (waits for a host)" : "deleting");
    } else if (rows_shard_ready(s)) {
        cli__table_cell(t, "yes");
    } else if (why != NULL && thole_v1_Condition_reason(why).size > 0) {
        cli__table_cell(t, "no (%.*s)", CLI_SV(thole_v1_Condition_reason(why)));
    } else {
        cli__table_cell(t, "no");
    }
}

/* As in the spec; "1/3" if another number votes. Shard zero's number follows from its hosts. */
static void voters_cell(struct cli_table *t, const thole_v1_Shard *s)
{
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    uint32_t voting = status != NULL ? thole_v1_ShardStatus_voting(status) : 0;
    uint32_t voters = spec != NULL ? thole_v1_ShardSpec_voters(spec) : 0;
    uint32_t wanted = voters + (spec != NULL ? thole_v1_ShardSpec_witnesses(spec) : 0);
    if (voting == 0 || voting == wanted) {
        cli__table_cell(t, "%" PRIu32, voters);
    } else if (thole_v1_Shard_id(s) == 0) {
        cli__table_cell(t, "%" PRIu32, voting);
    } else {
        cli__table_cell(t, "%" PRIu32 "/%" PRIu32, voting, wanted);
    }
}

static void shard_row(struct cli_table *t, const thole_v1_Shard *s)
{
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    upb_StringView none = {NULL, 0};
    struct bytes constraints = {0}, groups = {0};
    char age[24];
    size_t n = 0;
    const thole_v1_Constraint *const *constraint =
        spec != NULL ? thole_v1_ShardSpec_constraints(spec, &n) : NULL;
    show_constraints(constraint, n, &constraints);
    if (spec != NULL) {
        show_groups(spec, &groups);
    }
    cli__table_row(t);
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Shard_name(s)));
    cli__table_cell(t, "%.*s", CLI_SV(spec != NULL ? thole_v1_ShardSpec_type(spec) : none));
    voters_cell(t, s);
    ready_cell(t, s);
    cli__table_cell(t, "%.*s",
                    CLI_SV(status != NULL ? thole_v1_ShardStatus_leader_host(status) : none));
    cli__table_cell(t, "%" PRIu64, status != NULL ? thole_v1_ShardStatus_leader_term(status) : 0);
    cli__table_cell(t, "%s", cli__age(thole_v1_Shard_create_time_ms(s), age, sizeof age));
    cli__table_cell(t, "%" PRIu64, thole_v1_Shard_id(s));
    cli__table_cell(t, "%s", text_of(&groups));
    cli__table_cell(t, "%" PRIu64, thole_v1_Shard_generation(s));
    cli__table_cell(t, "%s", text_of(&constraints));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Shard_pool(s)));
    bytes_deinit(&constraints);
    bytes_deinit(&groups);
}

static void replica_row(struct cli_table *t, const thole_v1_Replica *r)
{
    char age[24];
    cli__table_row(t);
    cli__table_cell(t, "%" PRIu64, thole_v1_Replica_id(r));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Replica_shard(r)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Replica_host(r)));
    cli__table_cell(t, "%s", show_role(thole_v1_Replica_role(r)));
    cli__table_cell(t, "%s%s", show_phase(thole_v1_Replica_phase(r)),
                    thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE ? " (removing)"
                                                                                   : "");
    cli__table_cell(t, "%s", cli__age(thole_v1_Replica_create_time_ms(r), age, sizeof age));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Replica_message(r)));
    cli__table_cell(t, "%s", show_owner(thole_v1_Replica_owner(r)));
    cli__table_cell(t, "%s", thole_v1_Replica_initial(r) ? "yes" : "no");
    cli__table_cell(t, "%" PRIu64, thole_v1_Replica_out_index(r));
}

static void pool_row(struct cli_table *t, const thole_v1_ShardPool *p)
{
    const thole_v1_ShardPoolStatus *status = rows_pool_status(p);
    char age[24];
    cli__table_row(t);
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_ShardPool_name(p)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_ShardSpec_type(rows_pool_shard_spec(p))));
    cli__table_cell(t, "%" PRIu32, thole_v1_ShardPoolSpec_count(rows_pool_spec(p)));
    cli__table_cell(t, "%" PRIu32, thole_v1_ShardPoolStatus_shards(status));
    cli__table_cell(t, "%" PRIu32, thole_v1_ShardPoolStatus_ready(status));
    upb_StringView taken = thole_v1_ShardPoolStatus_name_taken(status);
    if (taken.size > 0 && !thole_v1_ShardPool_deleting(p)) {
        cli__table_cell(t, "the name %.*s is taken", CLI_SV(taken));
    } else {
        cli__table_cell(t, "%s",
                        thole_v1_ShardPool_deleting(p) ? "deleting"
                        : rows_pool_ready(p)           ? "ready"
                        : thole_v1_ShardPoolStatus_observed_generation(status) <
                                thole_v1_ShardPool_generation(p)
                            ? "changing its shards"
                            : "waiting for its shards");
    }
    cli__table_cell(t, "%s", cli__age(thole_v1_ShardPool_create_time_ms(p), age, sizeof age));
    cli__table_cell(t, "%" PRIu64, thole_v1_ShardPool_generation(p));
}

const char *show_operation_kind(int32_t value)
{
    const char *name = proto_operation_kind(value);
    return name != NULL ? name : "?";
}

const char *show_operation_state(int32_t value)
{
    static const char *const names[] = {"", "pending", "running", "done", "failed", "cancelled"};
    return value > 0 && (size_t)value < sizeof names / sizeof names[0] ? names[value] : "?";
}

static void operation_row(struct cli_table *t, const thole_v1_Operation *o)
{
    char age[24], time[32];
    cli__table_row(t);
    cli__table_cell(t, "%" PRIu64, thole_v1_Operation_id(o));
    cli__table_cell(t, "%s", show_operation_kind(thole_v1_Operation_kind(o)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Operation_target(o)));
    cli__table_cell(t, "%s", show_operation_state(thole_v1_Operation_state(o)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Operation_step(o)));
    cli__table_cell(t, "%" PRIu32 "/%" PRIu32, thole_v1_Operation_done(o),
                    thole_v1_Operation_total(o));
    cli__table_cell(t, "%s", cli__age(thole_v1_Operation_start_time_ms(o), age, sizeof age));
    upb_StringView from = thole_v1_Operation_from(o), to = thole_v1_Operation_to(o);
    upb_StringView message = thole_v1_Operation_message(o);
    cli__table_cell(t, "%.*s%s%.*s%s%.*s", CLI_SV(from), to.size > 0 ? " -> " : "", CLI_SV(to),
                    to.size > 0 && message.size > 0 ? ": " : "", CLI_SV(message));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Operation_actor(o)));
    int64_t ended = thole_v1_Operation_end_time_ms(o);
    cli__table_cell(t, "%s", ended == 0 ? "" : cli__time(ended, time, sizeof time));
}

static void event_row(struct cli_table *t, const thole_v1_Event *e)
{
    char time[32];
    cli__table_row(t);
    cli__table_cell(t, "%s", cli__time(thole_v1_Event_time_ms(e), time, sizeof time));
    cli__table_cell(t, "%" PRIu64, thole_v1_Event_revision(e));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_actor(e)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_object(e)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_reason(e)));
    uint32_t count = thole_v1_Event_count(e);
    if (count > 1) {
        char first[32];
        cli__table_cell(t, "%.*s (%" PRIu32 " times since %s)", CLI_SV(thole_v1_Event_message(e)),
                        count, cli__time(thole_v1_Event_first_time_ms(e), first, sizeof first));
    } else {
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_message(e)));
    }
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_method(e)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Event_address(e)));
}

static void role_row(struct cli_table *t, const thole_v1_Role *r)
{
    const thole_v1_RoleSpec *spec = rows_role_spec(r);
    struct bytes members = {0};
    size_t rules = 0, data = 0;
    char age[24];
    (void)thole_v1_RoleSpec_rules(spec, &rules);
    (void)thole_v1_RoleSpec_data(spec, &data);
    show_members(spec, &members);
    cli__table_row(t);
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Role_name(r)));
    cli__table_cell(t, "%s", thole_v1_Role_builtin(r) ? "yes" : "no");
    cli__table_cell(t, "%zu", rules);
    cli__table_cell(t, "%zu", data);
    cli__table_cell(t, "%s", text_of(&members));
    int64_t made = thole_v1_Role_create_time_ms(r);
    cli__table_cell(t, "%s", made == 0 ? "-" : cli__age(made, age, sizeof age));
    cli__table_cell(t, "%" PRIu64, thole_v1_Role_generation(r));
    bytes_deinit(&members);
}

static void token_row(struct cli_table *t, const thole_v1_Token *k)
{
    char age[24], expires[32];
    int64_t expire_ms = thole_v1_Token_expire_time_ms(k);
    int64_t now_ms = (int64_t)clock_system.wall_ms(&clock_system);
    cli__table_row(t);
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Token_id(k)));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Token_user(k)));
    cli__table_cell(t, "%s",
                    thole_v1_Token_revoke_time_ms(k) != 0 ? "revoked"
                    : expire_ms <= now_ms                 ? "expired"
                                                          : "valid");
    cli__table_cell(t, "%s", cli__time(expire_ms, expires, sizeof expires));
    cli__table_cell(t, "%s", cli__age(thole_v1_Token_create_time_ms(k), age, sizeof age));
    cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Token_creator(k)));
}

static void show_table(struct cli *c, const struct rows *rows)
{
    static const char *const columns[][16] = {
        [ROWS_HOSTS] = {"NAME", "STATE", "LIVENESS", "ADDRESS", "TAGS", ">CAPACITY", "VERSION",
                        "AGE", "+ID", "+>STARTS", "+TYPES"},
        [ROWS_SHARDS] = {"NAME", "TYPE", ">VOTERS", "READY", "LEADER", ">TERM", "AGE", "+>ID",
                         "+NON-VOTING", "+>GENERATION", "+CONSTRAINTS", "+POOL"},
        [ROWS_REPLICAS] = {">ID", "SHARD", "HOST", "ROLE", "PHASE", "AGE", "MESSAGE", "+OWNER",
                           "+INITIAL", "+>OUT-INDEX"},
        [ROWS_POOLS] = {"NAME", "TYPE", ">COUNT", ">SHARDS", ">READY", "STATE", "AGE",
                        "+>GENERATION"},
        [ROWS_OPERATIONS] = {">ID", "KIND", "TARGET", "STATE", "STEP", ">DONE", "AGE", "MESSAGE",
                             "+ACTOR", "+ENDED"},
        [ROWS_ROLES] = {"NAME", "BUILT-IN", ">RULES", ">DATA-RULES", "MEMBERS", "AGE",
                        "+>GENERATION"},
        [ROWS_TOKENS] = {"ID", "USER", "STATE", "EXPIRES", "AGE", "+CREATOR"},
        [ROWS_EVENTS] = {"TIME", "+>REVISION", "ACTOR", "OBJECT", "REASON", "MESSAGE", "+METHOD",
                         "+ADDRESS"},
    };
    struct cli_table *t = cli__table_new(cli__format(c) == FORMAT_WIDE, columns[rows->kind]);
    for (size_t i = 0; i < rows->count; i++) {
        switch (rows->kind) {
        case ROWS_HOSTS:
            host_row(t, rows->items[i]);
            break;
        case ROWS_SHARDS:
            shard_row(t, rows->items[i]);
            break;
        case ROWS_REPLICAS:
            replica_row(t, rows->items[i]);
            break;
        case ROWS_EVENTS:
            event_row(t, rows->items[i]);
            break;
        case ROWS_POOLS:
            pool_row(t, rows->items[i]);
            break;
        case ROWS_OPERATIONS:
            operation_row(t, rows->items[i]);
            break;
        case ROWS_ROLES:
            role_row(t, rows->items[i]);
            break;
        case ROWS_TOKENS:
            token_row(t, rows->items[i]);
            break;
        }
    }
    cli__table_print(t, c->layout);
}

bool rows_parse_kind(const char *text, enum rows_kind *ret)
{
    static const char *const names[][3] = {
        [ROWS_HOSTS] = {"hosts", "host"},          [ROWS_SHARDS] = {"shards", "shard"},
        [ROWS_REPLICAS] = {"replicas", "replica"}, [ROWS_EVENTS] = {"events", "event"},
        [ROWS_POOLS] = {"pools", "pool"},          [ROWS_OPERATIONS] = {"operations", "operation"},
        [ROWS_ROLES] = {"roles", "role"},          [ROWS_TOKENS] = {"tokens", "token"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i][0], text) == 0 || strcmp(names[i][1], text) == 0) {
            *ret = (enum rows_kind)i;
            return true;
        }
    }
    return false;
}

const char *rows_kind_name(enum rows_kind kind)
{
    static const char *const names[] = {
        [ROWS_HOSTS] = "Host",   [ROWS_SHARDS] = "Shard",    [ROWS_REPLICAS] = "Replica",
        [ROWS_EVENTS] = "Event", [ROWS_POOLS] = "ShardPool", [ROWS_OPERATIONS] = "Operation",
        [ROWS_ROLES] = "Role",   [ROWS_TOKENS] = "Token",
    };
    return names[kind];
}

/* With its kind, so that the output can be applied again. */
static void row_json(struct cli *c, enum rows_kind kind, const void *row, struct bytes *out)
{
    cli__json_object(rows_kind_name(kind), row, rows_def(c, kind), out);
}

void rows_json(struct cli *c, const struct rows *rows, const char *name, struct bytes *out)
{
    bytes_printf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < rows->count; i++) {
        bytes_append_str(out, i > 0 ? "," : "");
        row_json(c, rows->kind, rows->items[i], out);
    }
    bytes_append_str(out, "]");
}

static void show_json(struct cli *c, const struct rows *rows, bool single)
{
    struct bytes out = {0};
    for (size_t i = 0; i < rows->count; i++) {
        bytes_append_str(&out, single ? "" : i == 0 ? "[" : ",\n ");
        row_json(c, rows->kind, rows->items[i], &out);
    }
    bytes_append_str(&out, single ? "\n" : rows->count == 0 ? "[]\n" : "]\n");
    cli__print(bytes_slice(&out));
    bytes_deinit(&out);
}

static void show_yaml(struct cli *c, const struct rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        struct bytes json = {0}, out = {0};
        row_json(c, rows->kind, rows->items[i], &json);
        if (i > 0) {
            bytes_append_str(&out, "---\n");
        }
        cli__yaml(NULL, bytes_slice(&json), &out);
        cli__print(bytes_slice(&out));
        bytes_deinit(&json);
        bytes_deinit(&out);
    }
}

void rows_show(struct cli *c, const struct rows *rows, bool header, bool single)
{
    char name[ROWS_NAME_BYTES];
    switch (cli__format(c)) {
    case FORMAT_TABLE:
    case FORMAT_WIDE:
        if (rows->count == 0 && header) {
            cli__note("none");
        } else if (rows->count > 0) {
            show_table(c, rows);
        }
        break;
    case FORMAT_JSON:
        show_json(c, rows, single);
        break;
    case FORMAT_YAML:
        show_yaml(c, rows);
        break;
    case FORMAT_NAME:
        for (size_t i = 0; i < rows->count; i++) {
            printf("%s\n", rows_name(rows->kind, rows->items[i], name, sizeof name));
        }
        break;
    }
}
