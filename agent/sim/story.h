/* A story: what goes wrong and what an operator does, and when. A seed expands to it before the run
 * begins, and nothing in it depends on the run, so that any part of it can be left out: what fails
 * is shrunk to the few steps that it needs, and reads like the report of an incident. */
#ifndef AGENT_SIM_STORY_H
#define AGENT_SIM_STORY_H

#include "agent/sim/world.h"

#define STORY_STEPS_MAX 256
#define STORY_SHARDS 4

enum step_kind {
    /* Faults: a host, for a while. */
    STEP_CRASH,       /* its process; back after a while */
    STEP_POWER_LOSS,  /* the same, without a word to its peers */
    STEP_RESTART,     /* gracefully */
    STEP_MOVE,        /* stops, and comes back at another address */
    STEP_PAUSE,       /* SIGSTOP, and SIGCONT */
    STEP_ISOLATE,     /* from all, in both directions */
    STEP_CUT,         /* from one, in both directions */
    STEP_CUT_ONE_WAY, /* what it sends to one is lost */
    STEP_SLOW_LINK,   /* to one */
    STEP_SLOW_DISK,   /* a write hangs */
    STEP_CUT_WRITE,   /* crashes in its next write */
    STEP_FAIL_WRITE,  /* the disk refuses one */
    STEP_LOW_SPACE,
    STEP_CLOCK, /* runs fast or slow from now on */
    STEP_FAULTS,
    /* Verbs of the operator. */
    STEP_CREATE = STEP_FAULTS,
    STEP_SCALE,
    STEP_DELETE,
    STEP_MOVE_REPLICA,
    STEP_TRANSFER,
    STEP_DRAIN,
    STEP_UNDRAIN,
    STEP_CORDON,
    STEP_UNCORDON,
    STEP_DECOMMISSION,
    STEP_REBALANCE,
    STEP_PAUSE_CONTROLLERS,
    STEP_RESUME_CONTROLLERS,
    STEP_ADD_REPLICA,
    STEP_REMOVE_REPLICA,
    STEP_CREATE_POOL,
    STEP_SCALE_POOL,
    STEP_DELETE_POOL,
    STEP_CANCEL, /* the newest operation */
    STEP_KINDS,
};

struct step {
    uint64_t at_ns;
    enum step_kind kind;
    bool left_out;
    bool twice;          /* a verb: sent to two hosts at once */
    int host, other;     /* of whom it speaks; `other` differs from `host` */
    int through;         /* the host that is asked */
    int shard;           /* by number */
    uint32_t amount;     /* voters, shards, ... */
    uint64_t for_ns;     /* of a fault */
    uint64_t request_id; /* of a verb */
};

struct story {
    uint64_t seed;
    int hosts;
    enum agent_bootstrap formed_by;
    bool zones;
    uint32_t election_timeout_ms;
    uint64_t begin_ns, end_ns; /* of the steps, after which faults end */
    struct step steps[STORY_STEPS_MAX];
    size_t count;
};

void story__draw(uint64_t seed, struct story *ret);
/* One line of a person's words. */
void story__describe(const struct step *p, char *ret, size_t size);
uint32_t story__voters(const struct step *p);
uint32_t story__pool_shards(const struct step *p);
void story__print(const struct story *s);

#endif
