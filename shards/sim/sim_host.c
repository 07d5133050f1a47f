/* The life of a host: start, stop, crash, and the state that outlives them. */
#include <inttypes.h>
#include <string.h>

#include "shards/sim/sim_internal.h"

static void on_failed_log(void *ctx, const struct thole_status *st)
{
    struct sim_host *h = ctx;
    SIM_TRACE(h->s, "host %d: its log failed: %s", h->id, st->message);
    h->ending = true;
}

void sim__host_init(struct sim *s, int id)
{
    struct sim_host *h = &s->hosts[id];
    h->s = s;
    h->id = id;
    h->uuid.bytes[0] = 0x51;
    h->uuid.bytes[15] = (uint8_t)(id + 1);
    sim__executor_init(h);
    h->log = sim__disk_new(h);
    h->files = sim__files_new(h);
    h->kv = sim__kv_disk_new(h);
    h->types_[0] = sim__kv_type(h, "views", true);
    h->types_[1] = sim__kv_type(h, "plain", false);
    h->types_[2] = sim__kv_persistent_type(h, "persistent");
    for (int i = 0; i < 3; i++) {
        h->types[i] = &h->types_[i];
    }
}

void sim__host_deinit(struct sim_host *h)
{
    sim__host_crash(h);
    sim__disk_free(h->log);
    h->files->ops->free(h->files);
    sim__kv_disk_free(h->kv);
}

void sim__host_start(struct sim_host *h)
{
    struct sim *s = h->s;
    struct thole_status st;
    if (h->engine != NULL || h->dead || h->away) {
        return;
    }
    h->incarnation++;
    h->ending = h->crash_in_write = h->fail_write = h->crash_in_commit = h->fail_file = false;
    h->crash_in_apply = false;
    struct engine_options o = {
        .host_id = h->uuid,
        .incarnation = h->incarnation,
        .log = h->log,
        .files = h->files,
        .executor = &h->executor,
        .transport = {h, sim__network_send},
        .observer = {.ctx = h, .host_failed = on_failed_log},
        .loop_count = s->c.loops,
        .request_id_ms = s->c.request_id_ms,
        .applier_count = s->c.appliers,
        .election_timeout_ms = s->c.election_ms,
        .heartbeat_ms = s->c.heartbeat_ms,
        .sleep_after_ms = s->c.sleep_ms,
        .compact_log_bytes = s->c.compact_bytes,
        .keep_log_bytes = s->c.keep_bytes,
        .snapshot_bytes_per_s = s->c.snapshot_rate,
        .cache_bytes = s->c.cache_bytes,
        .seed = rand_u64(&s->rand[SIM_RAND_WORK]) | 1,
        .types = h->types,
    };
    SIM_TRACE(s, "host %d: starts, incarnation %" PRIu64, h->id, h->incarnation);
    if (engine_new(&o, &h->engine, &st) != THOLE_OK) {
        sim__fail(s, "host %d does not start: %s", h->id, st.message);
    }
    h->next_stale = true;
}

static void take_down(struct sim_host *h)
{
    engine_stop(h->engine);
    engine_free(h->engine);
    h->engine = NULL;
    h->ending = false;
    h->paused_until_ns = h->stalled_until_ns = 0;
    h->next_stale = true;
}

void sim__host_stop(struct sim_host *h)
{
    if (h->engine == NULL) {
        return;
    }
    SIM_TRACE(h->s, "host %d: stops", h->id);
    take_down(h);
}

void sim__host_crash(struct sim_host *h)
{
    if (h->engine == NULL) {
        return;
    }
    SIM_TRACE(h->s, "host %d: crashes", h->id);
    h->s->report->crashes++;
    h->ending = true; /* requests that end now have an unknown outcome */
    engine__crash(h->engine);
    take_down(h);
    sim__files_crash(h->files);
    sim__kv_disk_crash(h->kv);
}

static void restart(struct sim *s, void *arg)
{
    (void)s;
    sim__host_start(arg);
}

void sim__host_restart_later(struct sim_host *h, uint64_t delay_ns)
{
    sim__at(h->s, h->s->now_ns + delay_ns, restart, h);
}
