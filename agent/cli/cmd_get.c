/* `thole get`: lists, single rows, and --watch. */
#include <string.h>
#include <upb/encode.h>

#include "agent/cli/rows.h"
#include "proto/decode.h"

struct get {
    struct cli *c;
    struct rows_query q;
    const char *name; /* NULL: all */
    uint64_t limit;
    uint64_t id; /* of a replica or operation */
    /* While watching: what changed since the last bookmark. */
    struct rows batch;
    upb_Arena *arena;
    bool begun;
};

/* Does the row match the options? */
static bool wanted(const struct get *g, enum rows_kind kind, const void *row)
{
    char name[ROWS_NAME_BYTES];
    if (kind != g->q.kind) {
        return false;
    }
    switch (kind) {
    case ROWS_HOSTS:
        return g->name == NULL || upb_StringView_IsEqual(thole_v1_Host_name(row), cli__sv(g->name));
    case ROWS_SHARDS:
        return g->name == NULL ||
               upb_StringView_IsEqual(thole_v1_Shard_name(row), cli__sv(g->name));
    case ROWS_POOLS:
        return g->name == NULL ||
               upb_StringView_IsEqual(thole_v1_ShardPool_name(row), cli__sv(g->name));
    case ROWS_REPLICAS:
        return (g->name == NULL || thole_v1_Replica_id(row) == g->id) &&
               (g->q.shard == NULL ||
                upb_StringView_IsEqual(thole_v1_Replica_shard(row), cli__sv(g->q.shard))) &&
               (g->q.host == NULL ||
                upb_StringView_IsEqual(thole_v1_Replica_host(row), cli__sv(g->q.host)));
    case ROWS_OPERATIONS:
        return g->name == NULL || thole_v1_Operation_id(row) == g->id;
    case ROWS_ROLES:
        return g->name == NULL || upb_StringView_IsEqual(thole_v1_Role_name(row), cli__sv(g->name));
    case ROWS_TOKENS:
        return g->name == NULL || upb_StringView_IsEqual(thole_v1_Token_id(row), cli__sv(g->name));
    case ROWS_EVENTS:
        break;
    }
    rows_name(kind, row, name, sizeof name);
    size_t size = g->q.object != NULL ? strlen(g->q.object) : 0;
    return size == 0 ||
           (strncmp(name, g->q.object, size) == 0 && (name[size] == '\0' || name[size] == '/'));
}

/* ---- Objects of events ----------------------------------------------------------------------- */

/* "shards/orders/replicas/12" -> "shards/orders". Events of deleted objects are kept for a while,
 * so the object is looked up only if there are no events. */
static int object_exists(struct get *g)
{
    struct thole_status st;
    const void *row = NULL;
    const char *object = g->q.object, *name = strchr(object, '/') + 1;
    char top[ROWS_NAME_BYTES];
    uint64_t id = 0;
    snprintf(top, sizeof top, "%.*s", (int)strcspn(name, "/"), name);
    enum thole_code code = THOLE_OK;
    if (strncmp(object, "shards/", 7) == 0) {
        code = rows_get_shard(g->c, top, false, (const thole_v1_Shard **)&row, &st);
    } else if (strncmp(object, "hosts/", 6) == 0) {
        code = rows_get_host(g->c, top, false, (const thole_v1_Host **)&row, &st);
    } else if (strncmp(object, "pools/", 6) == 0) {
        code = rows_get_pool(g->c, top, false, (const thole_v1_ShardPool **)&row, &st);
    } else if (strncmp(object, "roles/", 6) == 0) {
        code = rows_get_role(g->c, top, false, (const thole_v1_Role **)&row, &st);
    } else if (strncmp(object, "tokens/", 7) == 0) {
        return CLI_OK;
    } else if (options_parse_number(top, &id)) {
        code = rows_get_operation(g->c, id, false, (const thole_v1_Operation **)&row, &st);
    }
    return code == THOLE_OK ? CLI_OK : cli__say_status("there are no events about it", &st);
}

