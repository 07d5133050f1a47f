/* Adaptive thresholds for silent hosts; see detector.h. */
#include "hostctl/detector.h"

#define DEVIATIONS 6

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

void detector_restart(struct detector *d, uint64_t now_ms)
{
    d->heard_ms = now_ms;
    d->steady_ms = now_ms;
    d->sample_ms = 0;
    d->spoke = false;
    d->broken = false;
}

/* Gains of 1/8 and 1/4, as for round trips. */
static void learn(struct detector *d, uint32_t interval_ms, uint64_t now_ms)
{
    int64_t us = (int64_t)interval_ms * 1000;
    if (d->samples == 0) {
        d->mean_us = (uint32_t)us;
        d->deviation_us = (uint32_t)(us / 2);
        d->window_ms = now_ms;
    }
    int64_t error = us - (int64_t)d->mean_us;
    int64_t size = error < 0 ? -error : error;
    d->mean_us = (uint32_t)((int64_t)d->mean_us + error / 8);
    d->deviation_us = (uint32_t)((int64_t)d->deviation_us + (size - (int64_t)d->deviation_us) / 4);
    if (now_ms - d->window_ms >= DETECTOR_WINDOW_MS) {
        bool next = now_ms - d->window_ms < 2 * (uint64_t)DETECTOR_WINDOW_MS;
        d->longest_ms[1] = next ? d->longest_ms[0] : 0;
        d->longest_ms[0] = 0;
        d->window_ms = now_ms;
    }
    d->longest_ms[0] = larger(d->longest_ms[0], interval_ms);
    d->samples += d->samples < UINT32_MAX;
}

void detector_heard(struct detector *d, const struct detector_bounds *b, uint64_t now_ms)
{
    if (now_ms < d->heard_ms) {
        return; /* another thread reported a later sign first */
    }
    if (now_ms - d->heard_ms > detector_allowed_ms(d, b) || d->broken || !d->spoke) {
        d->steady_ms = now_ms;
    }
    d->heard_ms = now_ms;
    d->spoke = true;
    d->broken = false;
    if (d->sample_ms == 0) {
        d->sample_ms = now_ms;
        return;
    }
    uint64_t interval_ms = now_ms - d->sample_ms;
    if (interval_ms >= DETECTOR_GRAIN_MS) {
        /* Longer than any threshold: the host was away, which says nothing about its intervals. */
        if (interval_ms <= b->ceiling_ms) {
            learn(d, (uint32_t)interval_ms, now_ms);
        }
        d->sample_ms = now_ms;
    }
}

void detector_broken(struct detector *d, const struct detector_bounds *b, uint64_t now_ms)
{
    /* After a silence the connection was closed because of the silence: no new information. */
    uint64_t silent_ms = now_ms > d->heard_ms ? now_ms - d->heard_ms : 0;
    if (!d->broken && silent_ms < b->floor_ms / 2) {
        d->broken = true;
        d->broken_ms = now_ms;
    }
    d->sample_ms = 0;
}

void detector_excuse(struct detector *d, uint64_t away_ms, uint64_t now_ms)
{
    uint64_t silent_ms = now_ms > d->heard_ms ? now_ms - d->heard_ms : 0;
    d->heard_ms += away_ms < silent_ms ? away_ms : silent_ms;
    if (d->broken) {
        d->broken_ms = d->broken_ms + away_ms < now_ms ? d->broken_ms + away_ms : now_ms;
    }
    d->sample_ms = 0;
}

uint32_t detector_allowed_ms(const struct detector *d, const struct detector_bounds *b)
{
    uint64_t allowed_ms = (uint64_t)DETECTOR_START_FLOORS * b->floor_ms;
    if (d->samples >= DETECTOR_SAMPLES_MIN) {
        uint64_t usual_ms = (d->mean_us + (uint64_t)DEVIATIONS * d->deviation_us) / 1000;
        uint64_t longest_ms = 2 * (uint64_t)larger(d->longest_ms[0], d->longest_ms[1]);
        allowed_ms = usual_ms > longest_ms ? usual_ms : longest_ms;
    }
    allowed_ms = allowed_ms > b->floor_ms ? allowed_ms : b->floor_ms;
    return allowed_ms < b->ceiling_ms ? (uint32_t)allowed_ms : b->ceiling_ms;
}

uint64_t detector_due_ms(const struct detector *d, const struct detector_bounds *b)
{
    uint64_t due_ms = d->heard_ms + detector_allowed_ms(d, b);
    uint64_t broken_due_ms = d->broken_ms + b->floor_ms / 2;
    return d->broken && broken_due_ms < due_ms ? broken_due_ms : due_ms;
}
