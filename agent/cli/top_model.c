/* What `thole top` knows: rows from Cluster.Watch, load from Cluster.Status of each host. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/cli/top.h"
#include "base/clock.h"

#define COPY(to, view) snprintf((to), sizeof(to), "%.*s", CLI_SV(view))

void top_model_init(struct top_model *m)
{
    *m = (struct top_model){.changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    pthread_mutex_init(&m->lock, NULL);
}

static void wake(struct top_model *m)
{
    uint64_t one = 1;
    ssize_t written = write(m->changed, &one, sizeof one);
    (void)written; /* it is readable already */
}

void top_model_problem(struct top_model *m, const char *text)
{
    pthread_mutex_lock(&m->lock);
    snprintf(m->problem, sizeof m->problem, "%s", text);
    pthread_mutex_unlock(&m->lock);
    wake(m);
}

static void clear_map(struct map *map)
{
    void *value;
    for (size_t it = 0; (value = map_next(map, &it, NULL)) != NULL;) {
        free(value);
    }
    map_deinit(map);
}

void top_model_clear(struct top_model *m)
{
    pthread_mutex_lock(&m->lock);
    m->complete = false;
    m->host_count = 0;
    clear_map(&m->shards);
    clear_map(&m->replicas);
    clear_map(&m->operations);
    pthread_mutex_unlock(&m->lock);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static size_t find_host(const struct top_model *m, const char *name, bool *ret_found)
{
    size_t i = 0;
    while (i < m->host_count && strcmp(m->hosts[i].name, name) < 0) {
        i++;
    }
    *ret_found = i < m->host_count && strcmp(m->hosts[i].name, name) == 0;
    return i;
}

static void see_zone(struct top_host *h, const thole_v1_Host *row)
{
    size_t it = kUpb_Map_Begin;
    const thole_v1_HostSpec_TagsEntry *tag;
    h->zone[0] = '\0';
    while ((tag = thole_v1_HostSpec_tags_next(rows_host_spec(row), &it)) != NULL) {
        if (upb_StringView_IsEqual(thole_v1_HostSpec_TagsEntry_key(tag), cli__sv("zone"))) {
            COPY(h->zone, thole_v1_HostSpec_TagsEntry_value(tag));
        }
    }
}

static void see_host(struct top_model *m, const thole_v1_Host *row)
{
    char name[TOP_NAME_BYTES];
    bool found;
    COPY(name, thole_v1_Host_name(row));
    size_t i = find_host(m, name, &found);
    if (!found) {
        m->hosts = xrealloc(m->hosts, (m->host_count + 1) * sizeof *m->hosts);
        memmove(m->hosts + i + 1, m->hosts + i, (m->host_count - i) * sizeof *m->hosts);
        m->hosts[i] = (struct top_host){0};
        memcpy(m->hosts[i].name, name, sizeof name);
        m->host_count++;
    }
    struct top_host *h = &m->hosts[i];
    h->state = thole_v1_HostSpec_state(rows_host_spec(row));
    h->liveness =
        thole_v1_Host_has_status(row) ? thole_v1_HostStatus_liveness(thole_v1_Host_status(row)) : 0;
    see_zone(h, row);
}

static struct top_shard *shard_of(struct top_model *m, uint64_t id)
{
    struct top_shard *s = map_get(&m->shards, id + 1);
    if (s == NULL) {
        s = xcalloc(1, sizeof *s);
        s->id = id;
        (void)map_put(&m->shards, id + 1, s);
    }
    return s;
}

static void see_shard(struct top_model *m, const thole_v1_Shard *row)
{
    struct top_shard *s = shard_of(m, thole_v1_Shard_id(row));
    const thole_v1_Condition *ready = rows_condition(row, "Ready");
    const thole_v1_Condition *degraded = rows_condition(row, "Degraded");
    COPY(s->name, thole_v1_Shard_name(row));
    COPY(s->type, thole_v1_ShardSpec_type(rows_shard_spec(row)));
    COPY(s->leader, thole_v1_ShardStatus_leader_host(rows_shard_status(row)));
    s->ready = rows_shard_ready(row);
    s->degraded = degraded != NULL && thole_v1_Condition_status(degraded);
    const thole_v1_Condition *why = !s->ready ? ready : s->degraded ? degraded : NULL;
    s->reason[0] = '\0';
    if (why != NULL) {
        snprintf(s->reason, sizeof s->reason, "%.*s: %.*s", CLI_SV(thole_v1_Condition_reason(why)),
                 CLI_SV(thole_v1_Condition_message(why)));
    }
}

static void unlink_replica(struct top_model *m, struct top_replica *r)
{
    struct top_shard *s = map_get(&m->shards, r->shard_id + 1);
    for (struct top_replica **at = s != NULL ? &s->replicas : NULL; at != NULL && *at != NULL;
         at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            return;
        }
    }
}

