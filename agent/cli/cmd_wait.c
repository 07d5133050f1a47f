/* `thole wait`, and --wait of other commands. */
#include "agent/cli/cmd_wait.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static const char *const for_names[] = {
    [WAIT_READY] = "ready",     [WAIT_FORMED] = "formed",   [WAIT_DELETED] = "deleted",
    [WAIT_DRAINED] = "drained", [WAIT_RUNNING] = "running",
};

static const char *item_name(const struct wait_item *w, char *ret, size_t size)
{
    if (w->kind == ROWS_REPLICAS) {
        snprintf(ret, size, "replica %" PRIu64, w->id);
    } else {
        snprintf(ret, size, "%s %s",
                 w->kind == ROWS_HOSTS   ? "host"
                 : w->kind == ROWS_POOLS ? "pool"
                                         : "shard",
                 w->name);
    }
    return ret;
}

static void tell(struct wait_item *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void tell(struct wait_item *w, const char *format, ...)
{
    char text[sizeof w->told], name[ROWS_NAME_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (strcmp(text, w->told) != 0) {
        snprintf(w->told, sizeof w->told, "%s", text);
        if (!w->quiet) {
            cli__note("%s: %s", item_name(w, name, sizeof name), text);
        }
    }
}

/* ---- One row at a time ----------------------------------------------------------------------- */

static void observe_shard(struct wait_item *w, const thole_v1_Shard *s)
{
    if (w->kind != ROWS_SHARDS ||
        !upb_StringView_IsEqual(thole_v1_Shard_name(s), cli__sv(w->name))) {
        return;
    }
    w->seen = true;
    w->gone = false;
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    if (w->what == WAIT_FORMED) {
        w->done = status != NULL && thole_v1_ShardStatus_formed(status);
    } else if (w->what == WAIT_DELETED && w->id != 0 && thole_v1_Shard_id(s) != w->id) {
        w->done = true; /* it was deleted, and another object has the name */
    } else if (w->what == WAIT_DELETED) {
        w->id = thole_v1_Shard_id(s);
        const thole_v1_Condition *why = rows_condition(s, "Ready");
        bool waits = why != NULL &&
                     upb_StringView_IsEqual(thole_v1_Condition_reason(why), cli__sv("Deleting"));
        tell(w, "%s%s%.*s",
             thole_v1_Shard_deleting(s) ? "being deleted" : "nobody has asked to delete it",
             waits ? ": " : "", CLI_SV(waits ? thole_v1_Condition_message(why) : cli__sv("")));
    } else if (w->what == WAIT_READY) {
        const thole_v1_Condition *placed = rows_condition(s, "Placed");
        const thole_v1_Condition *ready = rows_condition(s, "Ready");
        const thole_v1_Condition *why =
            placed != NULL && !thole_v1_Condition_status(placed) ? placed : ready;
        w->done = thole_v1_Shard_generation(s) >= w->generation && rows_shard_ready(s);
        if (w->done) {
            tell(w, "ready");
        } else if (why != NULL && !thole_v1_Condition_status(why)) {
            tell(w, "not ready: %.*s: %.*s", CLI_SV(thole_v1_Condition_reason(why)),
                 CLI_SV(thole_v1_Condition_message(why)));
        }
    }
}

static void observe_pool(struct wait_item *w, const thole_v1_ShardPool *p)
{
    if (w->kind != ROWS_POOLS ||
        !upb_StringView_IsEqual(thole_v1_ShardPool_name(p), cli__sv(w->name))) {
        return;
    }
    const thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_status(p);
    uint32_t count = thole_v1_ShardPoolSpec_count(rows_pool_spec(p));
    uint32_t ready = thole_v1_ShardPoolStatus_ready(status);
    upb_StringView taken = thole_v1_ShardPoolStatus_name_taken(status);
    w->seen = true;
    w->gone = false;
    if (w->what == WAIT_DELETED) {
        tell(w, "%s",
             thole_v1_ShardPool_deleting(p) ? "being deleted" : "nobody has asked to delete it");
    }
    if (w->what != WAIT_READY) {
        return;
    }
    snprintf(w->taken, sizeof w->taken, "%.*s", CLI_SV(taken));
    w->done = thole_v1_ShardPool_generation(p) >= w->generation && rows_pool_ready(p);
    if (w->done) {
        tell(w, "all %" PRIu32 " shards are ready", count);
    } else {
        w->total = count;
        w->reached = ready;
    }
}

/* Once per batch of changes, and for large pools not for every shard; the last state is always
 * printed. */
static void progress_of_pool(struct wait_item *w, bool last)
{
    uint64_t now = clock_now(&clock_system);
    double seconds = (double)(now - w->begin_ns) / 1e9;
    if (w->done || w->total == 0 || (!last && w->told_ns != 0 && now - w->told_ns < NS_PER_S)) {
        return;
    }
    w->told_ns = now;
    if (w->taken[0] != '\0') {
        tell(w, "%zu of %zu shards are ready; %s is a shard that is not of the pool", w->reached,
             w->total, w->taken);
    } else if (w->reached > 0 && w->reached < w->total && seconds > 1) {
        tell(w, "%zu of %zu shards are ready, about %.0f s left", w->reached, w->total,
             seconds / (double)w->reached * (double)(w->total - w->reached));
    } else {
        tell(w, "%zu of %zu shards are ready", w->reached, w->total);
    }
}

static void observe_replica(struct wait_item *w, const thole_v1_Replica *r)
{
    bool gone = thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_GONE;
    uint64_t id = thole_v1_Replica_id(r);
    if (w->kind == ROWS_REPLICAS && id == w->id) {
        w->seen = true;
        w->done = w->what == WAIT_RUNNING
                      ? thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING
                      : gone;
        tell(w, "%s%s%.*s", show_phase(thole_v1_Replica_phase(r)),
             thole_v1_Replica_message(r).size > 0 ? ": " : "", CLI_SV(thole_v1_Replica_message(r)));
    } else if (w->kind == ROWS_HOSTS && thole_v1_Replica_shard_id(r) != 0 &&
               upb_StringView_IsEqual(thole_v1_Replica_host(r), cli__sv(w->name))) {
        if (gone) {
            (void)map_remove(&w->replicas, id);
        } else {
            (void)map_put(&w->replicas, id, w);
        }
    }
}

/* "shards/orders/replicas/12" -> 12 */
static uint64_t replica_of(upb_StringView name)
{
    uint64_t id = 0;
    char text[ROWS_NAME_BYTES];
    const char *slash = memrchr(name.data, '/', name.size);
    snprintf(text, sizeof text, "%.*s",
             slash != NULL ? (int)(name.data + name.size - slash - 1) : 0,
             slash != NULL ? slash + 1 : "");
    return options_parse_number(text, &id) ? id : 0;
}

static void observe_deleted(struct wait_item *w, upb_StringView name)
{
    char own[ROWS_NAME_BYTES];
    if (memmem(name.data, name.size, "/replicas/", 10) != NULL) {
        uint64_t id = replica_of(name);
        (void)map_remove(&w->replicas, id);
        bool this = w->kind == ROWS_REPLICAS && id == w->id;
        w->done |= this && w->what == WAIT_DELETED;
        w->gone |= this && w->what != WAIT_DELETED;
        return;
    }
    if (w->kind == ROWS_REPLICAS) {
        return;
    }
    snprintf(own, sizeof own, "%s/%s",
             w->kind == ROWS_HOSTS   ? "hosts"
             : w->kind == ROWS_POOLS ? "pools"
                                     : "shards",
             w->name);
    if (upb_StringView_IsEqual(name, cli__sv(own))) {
        w->done |= w->what == WAIT_DELETED;
        w->gone = w->what != WAIT_DELETED;
    }
}

static void progress_of_drain(struct wait_item *w)
{
    size_t left = w->replicas.count;
    if (left > w->most) {
        w->most = left;
    }
    w->done = w->seen && left == 0;
    if (left == 0) {
        tell(w, "drained");
        return;
    }
    size_t moved = w->most - left;
    double seconds = (double)(clock_now(&clock_system) - w->begin_ns) / 1e9;
    if (moved > 0) {
        tell(w, "%zu of %zu replicas moved, about %.0f s left", moved, w->most,
             seconds / (double)moved * (double)left);
    } else {
        tell(w, "%zu replicas to move", left);
    }
}

void wait_observe(struct wait_item *w, const thole_v1_WatchClusterResponse *m)
{
    if (m == NULL) {
        w->seen = false;
        map_deinit(&w->replicas);
        return;
    }
    switch (thole_v1_WatchClusterResponse_row_case(m)) {
    case thole_v1_WatchClusterResponse_row_shard:
        observe_shard(w, thole_v1_WatchClusterResponse_shard(m));
        break;
    case thole_v1_WatchClusterResponse_row_replica:
        observe_replica(w, thole_v1_WatchClusterResponse_replica(m));
        break;
    case thole_v1_WatchClusterResponse_row_host:
        if (w->kind == ROWS_HOSTS &&
            upb_StringView_IsEqual(thole_v1_Host_name(thole_v1_WatchClusterResponse_host(m)),
                                   cli__sv(w->name))) {
            w->seen = true;
        }
        break;
    case thole_v1_WatchClusterResponse_row_pool:
        observe_pool(w, thole_v1_WatchClusterResponse_pool(m));
        break;
    case thole_v1_WatchClusterResponse_row_deleted:
        observe_deleted(w, thole_v1_WatchClusterResponse_deleted(m));
        break;
    case thole_v1_WatchClusterResponse_row_operation:
    case thole_v1_WatchClusterResponse_row_role:
    case thole_v1_WatchClusterResponse_row_token:
    case thole_v1_WatchClusterResponse_row_event:
    case thole_v1_WatchClusterResponse_row_NOT_SET:
        break;
    }
    if (thole_v1_WatchClusterResponse_bookmark(m)) {
        if (w->what == WAIT_DRAINED) {
            progress_of_drain(w);
        } else if (w->what == WAIT_READY && w->kind == ROWS_POOLS) {
            progress_of_pool(w, false);
        } else if (w->what == WAIT_DELETED && !w->seen) {
            w->done = true; /* the snapshot has no such row */
        }
    }
}

/* ---- All of them ----------------------------------------------------------------------------- */

struct waiting {
    struct wait_item *items;
    size_t count;
};

static bool watch_row(void *ctx, const thole_v1_WatchClusterResponse *m)
{
    struct waiting *all = ctx;
    bool more = false, gone = false;
    for (size_t i = 0; i < all->count; i++) {
        /* A finished item may become unfinished by a later change, until all are done at the same
         * time. */
        wait_observe(&all->items[i], m);
        more |= !all->items[i].done;
        gone |= all->items[i].gone;
    }
    /* A deleted object never becomes ready. */
    return m == NULL || (more && !(gone && thole_v1_WatchClusterResponse_bookmark(m)));
}

uint64_t wait_timeout_ms(const struct cli *c)
{
    return cli_number(c, OPT_TIMEOUT);
}

int wait_all(struct cli *c, struct wait_item *items, size_t count, uint64_t timeout_ms)
{
    struct waiting all = {items, count};
    struct thole_status st;
    char name[ROWS_NAME_BYTES];
    for (size_t i = 0; i < count; i++) {
        items[i].begin_ns = clock_now(&clock_system);
    }
    if (count == 0) {
        return CLI_OK;
    }
    enum thole_code code = rows_watch(c, timeout_ms, watch_row, &all, &st);
    int result = CLI_OK;
    if (code == THOLE_DEADLINE_EXCEEDED) {
        for (size_t i = 0; i < count; i++) {
            progress_of_pool(&items[i], true);
            if (!items[i].done) {
                cli__say_failed("%s is not %s after %.0f s%s%s; --timeout gives more time",
                                item_name(&items[i], name, sizeof name), for_names[items[i].what],
                                (double)wait_timeout_ms(c) / 1000,
                                items[i].told[0] != '\0' ? "; " : "",
                                items[i].told[0] != '\0' ? items[i].told
                                : items[i].seen          ? ""
                                                         : "; it does not exist");
            }
        }
        result = CLI_UNAVAILABLE;
    } else if (code != THOLE_OK) {
        result = cli__say_status("cannot wait", &st);
    }
    for (size_t i = 0; i < count; i++) {
        if (code == THOLE_OK && items[i].gone) {
            cli__say_failed("%s was deleted", item_name(&items[i], name, sizeof name));
            result = CLI_NOT_FOUND;
        }
        map_deinit(&items[i].replicas);
    }
    return result;
}

static bool parse_item(struct cli *c, const char *text, struct wait_item *w)
{
    static const char *const words[] = {"shard/", "shards/", "host/",    "hosts/",
                                        "pool/",  "pools/",  "replica/", "replicas/"};
    static const enum rows_kind kinds[] = {ROWS_SHARDS, ROWS_HOSTS, ROWS_POOLS, ROWS_REPLICAS};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t size = strlen(words[i]);
        if (strncmp(text, words[i], size) == 0 && text[size] != '\0') {
            w->kind = kinds[i / 2];
            w->name = text + size;
            if (w->kind == ROWS_REPLICAS && !options_parse_number(w->name, &w->id)) {
                break;
            }
            return true;
        }
    }
    cli__say_usage(c, "\"%s\" is not like shard/NAME, pool/NAME, host/NAME or replica/ID", text);
    return false;
}

/* The watch starts with the view of one host, which may be behind, so ask whether the row exists,
 * for at most limit_ms. */
static int must_exist(struct cli *c, const struct wait_item *w, uint64_t limit_ms)
{
    struct thole_status st;
    const void *row = NULL;
    enum thole_code code = THOLE_OK;
    uint64_t *command_ms = &c->options.values[OPT_COMMAND_TIMEOUT].number, given_ms = *command_ms;
    if (limit_ms == 0) {
        return CLI_OK;
    }
    *command_ms = given_ms == 0 || given_ms > limit_ms ? limit_ms : given_ms;
    if (w->kind == ROWS_SHARDS) {
        code = rows_get_shard(c, w->name, false, (const thole_v1_Shard **)&row, &st);
    } else if (w->kind == ROWS_POOLS) {
        code = rows_get_pool(c, w->name, false, (const thole_v1_ShardPool **)&row, &st);
    } else if (w->kind == ROWS_HOSTS) {
        code = rows_get_host(c, w->name, false, (const thole_v1_Host **)&row, &st);
    } else {
        code = rows_get_replica(c, w->id, false, (const thole_v1_Replica **)&row, &st);
    }
    *command_ms = given_ms;
    /* Keep waiting while no host answers, or no leader is known. */
    return code == THOLE_NOT_FOUND || code == THOLE_INVALID_ARGUMENT
               ? cli__say_status("cannot wait", &st)
               : CLI_OK;
}

static bool parse_state(const char *text, enum wait_for *ret)
{
    for (int i = WAIT_READY; i <= WAIT_DRAINED; i++) {
        if (strcmp(for_names[i], text) == 0) {
            *ret = (enum wait_for)i;
            return true;
        }
    }
    return false;
}

static uint64_t passed_since(uint64_t begin_ns)
{
    return (clock_now(&clock_system) - begin_ns) / NS_PER_MS;
}

int cli__command_wait(struct cli *c)
{
    const char *what = cli_given(c, OPT_FOR) ? cli_text(c, OPT_FOR) : "ready";
    enum wait_for state;
    if (!parse_state(what, &state)) {
        return cli__say_usage(c, "--for \"%s\": must be one of ready, formed, deleted, drained",
                              what);
    }
    struct wait_item *items = xcalloc(c->arg_count, sizeof *items);
    const uint64_t timeout_ms = wait_timeout_ms(c), begin_ns = clock_now(&clock_system);
    /* At least half of the time is left for the watch, which can say what it waits for. */
    const uint64_t ask_ms = timeout_ms == 0 ? UINT64_MAX : timeout_ms / 2;
    int result = CLI_OK;
    for (size_t i = 0; result == CLI_OK && i < c->arg_count; i++) {
        struct wait_item *w = &items[i];
        if (!parse_item(c, c->args[i], w)) {
            result = CLI_USAGE;
            break;
        }
        w->what = state;
        if (w->kind == ROWS_REPLICAS && w->what == WAIT_READY) {
            w->what = WAIT_RUNNING;
        }
        bool fits =
            w->what == WAIT_DELETED || (w->what == WAIT_READY && w->kind == ROWS_POOLS) ||
            ((w->what == WAIT_DRAINED) == (w->kind == ROWS_HOSTS) && w->kind != ROWS_POOLS) ||
            (w->what == WAIT_RUNNING && w->kind == ROWS_REPLICAS);
        if (!fits) {
            result = cli__say_usage(c, "%s has no state %s to wait for", c->args[i], what);
        } else if (w->what != WAIT_DELETED) {
            uint64_t passed_ms = passed_since(begin_ns);
            result = must_exist(c, w, passed_ms < ask_ms ? ask_ms - passed_ms : 0);
        }
    }
    if (result == CLI_OK) {
        uint64_t passed_ms = passed_since(begin_ns);
        result = wait_all(c, items, c->arg_count,
                          timeout_ms == 0          ? 0
                          : passed_ms < timeout_ms ? timeout_ms - passed_ms
                                                   : 1);
    }
    free(items);
    return result;
}
