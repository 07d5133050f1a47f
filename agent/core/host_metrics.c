/* The metrics of one host. See host_metrics.h.
 *
 * Labels are bounded: liveness, states and roles are enumerations; machine types are those that
 * this host runs, and "other"; shards are the busiest ENGINE_TOP_SHARDS of this host. */
#include "agent/core/host_metrics.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "agent/core/agent_internal.h"
#include "agent/core/availability.h"
#include "base/file.h"
#include "base/metrics.h"
#include "proto/names.h"

#define COUNTED_TYPES (AGENT_TYPES_MAX + 1) /* and "other" */

static void gauge(struct bytes *out, const char *name, double value, const char *help)
{
    metrics_single(out, METRIC_GAUGE, name, value, help);
}

/* One sample per name. */
static void by_name(struct bytes *out, const char *metric, const char *help, const char *key,
                    const char *const *names, const uint64_t *counts, size_t n)
{
    metrics_head(out, METRIC_GAUGE, metric, help);
    for (size_t i = 0; i < n; i++) {
        const struct metric_label label = {key, slice_str(names[i])};
        metrics_sample(out, metric, &label, 1, (double)counts[i]);
    }
}

static void render_identity(struct agent *a, struct bytes *out)
{
    struct uuid cluster;
    char id[UUID_TEXT_BYTES] = "", why[THOLE_STATUS_MESSAGE_BYTES];
    const struct metric_label version = {"version", slice_str(agent_version())};
    metrics_head(out, METRIC_GAUGE, "thole_build_info", "1; the label is the version");
    metrics_sample(out, "thole_build_info", &version, 1, 1);
    if (agent_cluster(a, &cluster)) {
        uuid_format(&cluster, id);
    }
    const struct metric_label host[] = {{"host", slice_str(agent_name(a))},
                                        {"cluster", slice_str(id)}};
    metrics_head(out, METRIC_GAUGE, "thole_host_info",
                 "1; the labels are the host's name and the cluster's id");
    metrics_sample(out, "thole_host_info", host, 2, 1);
    gauge(out, "thole_host_ready", agent_is_ready(a, why, sizeof why) ? 1 : 0,
          "1: this host is ready, as /readyz says");
}

/* ---- The view -------------------------------------------------------------------------------- */

static void render_hosts(struct agent *a, const struct registry_view *v, struct bytes *out)
{
    enum { LIVENESS = thole_v1_HOST_LIVENESS_DEAD + 1, STATES = thole_v1_HOST_STATE_REMOVED + 1 };
    const char *liveness_names[LIVENESS] = {"unknown"}, *state_names[STATES] = {"unknown"};
    for (int32_t i = 1; i < LIVENESS; i++) {
        liveness_names[i] = proto_host_liveness(i);
    }
    for (int32_t i = 1; i < STATES; i++) {
        state_names[i] = proto_host_state(i);
    }
    uint64_t liveness[LIVENESS] = {0}, states[STATES] = {0};
    struct slice name = {0};
    const thole_v1_Host *row;
    while ((row = registry_next_host(v, name)) != NULL) {
        int32_t is = agent_check_host_liveness(a, row);
        int32_t state = thole_v1_HostSpec_state(thole_v1_Host_spec(row));
        name = registry_str(thole_v1_Host_name(row));
        liveness[is > 0 && is < LIVENESS ? is : 0]++;
        states[state > 0 && state < STATES ? state : 0]++;
    }
    by_name(out, "thole_hosts", "Hosts of the cluster by liveness, as this host sees them",
            "liveness", liveness_names, liveness, LIVENESS);
    by_name(out, "thole_hosts_by_state", "Hosts of the cluster by their wanted state", "state",
            state_names, states, STATES);
}

struct shard_counts {
    const char *types[COUNTED_TYPES];
    size_t type_count; /* the last one is "other" */
    uint64_t all[COUNTED_TYPES], unready[COUNTED_TYPES], degraded[COUNTED_TYPES],
        leaderless[COUNTED_TYPES];
};

static bool has_condition(const thole_v1_Shard *row, const char *type)
{
    const thole_v1_Condition *c = registry_shard_condition(row, type);
    return c != NULL && thole_v1_Condition_status(c);
}

static void count_shard(const struct availability_check *check, const thole_v1_Shard *row,
                        struct shard_counts *c)
{
    struct shard_availability now;
    struct slice type = registry_str(thole_v1_ShardSpec_type(thole_v1_Shard_spec(row)));
    size_t i = 0;
    while (i + 1 < c->type_count && !slice_equal(type, slice_str(c->types[i]))) {
        i++;
    }
    agent_check_shard(check, row, &now);
    c->all[i]++;
    c->unready[i] += !has_condition(row, "Ready") || !now.available;
    c->degraded[i] += has_condition(row, "Degraded") || now.silent > 0;
    c->leaderless[i] += now.leaderless;
}

