/* Plays a story: declarations shared by the files of the player. */
#ifndef AGENT_SIM_PLAY_H
#define AGENT_SIM_PLAY_H

#include "agent/sim/story.h"

/* The state that the story wants a host to be in, whatever the host does by itself. */
struct wanted {
    uint64_t down_until_ns; /* a fault keeps it down; CLOCK_NEVER: no end is set yet */
    bool out;               /* removed from the cluster, and stays down */
    uint32_t moves;
    uint32_t flags; /* variations of its next start: see start_host */
    bool joins;     /* its disk is new: it joins, however the cluster was formed */
    bool keeps_images;
    struct disk_image *image; /* its disk before its current start */
    bool admitted;            /* ready since its current start: peers know this start */
};

struct play {
    const struct story *story;
    struct wanted wanted[WORLD_HOSTS_MAX];
    bool calm;              /* the faults have ended */
    bool settled;           /* ... and the cluster has recovered: nobody does anything any more */
    bool formed;            /* all hosts have been ready at the same time */
    uint64_t copy_until_ns; /* a copy of a disk runs on WORLD_COPY */
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
/* Have all faults ended, that long ago? */
bool play__calm_for(uint64_t ns);
/* Play the story in this process. May be called once per process. */
void play__run(const struct story *s, bool trace, struct play_report *ret);

void faults__do(const struct step *p);
void faults__end_all(void);

/* disks.c: which data a lost disk costs. */
void disks__note(void); /* of running hosts: the configurations that they hold */
/* Is there a quorum of intact disks, without that host's (-1: with all)? */
bool disks__survives(uint64_t shard_id, int without);
bool disks__has_replica(int n, uint64_t shard_id);
void disks__lose(int n); /* the host crashes, and gets an empty disk */
/* The host crashes; its records of that shard are damaged. False: there are none, or shard zero
 * would lose its quorum. */
bool disks__damage(int n, uint64_t shard_id);
bool disks__is_damaged(uint64_t replica_id);
/* Shards that lost a quorum of disks, and were not repaired since. */
bool disks__is_lost(uint64_t shard_id);
/* Are there replicas with a configuration of which a quorum has its data? They may go on without
 * hearing of a repair. */
bool disks__can_serve(uint64_t shard_id);
bool disks__any_lost(void); /* was any disk lost, or damaged? */
void disks__note_repaired(uint64_t shard_id);
void verbs__do(const struct step *p);
/* For the last phase: the operator's calls that make everything run again. */
void verbs__resume_controllers(int through);

/* data_verbs.c: files of snapshots, and repair. */
void data_verbs__do(const struct step *p);
/* Remove the hosts whose disks are lost, and repair the shards that lost their quorum for good; or
 * delete them. */
void data_verbs__mend(int through, bool give_up_shards);
/* Values with which a new shard begins. False: not known. */
bool saves__initial(int shard, const thole_v1_Shard *row, uint64_t *ret_values);

void clients__start(void);
void clients__stop(void);
/* Start one write and one read of each ready shard. clients__probed: have they all ended? */
void clients__probe(void);
bool clients__probed(void);
void clients__check_end(void);
uint64_t clients__shard_id(int shard); /* 0: none that clients know */
/* A snapshot to a file is a read of all registers, which ends with their values, or NULL. */
struct file_read;
struct file_read *clients__begin_file(int shard);
void clients__end_file(struct file_read *f, const uint64_t *values);
/* What the shard's clients know is void until clients__resume_shard: data may be lost. */
void clients__lose_shard(uint64_t shard_id);
/* From now on histories begin again, with values that are not known yet. Replicas below
 * `first_replica`, except `kept`, are void. */
void clients__resume_shard(uint64_t shard_id, uint64_t kept, uint64_t first_replica);

void checks__start(void);
/* Has the cluster recovered? If not, `ret` says what is missing. */
bool checks__settled(char *ret, size_t size);
bool checks__is_ready(const thole_v1_Shard *row);
uint64_t checks__revision(void); /* newest revision of shard zero on any host */
/* Returns the view of a running host, or NULL. The caller is inside the host's life. */
struct registry_view *checks__view(int n);

/* A fault may change which hosts answer, so discard earlier observations. */
void checks__note_fault(void);

/* state_dump.c: if the story is traced, describe the rows of shard zero. */
void checks__trace_state(void);

/* claims_checks.c: the claims of hosts, and limits on the work done per minute. */
void claims__start(void);

void host_name_of(int n, char ret[16]);
void shard_name_of(int n, char ret[16]);

#endif
