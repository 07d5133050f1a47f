/* `thole describe`: one host, shard, pool or role with its replicas and events. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/rows.h"

#define EVENTS_SHOWN 20

static void show_related(struct cli *c, const char *title, const struct rows *rows)
{
    printf("\n%s:\n", title);
    if (rows->count == 0) {
        printf("none\n");
    } else {
        rows_show(c, rows, false, false);
    }
}

/* The newest events about an object. */
static int related_events(struct cli *c, const char *object, bool stale)
{
    struct thole_status st;
    struct rows rows;
    const struct rows_query events = {.kind = ROWS_EVENTS, .object = object, .stale = stale};
    if (rows_list(c, &events, &rows, &st) != THOLE_OK) {
        return cli__say_status("cannot list events", &st);
    }
    struct rows newest = rows;
    if (rows.count > EVENTS_SHOWN) {
        newest.items += rows.count - EVENTS_SHOWN;
        newest.count = EVENTS_SHOWN;
    }
    show_related(c, "Events", &newest);
    rows_deinit(&rows);
    return cli__flush();
}

/* Replicas of a shard or on a host, then the events. */
static int related(struct cli *c, const struct rows_query *replicas, const char *object)
{
    struct thole_status st;
    struct rows rows;
    if (rows_list(c, replicas, &rows, &st) != THOLE_OK) {
        return cli__say_status("cannot list replicas", &st);
    }
    show_related(c, "Replicas", &rows);
    rows_deinit(&rows);
    return related_events(c, object, replicas->stale);
}

static void line(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = cli__vtext(format, args);
    va_end(args);
    printf("%-12s %s\n", name, text);
    free(text);
}

static void show_conditions(const thole_v1_Shard *s)
{
    static const char *const columns[] = {"CONDITION", "STATUS",  "REASON",
                                          "SINCE",     "MESSAGE", NULL};
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    size_t n = 0;
    const thole_v1_Condition *const *conditions =
        status != NULL ? thole_v1_ShardStatus_conditions(status, &n) : NULL;
    printf("\nConditions (of generation %" PRIu64 "):\n",
           status != NULL ? thole_v1_ShardStatus_observed_generation(status) : 0);
    if (n == 0) {
        printf("none reported yet\n");
        return;
    }
    struct cli_table *t = cli__table_new(false, columns);
    for (size_t i = 0; i < n; i++) {
        char time[24];
        cli__table_row(t);
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Condition_type(conditions[i])));
        cli__table_cell(t, "%s", thole_v1_Condition_status(conditions[i]) ? "true" : "false");
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Condition_reason(conditions[i])));
        cli__table_cell(
            t, "%s",
            cli__age(thole_v1_Condition_transition_time_ms(conditions[i]), time, sizeof time));
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Condition_message(conditions[i])));
    }
    cli__table_print(t, NULL);
}

