/* A story: a schedule of faults and of the operator's actions. A seed expands to it before the run
 * begins. Nothing in it depends on the run, so any step can be left out. A failing story is shrunk
 * to the few steps that it needs, and then reads like an incident report. */
#ifndef AGENT_SIM_STORY_H
#define AGENT_SIM_STORY_H

#include "agent/sim/world.h"

#define STORY_STEPS_MAX 256
#define STORY_SHARDS 4

enum step_kind {
    /* Faults of a host, for a limited time. */
    STEP_CRASH,       /* the process dies, and restarts after a while */
    STEP_POWER_LOSS,  /* the same, but its peers get no notice */
    STEP_RESTART,     /* graceful */
    STEP_MOVE,        /* the host stops, and returns at another address */
    STEP_PAUSE,       /* SIGSTOP, then SIGCONT */
    STEP_ISOLATE,     /* cut from all hosts, in both directions */
    STEP_CUT,         /* cut from one host, in both directions */
    STEP_CUT_ONE_WAY, /* messages to one host are lost */
    STEP_SLOW_LINK,   /* the link to one host */
    STEP_SLOW_DISK,   /* a write hangs */
    STEP_CUT_WRITE,   /* crashes during its next write */
    STEP_FAIL_WRITE,  /* a write fails with an error */
    STEP_LOW_SPACE,
    STEP_CLOCK,     /* from now on, the clock runs fast or slow */
    STEP_WALL,      /* the wall clock jumps */
    STEP_FLAGS,     /* a graceful restart with other flags */
    STEP_WIPE,      /* the disk is lost, and the host returns with an empty one */
    STEP_OLD_DISK,  /* the host runs for a while on a backup of its disk */
    STEP_COPY_DISK, /* for a while, a copy of the disk runs on another machine */
    STEP_FLIP_LOG,  /* the records of a replica are damaged */
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
    STEP_CANCEL,  /* cancels the newest operation */
    STEP_SAVE,    /* a snapshot to a file */
    STEP_RESTORE, /* of a file, as a new shard */
    STEP_REPAIR,  /* plan, then run it, if it is possible */
    STEP_KINDS,
};

struct step {
    uint64_t at_ns;
    enum step_kind kind;
    bool left_out;
    bool twice;          /* a verb: the call goes to two hosts at once */
    int host, other;     /* subjects of the step; `other` differs from `host` */
    int through;         /* the host that receives the call */
    int shard;           /* index of the shard */
    uint32_t amount;     /* voters, shards, ...; depends on the kind */
    uint64_t for_ns;     /* duration of a fault */
    uint64_t request_id; /* of a verb */
};

struct story {
    uint64_t seed;
    int hosts;
    enum agent_bootstrap formed_by;
    bool zones;
    bool names; /* hosts are known by names, which are resolved at each connection */
    uint32_t election_timeout_ms;
    uint64_t compact_log_bytes; /* 0: the default, which no story reaches */
    uint64_t begin_ns, end_ns;  /* period of the steps; then all faults end */
    struct step steps[STORY_STEPS_MAX];
    size_t count;
};

void story__draw(uint64_t seed, struct story *ret);
/* Describe a step in one line of English. */
void story__describe(const struct step *p, char *ret, size_t size);
uint32_t story__voters(const struct step *p);
bool story__is_of_zero(const struct step *p); /* of STEP_FLIP_LOG, STEP_SAVE */
uint32_t story__pool_shards(const struct step *p);
void story__print(const struct story *s);

#endif
