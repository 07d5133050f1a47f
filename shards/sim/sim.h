/* The deterministic simulator: real engines on several hosts in one thread and virtual time, with a
 * simulated disk, network and clock, checked at every step. See README.md. */
#ifndef SHARDS_SIM_SIM_H
#define SHARDS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SIM_TICK_MS 10 /* of virtual time */
#define SIM_HOSTS_MAX 5
#define SIM_GROUPS_MAX 20

/* Faults and changes. A seed draws a set of them. Each has its own random numbers, so that leaving
 * one out disturbs the others as little as possible. */
enum sim_fault {
    SIM_LOSS,        /* frames are lost, per direction */
    SIM_DUPLICATE,   /* ... arrive twice */
    SIM_DELAY,       /* ... take long now and then */
    SIM_REORDER,     /* ... overtake each other */
    SIM_CLOG,        /* a direction delays all frames for a while */
    SIM_PARTITION,   /* two sets of hosts cannot reach each other */
    SIM_ONE_WAY,     /* a random matrix of cut directions */
    SIM_REPORTS,     /* hosts get reports that others are down or up, true or false */
    SIM_CRASH,       /* a host loses unsynced data */
    SIM_CRASH_WRITE, /* ... in the middle of a write, of which a prefix stays */
    SIM_STOP,        /* a host stops cleanly */
    SIM_PAUSE,       /* a host does nothing for a while; its clock goes on */
    SIM_SKEW,        /* clocks run at different rates */
    SIM_STALL,       /* a disk hangs for a while */
    SIM_EIO,         /* a log write fails */
    SIM_SPACE,       /* a disk is full */
    SIM_FLIP,        /* records and files are found damaged */
    SIM_MEMBERSHIP,  /* members are added, promoted, demoted, removed */
    SIM_WITNESS,     /* ... and witnesses */
    SIM_TRANSFER,    /* leadership is handed over */
    SIM_COMPACT,     /* logs are compacted early, so that snapshots are needed */
    SIM_SESSIONS,    /* clients retry in sessions */
    SIM_REQUEST_IDS, /* clients retry with request ids */
    SIM_PERSISTENT,  /* some machines keep their data on disk */
    SIM_SLEEP,       /* idle groups sleep, and all clients pause now and then */
    SIM_FORCE,       /* with one group: it loses its quorum for good, and a replica is forced */
    SIM_FAULTS,
};

struct sim_options {
    uint64_t seed;
    uint64_t ticks;     /* with faults; then comes the phase that must converge */
    uint32_t without;   /* faults that are left out: bits of enum sim_fault */
    const char *canary; /* the bug that is switched on, or NULL */
    FILE *trace;        /* every event, or NULL */
    bool force;         /* one group that loses its quorum again and again */
    bool bench;         /* one group on three hosts, no faults, a proposal every ten ticks */

    /* Drawn from the seed unless set (not 0). */
    uint32_t hosts, groups;
};
#define SIM_TICKS_DEFAULT 8000

struct sim_report {
    bool failed;
    char why[512];
    uint64_t at_ns; /* virtual time of the failure, or of the end */
    uint64_t turns, frames, writes, proposals, reads, applied, ticks, snapshots, crashes, elections;
    uint64_t unknown, inconclusive, changes, flips, sleeps, forces;
    uint64_t hash; /* of the whole run: equal for equal seeds */
};

/* One run. Assertions of the code under test end the process. */
void sim_run(const struct sim_options *o, struct sim_report *ret);
/* The same in a child process, where a failed assertion counts as a failure of the run. */
void sim_run_forked(const struct sim_options *o, struct sim_report *ret);
/* The command that repeats a run. */
void sim_replay_line(const struct sim_options *o, char *ret, size_t size);
/* The options that the seed expands to, for people. */
void sim_describe(const struct sim_options *o, char *ret, size_t size);

const char *sim_fault_name(int fault);
bool sim_fault_parse(const char *names, uint32_t *ret); /* comma separated */

/* Names of the injected bugs; NULL after the last. */
const char *sim_canary_name(int i);
const char *sim_canary_of_hosts(int i); /* those that thole-host-sim finds */
/* Switch one on, of those that `name_of` lists: the others are in code that the program does not
 * run. If it is none of them, print the list. */
bool sim_canary_choose(const char *name, const char *(*name_of)(int i));
bool sim_canary_set(const char *name); /* NULL: none. False if unknown. */

#endif