static void see_replica(struct top_model *m, const thole_v1_Replica *row)
{
    uint64_t id = thole_v1_Replica_id(row);
    struct top_replica *r = map_get(&m->replicas, id);
    if (r == NULL) {
        r = xcalloc(1, sizeof *r);
        r->id = id;
        r->shard_id = thole_v1_Replica_shard_id(row);
        struct top_shard *s = shard_of(m, r->shard_id);
        r->next = s->replicas;
        s->replicas = r;
        (void)map_put(&m->replicas, id, r);
    }
    COPY(r->host, thole_v1_Replica_host(row));
    r->role = thole_v1_Replica_role(row);
    r->phase = thole_v1_Replica_phase(row);
    r->removing = thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_REMOVE;
}

static void see_operation(struct top_model *m, const thole_v1_Operation *row)
{
    uint64_t id = thole_v1_Operation_id(row);
    struct top_operation *o = map_get(&m->operations, id);
    char age[16];
    if (o == NULL) {
        o = xcalloc(1, sizeof *o);
        o->id = id;
        (void)map_put(&m->operations, id, o);
    }
    o->over = thole_v1_Operation_end_time_ms(row) != 0;
    snprintf(
        o->text, sizeof o->text, "%-6" PRIu64 " %-12s %-20.*s %-9s %" PRIu32 "/%" PRIu32 " %s %.*s",
        id, show_operation_kind(thole_v1_Operation_kind(row)),
        CLI_SV(thole_v1_Operation_target(row)), show_operation_state(thole_v1_Operation_state(row)),
        thole_v1_Operation_done(row), thole_v1_Operation_total(row),
        cli__age(thole_v1_Operation_start_time_ms(row), age, sizeof age),
        CLI_SV(thole_v1_Operation_message(row)));
}

static void see_event(struct top_model *m, const thole_v1_Event *e)
{
    char at[40];
    char *text = m->events[m->event_count++ % TOP_EVENTS];
    (void)cli__time(thole_v1_Event_time_ms(e), at, sizeof at);
    snprintf(text, sizeof m->events[0], "%.8s  %-24.*s %-18.*s %.*s",
             strlen(at) > 11 ? at + 11 : at, CLI_SV(thole_v1_Event_object(e)),
             CLI_SV(thole_v1_Event_reason(e)), CLI_SV(thole_v1_Event_message(e)));
}

static void delete_host(struct top_model *m, const char *name)
{
    bool found;
    size_t i = find_host(m, name, &found);
    if (found) {
        m->host_count--;
        memmove(m->hosts + i, m->hosts + i + 1, (m->host_count - i) * sizeof *m->hosts);
    }
}

static void delete_shard(struct top_model *m, const char *name)
{
    struct top_shard *s;
    uint64_t key;
    for (size_t it = 0; (s = map_next(&m->shards, &it, &key)) != NULL;) {
        if (strcmp(s->name, name) != 0) {
            continue;
        }
        (void)map_remove(&m->shards, key);
        for (struct top_replica *r = s->replicas, *next; r != NULL; r = next) {
            next = r->next;
            (void)map_remove(&m->replicas, r->id);
            free(r);
        }
        free(s);
        return;
    }
}

/* hosts/h1, shards/orders, shards/orders/replicas/12, operations/7, and others. */
static void see_deleted(struct top_model *m, upb_StringView name)
{
    char text[320];
    COPY(text, name);
    char *replica = strstr(text, "/replicas/");
    if (strncmp(text, "shards/", 7) == 0 && replica != NULL) {
        struct top_replica *r = map_remove(&m->replicas, strtoull(replica + 10, NULL, 10));
        if (r != NULL) {
            unlink_replica(m, r);
            free(r);
        }
    } else if (strncmp(text, "shards/", 7) == 0) {
        delete_shard(m, text + 7);
    } else if (strncmp(text, "hosts/", 6) == 0) {
        delete_host(m, text + 6);
    } else if (strncmp(text, "operations/", 11) == 0) {
        free(map_remove(&m->operations, strtoull(text + 11, NULL, 10)));
    }
}