static void render_shards(struct agent *a, const struct registry_view *v, struct bytes *out)
{
    const struct availability_check check = agent_availability_begin(a, v);
    struct registry_shard_buf buf;
    struct shard_counts c = {0};
    struct slice name = {0};
    const thole_v1_Shard *row;
    for (; c.type_count < a->type_count; c.type_count++) {
        c.types[c.type_count] = a->types[c.type_count]->name;
    }
    c.types[c.type_count++] = "other";
    while ((row = registry_next_shard(v, name, &buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(row));
        count_shard(&check, row, &c);
    }
    by_name(out, "thole_shards", "Shards of the cluster", "type", c.types, c.all, c.type_count);
    by_name(out, "thole_shards_not_ready",
            "Shards whose condition Ready is false, as this host sees them", "type", c.types,
            c.unready, c.type_count);
    by_name(out, "thole_shards_degraded",
            "Shards whose condition Degraded is true, as this host sees them", "type", c.types,
            c.degraded, c.type_count);
    by_name(out, "thole_shards_without_leader",
            "Shards without a leader or a quorum that answers, as this host sees them", "type",
            c.types, c.leaderless, c.type_count);
}

static void render_operations(const struct registry_view *v, struct bytes *out)
{
    static const char *const names[] = {"placement", "membership", "balance"};
    uint32_t paused = registry_paused_controllers(v);
    const uint64_t is_paused[] = {
        (paused >> thole_v1_CONTROLLER_PLACEMENT) & 1,
        (paused >> thole_v1_CONTROLLER_MEMBERSHIP) & 1,
        (paused >> thole_v1_CONTROLLER_BALANCE) & 1,
    };
    const thole_v1_Operation *row;
    uint64_t after = 0, running = 0;
    while ((row = registry_next_operation(v, after)) != NULL) {
        after = thole_v1_Operation_id(row);
        running += !registry_operation_has_ended(row);
    }
    gauge(out, "thole_operations_running", (double)running,
          "Operations that have not ended, pauses included");
    by_name(out, "thole_controllers_paused", "1: a user has paused the controller", "controller",
            names, is_paused, sizeof names / sizeof names[0]);
}

static void render_view(struct agent *a, const struct registry_view *v, struct bytes *out)
{
    uint64_t age_ms = agent_view_age_ms(a);
    gauge(out, "thole_registry_leader_known", age_ms == 0 ? 1 : 0,
          "1: this host knows a leader of shard zero");
    gauge(out, "thole_registry_view_age_seconds", (double)age_ms / 1000,
          "Time since this host lost shard zero's leader, so that its rows may be that old; 0: it "
          "knows one");
    gauge(out, "thole_registry_revision", (double)registry_view_revision(v),
          "Revision of shard zero that this host has applied");
    render_hosts(a, v, out);
    render_shards(a, v, out);
    render_operations(v, out);
}

/* ---- The replicas ---------------------------------------------------------------------------- */

static void render_top(const struct registry_view *v, const struct engine_load *load,
                       struct bytes *out)
{
    struct registry_shard_buf buf;
    metrics_head(out, METRIC_COUNTER, "thole_shard_proposals_total",
                 "Proposals appended here since the replica started, of the shards that got most "
                 "lately");
    for (size_t i = 0; i < load->top_count; i++) {
        const thole_v1_Shard *row = registry_shard(v, load->top[i].shard_id, &buf);
        if (row != NULL) {
            const struct metric_label label = {"shard", registry_str(thole_v1_Shard_name(row))};
            metrics_sample(out, "thole_shard_proposals_total", &label, 1,
                           (double)load->top[i].proposals);
        }
    }
}

static void render_replicas(struct agent *a, const struct registry_view *v, struct bytes *out)
{
    static const char *const roles[] = {"leader", "follower", "candidate", "failed"};
    struct engine_load load;
    engine_load(a->engine, &load);
    const uint64_t counts[] = {load.leaders, load.followers, load.candidates, load.failed};
    by_name(out, "thole_replicas", "Replicas of this host by Raft role; failed ones have none",
            "role", roles, counts, sizeof roles / sizeof roles[0]);
    gauge(out, "thole_replicas_without_leader", (double)load.leaderless,
          "Replicas of this host that know no leader");
    gauge(out, "thole_entries_unapplied", (double)load.unapplied,
          "Entries that are committed here and not applied");
    metrics_head(out, METRIC_COUNTER, "thole_type_proposals_total",
                 "Proposals appended here, by machine type");
    for (size_t i = 0; i < a->type_count; i++) {
        const struct metric_label label = {"type", slice_str(a->types[i]->name)};
        metrics_sample(out, "thole_type_proposals_total", &label, 1,
                       (double)engine_type_proposals(a->engine, a->types[i]->name));
    }
    render_top(v, &load, out);
}

/* ---- The machine ----------------------------------------------------------------------------- */

static void render_disk(struct agent *a, struct bytes *out)
{
    uint64_t free_bytes = 0, size_bytes = 0;
    struct thole_status st;
    enum engine_disk disk = engine_disk(a->engine);
    if (file_space(a->dir.path, &free_bytes, &size_bytes, &st) == THOLE_OK) {
        gauge(out, "thole_disk_free_bytes", (double)free_bytes,
              "Free space of the data directory's file system");
        gauge(out, "thole_disk_size_bytes", (double)size_bytes,
              "Size of the data directory's file system");
    }
    gauge(out, "thole_disk_low_space", disk == ENGINE_DISK_LOW ? 1 : 0,
          "1: so little is free that this host refuses proposals");
    gauge(out, "thole_disk_stalled", disk == ENGINE_DISK_STALLED ? 1 : 0,
          "1: a write to the log does not end");
}

static void render_clock(struct agent *a, struct bytes *out)
{
    gauge(out, "thole_clock_ahead_seconds", (double)engine_clock_ahead_ms(a->engine) / 1000,
          "Wall clock of this host, less the median of all hosts");
}

static void render_certificate(struct agent *a, struct bytes *out)
{
    double left_s = INFINITY;
    if (a->tls != NULL) {
        left_s = difftime((time_t)bus_tls_expiry_s(a->tls), time(NULL));
    }
    gauge(out, "thole_tls_certificate_left_seconds", left_s,
          "Time until this host's certificate, or its CA's, ceases to count; +Inf: plain text");
}

void agent_metrics(struct agent *a, struct bytes *out)
{
    struct registry_view *v = registry_view_acquire(a->registry);
    render_identity(a, out);
    render_view(a, v, out);
    render_replicas(a, v, out);
    render_disk(a, out);
    render_clock(a, out);
    render_certificate(a, out);
    registry_view_release(v);
}
