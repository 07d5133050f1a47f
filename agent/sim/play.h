/* Plays a story: what the files of the player share. */
#ifndef AGENT_SIM_PLAY_H
#define AGENT_SIM_PLAY_H

#include "agent/sim/story.h"

/* What is wanted of a host by the story, whatever it does by itself. */
struct wanted {
    uint64_t down_until_ns; /* a fault keeps it down; CLOCK_NEVER: until somebody says so */
    bool out;               /* it was removed from the cluster, and stays down */
    uint32_t moves;
};

struct play {
    const struct story *story;
    struct wanted wanted[WORLD_HOSTS_MAX];
    bool calm; /* faults have ended */
    uint64_t verbs, verbs_ok;
    uint64_t operations, operations_ok; /* of clients */
};
extern struct play play;

struct play_report {
    bool failed;
    char failure[512];
    uint64_t fingerprint, events;
    uint64_t virtual_ms; /* times hosts */
    uint64_t verbs, verbs_ok, operations, operations_ok;
};
/* Plays it in this process; once per process. */
void play__run(const struct story *s, bool trace, struct play_report *ret);

void faults__do(const struct step *p);
void faults__end_all(void);
void verbs__do(const struct step *p);
/* For the last phase: what an operator does to have everything run again. */
void verbs__resume_controllers(int through);

void clients__start(void);
void clients__stop(void);
/* One write and one read of each shard that is there: are all done? */
void clients__probe(void);
bool clients__probed(void);
void clients__check_end(void);

void checks__start(void);
/* Is everything as wanted? If not, `ret` says what is missing. */
bool checks__settled(char *ret, size_t size);
bool checks__is_ready(const thole_v1_Shard *row);
uint64_t checks__revision(void); /* the newest of shard zero that any host shows */
/* The view of a host that runs; NULL: none. Within its life. */
struct registry_view *checks__view(int n);

/* Who answers may be another one from now on: what was seen before does not count. */
void checks__note_fault(void);

/* claims_checks.c: what hosts say, and how much is done in a minute. */
void claims__start(void);

void host_name_of(int n, char ret[16]);
void shard_name_of(int n, char ret[16]);

#endif