void top_model_see(struct top_model *m, const thole_v1_WatchClusterResponse *w)
{
    bool changed = true;
    if (w == NULL) {
        top_model_clear(m);
        return;
    }
    pthread_mutex_lock(&m->lock);
    if (thole_v1_WatchClusterResponse_has_host(w)) {
        see_host(m, thole_v1_WatchClusterResponse_host(w));
    } else if (thole_v1_WatchClusterResponse_has_shard(w)) {
        see_shard(m, thole_v1_WatchClusterResponse_shard(w));
    } else if (thole_v1_WatchClusterResponse_has_replica(w)) {
        see_replica(m, thole_v1_WatchClusterResponse_replica(w));
    } else if (thole_v1_WatchClusterResponse_has_operation(w)) {
        see_operation(m, thole_v1_WatchClusterResponse_operation(w));
    } else if (thole_v1_WatchClusterResponse_has_event(w)) {
        see_event(m, thole_v1_WatchClusterResponse_event(w));
    } else if (thole_v1_WatchClusterResponse_has_deleted(w)) {
        see_deleted(m, thole_v1_WatchClusterResponse_deleted(w));
    } else if (thole_v1_WatchClusterResponse_bookmark(w)) {
        m->complete = true;
        m->problem[0] = '\0';
    } else {
        changed = false;
    }
    changed = changed && m->complete;
    pthread_mutex_unlock(&m->lock);
    if (changed) {
        wake(m);
    }
}

/* ---- Load ------------------------------------------------------------------------------------ */

static void see_local(struct top_model *m, const char *host, const thole_v1_LocalReplica *l,
                      uint64_t now_ns)
{
    struct top_replica *r = map_get(&m->replicas, thole_v1_LocalReplica_replica_id(l));
    struct top_shard *s = map_get(&m->shards, thole_v1_LocalReplica_shard_id(l) + 1);
    if (r != NULL) {
        r->applied = thole_v1_LocalReplica_applied(l);
    }
    if (s == NULL || !upb_StringView_IsEqual(thole_v1_LocalReplica_role(l), cli__sv("leader"))) {
        return;
    }
    s->commit_before = s->commit;
    s->before_ns = s->at_ns;
    s->commit = thole_v1_LocalReplica_commit(l);
    s->at_ns = now_ns;
    snprintf(s->leader, sizeof s->leader, "%s", host); /* newer than the row */
}

void top_model_load(struct top_model *m, const char *host, const thole_v1_StatusResponse *st)
{
    uint64_t now_ns = clock_now(&clock_system);
    size_t n = 0;
    bool found;
    pthread_mutex_lock(&m->lock);
    size_t i = find_host(m, host, &found);
    if (found) {
        struct top_host *h = &m->hosts[i];
        double cpu = thole_v1_StatusResponse_cpu_seconds(st);
        double up = thole_v1_StatusResponse_uptime_seconds(st);
        h->cpu = h->asked && up > h->uptime_seconds && cpu >= h->cpu_seconds
                     ? (cpu - h->cpu_seconds) / (up - h->uptime_seconds)
                     : 0;
        h->cpu_seconds = cpu;
        h->uptime_seconds = up;
        h->asked = true;
    }
    const thole_v1_LocalReplica *const *all = thole_v1_StatusResponse_replicas(st, &n);
    for (size_t k = 0; k < n; k++) {
        see_local(m, host, all[k], now_ns);
    }
    pthread_mutex_unlock(&m->lock);
}

void top_model_settle(struct top_model *m)
{
    struct top_shard *s;
    pthread_mutex_lock(&m->lock);
    for (size_t it = 0; (s = map_next(&m->shards, &it, NULL)) != NULL;) {
        uint64_t lag = 0;
        for (const struct top_replica *r = s->replicas; r != NULL; r = r->next) {
            bool counts =
                r->role != thole_v1_REPLICA_ROLE_WITNESS && !r->removing && r->applied > 0;
            lag = counts && s->commit > r->applied + lag ? s->commit - r->applied : lag;
        }
        s->lag = lag;
        s->rate =
            s->before_ns > 0 && s->at_ns > s->before_ns && s->commit >= s->commit_before
                ? (double)(s->commit - s->commit_before) * 1e9 / (double)(s->at_ns - s->before_ns)
                : 0;
    }
    m->polls++;
    pthread_mutex_unlock(&m->lock);
    wake(m);
}
