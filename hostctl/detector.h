/* How long a host may be silent before it is suspect. The threshold follows the intervals between
 * the signs of life of that host: their mean plus six mean deviations (both smoothed as V.
 * Jacobson, "Congestion avoidance and control", 1988, smooths round trips; used for hosts by M.
 * Bertier, O. Marin and P. Sens, "Implementation and performance evaluation of an adaptable
 * failure detector", 2002), but at least twice the longest interval of the last one to two
 * minutes. A machine that stalls now and then has two kinds of intervals, and no deviation
 * describes the second kind. A floor and a ceiling bound the threshold.
 *
 * A connection that breaks while its host was sending (the process is gone) shortens the wait.
 * Pure: no clock, no locks. Times are milliseconds of one monotonic clock. */
#ifndef HOSTCTL_DETECTOR_H
#define HOSTCTL_DETECTOR_H

#include <stdbool.h>
#include <stdint.h>

/* Signs closer together than this count as one: frames come in bursts. */
#define DETECTOR_GRAIN_MS 20
/* Until this many intervals were seen, the threshold is DETECTOR_START_FLOORS floors. */
#define DETECTOR_SAMPLES_MIN 8
#define DETECTOR_START_FLOORS 2
/* The longest interval is remembered for one to two windows. */
#define DETECTOR_WINDOW_MS 60000

struct detector_bounds {
    uint32_t floor_ms;
    uint32_t ceiling_ms;
};

struct detector {
    uint64_t heard_ms;  /* the last sign of life, or the last restart of the clock */
    uint64_t steady_ms; /* since then no silence was longer than allowed */
    bool spoke;         /* since the clock was started */
    uint64_t sample_ms; /* start of the interval that is being measured; 0: none */
    uint32_t samples;   /* saturates */
    uint32_t mean_us, deviation_us;
    uint32_t longest_ms[2]; /* of this window and of the one before */
    uint64_t window_ms;     /* when this window began */
    bool broken; /* its connection broke while it was sending, and nothing was heard since */
    uint64_t broken_ms;
};

/* Restarts the clock now; the learned intervals stay. */
void detector_restart(struct detector *d, uint64_t now_ms);
/* A sign of life. */
void detector_heard(struct detector *d, const struct detector_bounds *b, uint64_t now_ms);
/* The connection to it broke. */
void detector_broken(struct detector *d, const struct detector_bounds *b, uint64_t now_ms);
/* This process was stopped for this long: subtract that from the host's silence. */
void detector_excuse(struct detector *d, uint64_t away_ms, uint64_t now_ms);

/* The longest silence that is not suspect. */
uint32_t detector_allowed_ms(const struct detector *d, const struct detector_bounds *b);
/* When the host becomes suspect if nothing is heard of it. */
uint64_t detector_due_ms(const struct detector *d, const struct detector_bounds *b);

#endif
