/* Plays a story: declarations shared by the files of the player. */
#ifndef AGENT_SIM_PLAY_H
#define AGENT_SIM_PLAY_H

#include "agent/sim/story.h"

/* The state that the story wants a host to be in, whatever the host does by itself. */
struct wanted {
    uint64_t down_until_ns; /* a fault keeps it down; CLOCK_NEVER: no end is set yet */
    bool out;               /* removed from the cluster, and stays down */
    uint32_t moves;
};

struct play {
    const struct story *story;
    struct wanted wanted[WORLD_HOSTS_MAX];
    bool calm; /* the faults have ended */
    uint64_t verbs, verbs_ok;
    uint64_t operations, operations_ok; /* by clients */
};
extern struct play play;

struct play_report {
    bool failed;
    char failure[512];
    uint64_t fingerprint, events;
    uint64_t virtual_ms; /* virtual time multiplied by the number of hosts */
    uint64_t verbs, verbs_ok, operations, operations_ok;
};
/* Play the story in this process. May be called once per process. */
void play__run(const struct story *s, bool trace, struct play_report *ret);

void faults__do(const struct step *p);
void faults__end_all(void);
void verbs__do(const struct step *p);
/* For the last phase: the operator's calls that make everything run again. */
void verbs__resume_controllers(int through);

void clients__start(void);
void clients__stop(void);
/* Start one write and one read of each ready shard. clients__probed: have they all ended? */
void clients__probe(void);
bool clients__probed(void);
void clients__check_end(void);

void checks__start(void);
/* Has the cluster recovered? If not, `ret` says what is missing. */
bool checks__settled(char *ret, size_t size);
bool checks__is_ready(const thole_v1_Shard *row);
uint64_t checks__revision(void); /* newest revision of shard zero on any host */
/* Returns the view of a running host, or NULL. The caller is inside the host's life. */
struct registry_view *checks__view(int n);

/* A fault may change which hosts answer, so discard earlier observations. */
void checks__note_fault(void);

/* claims_checks.c: the claims of hosts, and limits on the work done per minute. */
void claims__start(void);

void host_name_of(int n, char ret[16]);
void shard_name_of(int n, char ret[16]);

#endif