static bool is_object(const char *text)
{
    static const char *const kinds[] = {"shards/",     "hosts/", "pools/",
                                        "operations/", "roles/", "tokens/"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t size = strlen(kinds[i]);
        if (strncmp(text, kinds[i], size) == 0 && text[size] != '\0') {
            return true;
        }
    }
    return false;
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static int get_list(struct get *g)
{
    struct cli *c = g->c;
    struct thole_status st;
    struct rows all, some = {.kind = g->q.kind};
    if (rows_list(c, &g->q, &all, &st) != THOLE_OK) {
        return cli__say_status("cannot list", &st);
    }
    /* Of events, keep the newest. */
    size_t skip = g->limit != 0 && g->q.kind == ROWS_EVENTS && all.count > g->limit
                      ? all.count - (size_t)g->limit
                      : 0;
    for (size_t i = skip; i < all.count && (g->limit == 0 || some.count < g->limit); i++) {
        if (wanted(g, g->q.kind, all.items[i])) {
            rows_add(&some, all.items[i]);
        }
    }
    int result = CLI_OK;
    if (some.count == 0 && g->name != NULL && g->q.kind != ROWS_EVENTS) {
        (void)cli__say_failed("there is no %s %s", g->q.kind == ROWS_TOKENS ? "token" : "replica",
                              g->name);
        result = CLI_NOT_FOUND;
    } else {
        if (some.count == 0 && g->q.object != NULL) {
            result = object_exists(g);
        }
        if (result == CLI_OK) {
            rows_show(c, &some, true, g->name != NULL && g->q.kind != ROWS_EVENTS);
            result = cli__flush();
        }
    }
    rows_deinit(&some);
    rows_deinit(&all);
    return result;
}

static int get_one(struct get *g)
{
    struct thole_status st;
    const void *row = NULL;
    bool stale = g->q.stale;
    enum thole_code code =
        g->q.kind == ROWS_HOSTS
            ? rows_get_host(g->c, g->name, stale, (const thole_v1_Host **)&row, &st)
        : g->q.kind == ROWS_POOLS
            ? rows_get_pool(g->c, g->name, stale, (const thole_v1_ShardPool **)&row, &st)
        : g->q.kind == ROWS_OPERATIONS
            ? rows_get_operation(g->c, g->id, stale, (const thole_v1_Operation **)&row, &st)
        : g->q.kind == ROWS_ROLES
            ? rows_get_role(g->c, g->name, stale, (const thole_v1_Role **)&row, &st)
            : rows_get_shard(g->c, g->name, stale, (const thole_v1_Shard **)&row, &st);
    if (code != THOLE_OK) {
        return cli__say_status("cannot get", &st);
    }
    struct rows rows = {.kind = g->q.kind};
    rows_add(&rows, row);
    rows_show(g->c, &rows, true, true);
    rows_deinit(&rows);
    return cli__flush();
}

/* ---- Watching -------------------------------------------------------------------------------- */

static void show_gone(struct get *g, upb_StringView name)
{
    static const char *const prefixes[] = {"hosts/", "shards/",     "shards/", "?",
                                           "pools/", "operations/", "roles/",  "tokens/"};
    const char *prefix = prefixes[g->q.kind];
    size_t size = strlen(prefix);
    bool replica = memmem(name.data, name.size, "/replicas/", 10) != NULL;
    if (name.size > size && memcmp(name.data, prefix, size) == 0 &&
        replica == (g->q.kind == ROWS_REPLICAS)) {
        if (cli__format(g->c) == FORMAT_JSON) {
            printf("{\"deleted\":\"%.*s\"}\n", CLI_SV(name));
        } else {
            printf("%.*s deleted\n", CLI_SV(name));
        }
    }
}

static void flush_batch(struct get *g)
{
    /* Of the existing events, print only the newest. */
    if (!g->begun && g->q.kind == ROWS_EVENTS && g->limit != 0 && g->batch.count > g->limit) {
        size_t skip = g->batch.count - (size_t)g->limit;
        memmove(g->batch.items, g->batch.items + skip, (size_t)g->limit * sizeof g->batch.items[0]);
        g->batch.count = (size_t)g->limit;
    }
    enum cli_format format = cli__format(g->c);
    if (g->batch.count > 0 && format == FORMAT_JSON) {
        for (size_t i = 0; i < g->batch.count; i++) { /* one object a line, for programs */
            struct rows one = {.kind = g->q.kind, .items = &g->batch.items[i], .count = 1};
            rows_show(g->c, &one, false, true);
        }
    } else if (g->batch.count > 0) {
        if (format == FORMAT_YAML && g->begun) {
            printf("---\n");
        }
        rows_show(g->c, &g->batch, !g->begun && g->q.kind == ROWS_EVENTS, false);
        g->begun = true;
    }
    fflush(stdout);
    rows_deinit(&g->batch);
    upb_Arena_Free(g->arena);
    g->arena = upb_Arena_New();
}

/* Rows live only as long as their message, so a batch keeps copies. */
static void keep(struct get *g, enum rows_kind kind, const void *row, const upb_MiniTable *table)
{
    if (!wanted(g, kind, row)) {
        return;
    }
    char *bytes = NULL;
    size_t size = 0;
    if (upb_Encode(row, table, 0, g->arena, &bytes, &size) != kUpb_EncodeStatus_Ok) {
        return;
    }
    void *copy = proto_decode(table, slice_of(bytes, size), false, g->arena, NULL);
    if (copy != NULL) {
        rows_add(&g->batch, copy);
    }
}

static bool watch_row(void *ctx, const thole_v1_WatchClusterResponse *m)
{
    struct get *g = ctx;
    if (m == NULL) {
        return true; /* every row of the snapshot is printed */
    }
    switch (thole_v1_WatchClusterResponse_row_case(m)) {
    case thole_v1_WatchClusterResponse_row_host:
        keep(g, ROWS_HOSTS, thole_v1_WatchClusterResponse_host(m), &thole_v1_Host_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_shard:
        keep(g, ROWS_SHARDS, thole_v1_WatchClusterResponse_shard(m), &thole_v1_Shard_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_replica:
        keep(g, ROWS_REPLICAS, thole_v1_WatchClusterResponse_replica(m), &thole_v1_Replica_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_pool:
        keep(g, ROWS_POOLS, thole_v1_WatchClusterResponse_pool(m), &thole_v1_ShardPool_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_operation:
        keep(g, ROWS_OPERATIONS, thole_v1_WatchClusterResponse_operation(m),
             &thole_v1_Operation_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_role:
        keep(g, ROWS_ROLES, thole_v1_WatchClusterResponse_role(m), &thole_v1_Role_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_token:
        keep(g, ROWS_TOKENS, thole_v1_WatchClusterResponse_token(m), &thole_v1_Token_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_event:
        keep(g, ROWS_EVENTS, thole_v1_WatchClusterResponse_event(m), &thole_v1_Event_msginit);
        break;
    case thole_v1_WatchClusterResponse_row_deleted:
        show_gone(g, thole_v1_WatchClusterResponse_deleted(m));
        break;
    case thole_v1_WatchClusterResponse_row_NOT_SET:
        break;
    }
    if (thole_v1_WatchClusterResponse_bookmark(m)) {
        flush_batch(g);
    }
    return ferror(stdout) == 0;
}

static int get_watch(struct get *g)
{
    struct thole_status st;
    struct cli_table_layout layout = {0};
    g->batch.kind = g->q.kind;
    g->arena = upb_Arena_New();
    g->c->layout = &layout;
    enum thole_code code = g->q.kind == ROWS_EVENTS
                               ? rows_watch_events(g->c, &g->q, watch_row, g, &st)
                               : rows_watch(g->c, 0, watch_row, g, &st);
    g->c->layout = NULL;
    rows_deinit(&g->batch);
    upb_Arena_Free(g->arena);
    return code == THOLE_OK ? cli__flush() : cli__say_status("the watch ended", &st);
}

int cli__command_get(struct cli *c)
{
    struct get g = {.c = c, .limit = cli_number(c, OPT_LIMIT)};
    if (!rows_parse_kind(c->args[0], &g.q.kind)) {
        return cli__say_usage(c,
                              "\"%s\" is not one of hosts, shards, pools, replicas, operations, "
                              "events, roles, tokens",
                              c->args[0]);
    }
    g.name = c->arg_count > 1 ? c->args[1] : NULL;
    if (cli_given(c, OPT_SHARD)) {
        g.q.shard = cli__strip(cli_text(c, OPT_SHARD), "shard");
    }
    if (cli_given(c, OPT_HOST)) {
        g.q.host = cli__strip(cli_text(c, OPT_HOST), "host");
    }
    g.q.object = cli_given(c, OPT_OBJECT) ? cli_text(c, OPT_OBJECT) : NULL;
    g.q.after = cli_number(c, OPT_SINCE);
    g.q.stale = cli_flag(c, OPT_STALE);
    if (g.name != NULL && g.q.kind == ROWS_EVENTS) {
        g.q.object = g.name;
    } else if (g.name != NULL && (g.q.kind == ROWS_REPLICAS || g.q.kind == ROWS_OPERATIONS)) {
        const char *slash = strrchr(g.name, '/');
        if (!options_parse_number(slash != NULL ? slash + 1 : g.name, &g.id)) {
            return cli__say_usage(c, "\"%s\" is not an id", g.name);
        }
    } else if (g.name != NULL) {
        g.name = cli__strip(g.name, g.q.kind == ROWS_HOSTS    ? "host"
                                    : g.q.kind == ROWS_POOLS  ? "pool"
                                    : g.q.kind == ROWS_ROLES  ? "role"
                                    : g.q.kind == ROWS_TOKENS ? "token"
                                                              : "shard");
    }
    if (g.q.object != NULL && g.q.kind == ROWS_EVENTS && !is_object(g.q.object)) {
        return cli__say_usage(c,
                              "\"%s\" is not an object, such as shards/orders, hosts/h1, pools/p, "
                              "roles/r, operations/7 or shards/orders/replicas/12",
                              g.q.object);
    }
    if (cli_flag(c, OPT_WATCH)) {
        return get_watch(&g);
    }
    bool one = g.name != NULL && g.q.kind != ROWS_REPLICAS && g.q.kind != ROWS_EVENTS &&
               g.q.kind != ROWS_TOKENS;
    return one ? get_one(&g) : get_list(&g);
}
