/* Timers and leases of the machine under test, and what the entries' times must obey.
 *
 * The machine has a few slots by the wall clock (timers) and by the time with a leader (leases).
 * Some commands set one, or set it anew, as a keepalive would. A TICK ends those that are due, a
 * few at a time. The slots are part of the state whose hash must be equal on all replicas after
 * each index, so a TICK does the same everywhere, and nothing else ends a slot.
 *
 * Independent of that, for every entry that a machine gets: times never fall along a log; no time
 * by the wall clock is ahead of every clock; and the time with a leader is at most the time
 * during which some replica led. So nothing ends early, and no lease ends because of an outage,
 * an election or a step of a clock. In the last phase every slot must end: nothing due is lost. */
#include <inttypes.h>

#include "shards/sim/sim_internal.h"

#define TICK_ITEMS 3 /* less than a real machine does at once: then a second TICK follows */
#define TTL_MS_MAX 6000
#define SAMPLE_MS 10

/* What an election may add to the time with a leader, beyond what sampling sees; and the whole. */
#define SLACK_PER_TERM_MS 25
#define SLACK_MS 200

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ x >> 29;
}

static bool is_lease(int slot)
{
    return slot >= SIM_TIMERS / 2;
}

void sim__timers_set(struct sim_timers *t, uint64_t value, const struct thole_entry *e)
{
    uint64_t x = mix(value * UINT64_C(0x9e3779b97f4a7c15));
    int slot = (int)(x >> 8) & (SIM_TIMERS - 1);
    if (x % 3 == 0) {
        t->due_ms[slot] = (is_lease(slot) ? e->alive_ms : e->now_ms) + 20 + (x >> 16) % TTL_MS_MAX;
    }
}

void sim__timers_tick(struct sim_timers *t, const struct thole_entry *e)
{
    for (int i = 0, done = 0; i < SIM_TIMERS && done < TICK_ITEMS; i++) {
        if (t->due_ms[i] != 0 && t->due_ms[i] <= (is_lease(i) ? e->alive_ms : e->now_ms)) {
            t->fired = mix(t->fired ^ mix(t->due_ms[i] + (uint64_t)i)) + e->index;
            t->due_ms[i] = 0;
            done++;
        }
    }
}

struct thole_due sim__timers_due(const struct sim_timers *t)
{
    struct thole_due due = {THOLE_NEVER, THOLE_NEVER};
    for (int i = 0; i < SIM_TIMERS; i++) {
        uint64_t *earliest = is_lease(i) ? &due.alive_ms : &due.now_ms;
        if (t->due_ms[i] != 0 && t->due_ms[i] < *earliest) {
            *earliest = t->due_ms[i];
        }
    }
    return due;
}

uint64_t sim__timers_hash(const struct sim_timers *t)
{
    uint64_t x = t->fired;
    for (int i = 0; i < SIM_TIMERS; i++) {
        x = mix(x ^ t->due_ms[i]) + (uint64_t)i;
    }
    return x;
}

/* ---- What the times must obey ---------------------------------------------------------------- */

void sim__check_times(struct sim *s, const struct member *m, struct sim_timers *t,
                      const struct thole_entry *e)
{
    const struct shard *shard = m->shard;
    if (sim__member_superseded(m)) {
        return;
    }
    if (e->now_ms < t->now_ms || e->alive_ms < t->alive_ms) {
        sim__fail(s,
                  "shard %" PRIu64 ", replica %" PRIu64 ": the times of entry %" PRIu64
                  " fall: %" PRIu64 "/%" PRIu64 " after %" PRIu64 "/%" PRIu64,
                  shard->id, m->replica_id, e->index, e->now_ms, e->alive_ms, t->now_ms,
                  t->alive_ms);
    }
    t->now_ms = e->now_ms;
    t->alive_ms = e->alive_ms;
    if (e->now_ms > s->wall_ms_max) {
        sim__fail(s, "shard %" PRIu64 ": entry %" PRIu64 " is from a time that no clock has shown",
                  shard->id, e->index);
    }
    uint64_t most = shard->led_ns / SIM_MS;
    most += most * s->c.skew_ppm / 1000000 + SLACK_MS + SLACK_PER_TERM_MS * shard->leaders.count;
    if (e->alive_ms > most) {
        sim__fail(s,
                  "shard %" PRIu64 ": entry %" PRIu64 " says that there was a leader for %" PRIu64
                  " ms, there was one for at most %" PRIu64 " ms",
                  shard->id, e->index, e->alive_ms, most);
    }
}

/* A sample counts in full if a replica led at its begin or at its end. */
static void sample(struct sim *s, void *arg)
{
    (void)arg;
    for (int g = 0; g < s->c.groups; g++) {
        struct shard *shard = &s->shards[g];
        bool leads = sim__leader(s, shard) >= 0;
        shard->led_ns += leads || shard->led ? SAMPLE_MS * SIM_MS : 0;
        shard->led = leads;
    }
    sim__at(s, s->now_ns + SAMPLE_MS * SIM_MS, sample, NULL);
}

void sim__timers_start(struct sim *s)
{
    sample(s, NULL);
}

/* Everything must have ended that could be due by then. */
void sim__timers_final(struct sim *s)
{
    uint64_t wait_ms = TTL_MS_MAX + 3 * TICK_RETRY_MS + (s->c.skew_ppm > 0 ? SIM_STEP_MS_MAX : 0);
    wait_ms += wait_ms * s->c.skew_ppm / 1000000 * 2;
    sim__advance(s, s->now_ns + wait_ms * SIM_MS);
    for (int g = 0; g < s->c.groups && !s->report->failed; g++) {
        const struct shard *shard = &s->shards[g];
        int leader = sim__leader(s, shard);
        const struct replica *r = leader >= 0 ? sim__replica(s, leader, shard) : NULL;
        if (r == NULL || r->machine == NULL) {
            continue; /* a late message may have caused an election */
        }
        struct thole_due due = sim__timers_due(sim__kv_timers(r->machine->state));
        if (due.now_ms != THOLE_NEVER || due.alive_ms != THOLE_NEVER) {
            sim__fail(s,
                      "shard %" PRIu64 ", replica %" PRIu64 " leads: what was due at %" PRId64
                      "/%" PRId64 " was not done",
                      shard->id, r->replica_id, (int64_t)due.now_ms, (int64_t)due.alive_ms);
        }
    }
}