static void constraints_line(const char *name, const thole_v1_Constraint *const *constraints,
                             size_t count)
{
    struct bytes text = {0};
    show_constraints(constraints, count, &text);
    line(name, "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "");
    bytes_deinit(&text);
}

static void show_spec(const thole_v1_ShardSpec *spec)
{
    struct bytes text = {0};
    size_t n = 0;
    line("Type", "%.*s", CLI_SV(thole_v1_ShardSpec_type(spec)));
    line("Voters", "%" PRIu32, thole_v1_ShardSpec_voters(spec));
    line("Witnesses", "%" PRIu32, thole_v1_ShardSpec_witnesses(spec));
    show_groups(spec, &text);
    line("Non-voting", "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "none");
    bytes_clear(&text);
    const upb_StringView *keys = thole_v1_ShardSpec_spread(spec, &n);
    for (size_t i = 0; i < n; i++) {
        bytes_printf(&text, "%s%.*s", i > 0 ? ", " : "", CLI_SV(keys[i]));
    }
    line("Spread", "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "");
    bytes_deinit(&text);
    const thole_v1_Constraint *const *constraints = thole_v1_ShardSpec_constraints(spec, &n);
    constraints_line("Constraints", constraints, n);
    constraints = thole_v1_ShardSpec_leader_preference(spec, &n);
    constraints_line("Leader on", constraints, n);
    line("Lease reads", "%s", thole_v1_ShardSpec_lease_reads(spec) ? "yes" : "no");
    line("Protected", "%s",
         thole_v1_ShardSpec_deletion_protection(spec) ? "yes: not deleted until the spec says so"
                                                      : "no");
}

static bool has_keys(const thole_v1_ShardPool *pool)
{
    return thole_v1_ShardPoolSpec_keys(rows_pool_spec(pool)) == thole_v1_POOL_KEYS_SLOTS;
}

static int compare_slots(const void *a, const void *b)
{
    uint32_t x = thole_v1_SlotRange_first(thole_v1_Shard_slots(*(const void *const *)a));
    uint32_t y = thole_v1_SlotRange_first(thole_v1_Shard_slots(*(const void *const *)b));
    return (x > y) - (x < y);
}

/* The shards of a pool that have slots, in the order of their slots. */
static enum thole_code list_slots(struct cli *c, const thole_v1_ShardPool *pool, bool stale,
                                  struct rows *ret, struct thole_status *st)
{
    const struct rows_query q = {.kind = ROWS_SHARDS, .stale = stale};
    struct rows all;
    *ret = (struct rows){.kind = ROWS_SHARDS};
    if (rows_list(c, &q, &all, st) != THOLE_OK) {
        return st->code;
    }
    for (size_t i = 0; i < all.count; i++) {
        if (upb_StringView_IsEqual(thole_v1_Shard_pool(all.items[i]),
                                   thole_v1_ShardPool_name(pool)) &&
            thole_v1_Shard_has_slots(all.items[i])) {
            rows_add(ret, all.items[i]);
        }
    }
    if (ret->count > 0) {
        qsort(ret->items, ret->count, sizeof *ret->items, compare_slots);
    }
    rows_deinit(&all);
    return THOLE_OK;
}

/* One document: the row, and the rows that `related` and `show_slots` show. */
static int describe_document(struct cli *c, const char *member, enum rows_kind kind,
                             const void *row, const struct rows_query *replicas)
{
    struct thole_status st;
    struct rows rows;
    struct bytes out = {0};
    char object[ROWS_NAME_BYTES];
    cli__document_begin(&out, "Description");
    cli__document_message(&out, member, row, rows_def(c, kind));
    const struct rows_query events = {.kind = ROWS_EVENTS,
                                      .object = rows_name(kind, row, object, sizeof object),
                                      .stale = replicas->stale};
    const struct rows_query *const queries[] = {replicas, &events};
    static const char *const names[] = {"replicas", "events"};
    for (size_t i = 0; i < 2; i++) {
        struct rows none = {.kind = queries[i]->kind};
        if (queries[i] == replicas && (kind == ROWS_POOLS || kind == ROWS_ROLES)) {
            rows_json(c, &none, names[i], &out);
            continue;
        }
        if (rows_list(c, queries[i], &rows, &st) != THOLE_OK) {
            bytes_deinit(&out);
            return cli__say_status("cannot list its replicas and events", &st);
        }
        rows_json(c, &rows, names[i], &out);
        rows_deinit(&rows);
    }
    if (kind == ROWS_POOLS && has_keys(row)) {
        if (list_slots(c, row, replicas->stale, &rows, &st) != THOLE_OK) {
            bytes_deinit(&out);
            return cli__say_status("cannot list its shards", &st);
        }
        rows_json(c, &rows, "shards", &out);
        rows_deinit(&rows);
    }
    cli__document_end(c, &out);
    return cli__flush();
}

static int describe_shard(struct cli *c, const char *name, bool stale)
{
    struct thole_status st;
    const thole_v1_Shard *s = NULL;
    if (rows_get_shard(c, name, stale, &s, &st) != THOLE_OK) {
        return cli__say_status("cannot describe the shard", &st);
    }
    const struct rows_query replicas = {.kind = ROWS_REPLICAS, .shard = name, .stale = stale};
    if (cli__is_document(c)) {
        return describe_document(c, "shard", ROWS_SHARDS, s, &replicas);
    }
    const thole_v1_ShardSpec *spec = thole_v1_Shard_spec(s);
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    char time[32];
    line("Name", "%.*s", CLI_SV(thole_v1_Shard_name(s)));
    line("Id", "%" PRIu64, thole_v1_Shard_id(s));
    line("Created", "%s", cli__time(thole_v1_Shard_create_time_ms(s), time, sizeof time));
    if (spec != NULL) {
        show_spec(spec);
    }
    if (thole_v1_Shard_pool(s).size > 0) {
        line("Pool", "%.*s", CLI_SV(thole_v1_Shard_pool(s)));
    }
    line("Generation", "%" PRIu64, thole_v1_Shard_generation(s));
    line("Etag", "%.*s", CLI_SV(thole_v1_Shard_etag(s)));
    if (status != NULL && thole_v1_ShardStatus_leader_replica(status) != 0) {
        line("Leader", "%.*s (replica %" PRIu64 ", term %" PRIu64 ")",
             CLI_SV(thole_v1_ShardStatus_leader_host(status)),
             thole_v1_ShardStatus_leader_replica(status), thole_v1_ShardStatus_leader_term(status));
    } else {
        line("Leader", "unknown");
    }
    line("Formed", "%s", status != NULL && thole_v1_ShardStatus_formed(status) ? "yes" : "no");
    if (thole_v1_Shard_deleting(s)) {
        line("Deleting", "yes");
    }
    show_conditions(s);
    char object[ROWS_NAME_BYTES];
    return related(c, &replicas, rows_name(ROWS_SHARDS, s, object, sizeof object));
}

static int describe_host(struct cli *c, const char *name, bool stale)
{
    struct thole_status st;
    const thole_v1_Host *h = NULL;
    if (rows_get_host(c, name, stale, &h, &st) != THOLE_OK) {
        return cli__say_status("cannot describe the host", &st);
    }
    const struct rows_query replicas = {.kind = ROWS_REPLICAS, .host = name, .stale = stale};
    if (cli__is_document(c)) {
        return describe_document(c, "host", ROWS_HOSTS, h, &replicas);
    }
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(h);
    const thole_v1_HostStatus *status = thole_v1_Host_status(h);
    struct bytes tags = {0};
    char time[32];
    show_tags(h, &tags);
    line("Name", "%.*s", CLI_SV(thole_v1_Host_name(h)));
    line("Id", "%.*s", CLI_SV(thole_v1_Host_id(h)));
    line("Created", "%s", cli__time(thole_v1_Host_create_time_ms(h), time, sizeof time));
    line("State", "%s", show_host_state(spec != NULL ? thole_v1_HostSpec_state(spec) : 0));
    line("Tags", "%.*s", (int)tags.size, tags.size > 0 ? (const char *)tags.data : "");
    if (spec != NULL && thole_v1_HostSpec_capacity(spec) > 0) {
        line("Capacity", "%" PRIu32 " replicas", thole_v1_HostSpec_capacity(spec));
    }
    bytes_deinit(&tags);
    if (status != NULL) {
        line("Liveness", "%s", show_liveness(thole_v1_HostStatus_liveness(status)));
        const thole_v1_HostFailures *f = thole_v1_HostStatus_failures(status);
        if (f != NULL) {
            line("Failures", "%s; the last at %s: %.*s",
                 thole_v1_HostFailures_failing(f) ? "replicas keep failing, so it gets no new ones"
                                                  : "replicas failed",
                 cli__time(thole_v1_HostFailures_time_ms(f), time, sizeof time),
                 CLI_SV(thole_v1_HostFailures_message(f)));
        }
        line("Address", "%.*s", CLI_SV(thole_v1_HostStatus_address(status)));
        line("Version", "%.*s", CLI_SV(thole_v1_HostStatus_version(status)));
        line("Starts", "%" PRIu64, thole_v1_HostStatus_incarnation(status));
        size_t n = 0;
        const thole_v1_MachineType *const *types = thole_v1_HostStatus_machine_types(status, &n);
        struct bytes text = {0};
        for (size_t i = 0; i < n; i++) {
            bytes_printf(&text, "%s%.*s (%" PRIu32 ")", i > 0 ? " " : "",
                         CLI_SV(thole_v1_MachineType_name(types[i])),
                         thole_v1_MachineType_version(types[i]));
        }
        line("Types", "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "");
        bytes_deinit(&text);
    }
    line("Generation", "%" PRIu64, thole_v1_Host_generation(h));
    line("Etag", "%.*s", CLI_SV(thole_v1_Host_etag(h)));
    char object[ROWS_NAME_BYTES];
    return related(c, &replicas, rows_name(ROWS_HOSTS, h, object, sizeof object));
}

/* Shards that are not ready, with the reasons. */
static int show_waiting(struct cli *c, const char *pool, bool stale)
{
    struct thole_status st;
    struct rows all, some = {.kind = ROWS_SHARDS};
    const struct rows_query shards = {.kind = ROWS_SHARDS, .stale = stale};
    size_t left = 0;
    if (rows_list(c, &shards, &all, &st) != THOLE_OK) {
        return cli__say_status("cannot list shards", &st);
    }
    for (size_t i = 0; i < all.count; i++) {
        if (upb_StringView_IsEqual(thole_v1_Shard_pool(all.items[i]), cli__sv(pool)) &&
            !rows_shard_ready(all.items[i])) {
            if (some.count < EVENTS_SHOWN) {
                rows_add(&some, all.items[i]);
            } else {
                left++;
            }
        }
    }
    show_related(c, "Shards that are not ready", &some);
    if (left > 0) {
        printf("... and %zu more\n", left);
    }
    if (some.count > 0) {
        const thole_v1_Condition *why = rows_condition(some.items[0], "Placed");
        if (thole_v1_Shard_deleting(some.items[0])) {
            why = rows_condition(some.items[0], "Ready");
        }
        if (why != NULL && !thole_v1_Condition_status(why)) {
            cli__line("%.*s: %.*s", CLI_SV(thole_v1_Shard_name(some.items[0])),
                      CLI_SV(thole_v1_Condition_message(why)));
        }
    }
    rows_deinit(&some);
    rows_deinit(&all);
    return CLI_OK;
}

static int show_slots(struct cli *c, const thole_v1_ShardPool *pool, bool stale)
{
    static const char *const columns[] = {"SHARD", "FIRST SLOT", "LAST SLOT", "LEADER", NULL};
    struct thole_status st;
    struct rows rows;
    if (list_slots(c, pool, stale, &rows, &st) != THOLE_OK) {
        return cli__say_status("cannot list shards", &st);
    }
    struct cli_table *t = cli__table_new(false, columns);
    printf("\nSlots of keys:\n");
    for (size_t i = 0; i < rows.count; i++) {
        const thole_v1_SlotRange *slots = thole_v1_Shard_slots(rows.items[i]);
        cli__table_row(t);
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_Shard_name(rows.items[i])));
        cli__table_cell(t, "%" PRIu32, thole_v1_SlotRange_first(slots));
        cli__table_cell(t, "%" PRIu32, thole_v1_SlotRange_last(slots));
        cli__table_cell(t, "%.*s",
                        CLI_SV(thole_v1_ShardStatus_leader_host(rows_shard_status(rows.items[i]))));
    }
    cli__table_print(t, NULL);
    rows_deinit(&rows);
    return CLI_OK;
}

static int describe_pool(struct cli *c, const char *name, bool stale)
{
    struct thole_status st;
    const thole_v1_ShardPool *p = NULL;
    if (rows_get_pool(c, name, stale, &p, &st) != THOLE_OK) {
        return cli__say_status("cannot describe the pool", &st);
    }
    if (cli__is_document(c)) {
        const struct rows_query none = {.kind = ROWS_REPLICAS, .stale = stale};
        return describe_document(c, "pool", ROWS_POOLS, p, &none);
    }
    const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(p);
    uint32_t count = thole_v1_ShardPoolSpec_count(rows_pool_spec(p));
    char time[32];
    line("Name", "%.*s", CLI_SV(thole_v1_ShardPool_name(p)));
    line("Created", "%s", cli__time(thole_v1_ShardPool_create_time_ms(p), time, sizeof time));
    line("Count", "%" PRIu32, count);
    line("Keys", "%s", has_keys(p) ? "SLOTS" : "none");
    show_spec(rows_pool_shard_spec(p));
    line("Generation", "%" PRIu64 " (of all shards: %" PRIu64 ")", thole_v1_ShardPool_generation(p),
         thole_v1_ShardPoolStatus_observed_generation(status));
    line("Etag", "%.*s", CLI_SV(thole_v1_ShardPool_etag(p)));
    line("Shards", "%" PRIu32 ", of which %" PRIu32 " are ready",
         thole_v1_ShardPoolStatus_shards(status), thole_v1_ShardPoolStatus_ready(status));
    if (thole_v1_ShardPoolStatus_name_taken(status).size > 0) {
        line("Name taken",
             "%.*s: a shard that is not of the pool has it; the pool takes it when that is deleted",
             CLI_SV(thole_v1_ShardPoolStatus_name_taken(status)));
    }
    if (thole_v1_ShardPool_deleting(p)) {
        line("Deleting", "yes");
    }
    int result = has_keys(p) ? show_slots(c, p, stale) : CLI_OK;
    result = result == CLI_OK ? show_waiting(c, name, stale) : result;
    return result == CLI_OK ? cli__flush() : result;
}

static int describe_role(struct cli *c, const char *name, bool stale)
{
    struct thole_status st;
    const thole_v1_Role *r = NULL;
    if (rows_get_role(c, name, stale, &r, &st) != THOLE_OK) {
        return cli__say_status("cannot describe the role", &st);
    }
    const struct rows_query none = {.kind = ROWS_REPLICAS, .stale = stale};
    if (cli__is_document(c)) {
        return describe_document(c, "role", ROWS_ROLES, r, &none);
    }
    const thole_v1_RoleSpec *spec = rows_role_spec(r);
    struct bytes text = {0};
    size_t n = 0;
    line("Name", "%.*s", CLI_SV(thole_v1_Role_name(r)));
    line("Built-in", "%s", thole_v1_Role_builtin(r) ? "yes" : "no");
    line("Generation", "%" PRIu64, thole_v1_Role_generation(r));
    line("Etag", "%.*s", CLI_SV(thole_v1_Role_etag(r)));
    const thole_v1_RoleRule *const *rules = thole_v1_RoleSpec_rules(spec, &n);
    for (size_t i = 0; i < n; i++) {
        bytes_clear(&text);
        show_role_rule(rules[i], &text);
        line(i == 0 ? "Rules" : "", "%.*s", (int)text.size, (const char *)text.data);
    }
    const thole_v1_DataRule *const *data = thole_v1_RoleSpec_data(spec, &n);
    for (size_t i = 0; i < n; i++) {
        bytes_clear(&text);
        show_data_rule(data[i], &text);
        line(i == 0 ? "Data" : "", "%.*s", (int)text.size, (const char *)text.data);
    }
    bytes_clear(&text);
    show_members(spec, &text);
    line("Members", "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "");
    bytes_deinit(&text);
    char object[ROWS_NAME_BYTES];
    return related_events(c, rows_name(ROWS_ROLES, r, object, sizeof object), stale);
}

int cli__command_describe(struct cli *c)
{
    bool stale = cli_flag(c, OPT_STALE);
    if (strcmp(c->args[0], "shard") == 0 || strcmp(c->args[0], "shards") == 0) {
        return describe_shard(c, cli__strip(c->args[1], "shard"), stale);
    }
    if (strcmp(c->args[0], "host") == 0 || strcmp(c->args[0], "hosts") == 0) {
        return describe_host(c, cli__strip(c->args[1], "host"), stale);
    }
    if (strcmp(c->args[0], "pool") == 0 || strcmp(c->args[0], "pools") == 0) {
        return describe_pool(c, cli__strip(c->args[1], "pool"), stale);
    }
    if (strcmp(c->args[0], "role") == 0 || strcmp(c->args[0], "roles") == 0) {
        return describe_role(c, cli__strip(c->args[1], "role"), stale);
    }
    return cli__say_usage(c, "\"%s\" is not one of host, shard, pool, role", c->args[0]);
}
