/* Inside placement: one shard's replicas and the hosts, classified once per decision. */
#ifndef REGISTRY_PLACEMENT_INTERNAL_H
#define REGISTRY_PLACEMENT_INTERNAL_H

#include "registry/placement.h"
#include "registry/registry_internal.h"

#define PLACEMENT_HOSTS_MAX (2 * LIMIT_MEMBERS)

struct placement_member {
    const thole_v1_Replica *row;
    const thole_v1_Host *host; /* NULL only if rows contradict each other */
    struct uuid host_id;
    bool run;     /* desired RUN */
    bool keep;    /* its host can keep it: not draining, removed, dead, nor against a constraint */
    bool voter;   /* wanted role */
    bool running; /* observed in its wanted role */
    bool leader;
    bool mine;    /* owned by placement */
    bool host_up; /* not dead nor removed */
};

struct placement_host {
    const thole_v1_Host *row;
    struct uuid id;
    bool suspect;
    uint32_t load;
    uint64_t hash;
};

/* What the decision is made on, and where it goes. */
struct placement {
    const struct registry_view *v;
    const thole_v1_Shard *shard;
    const thole_v1_ShardSpec *spec;
    const struct placement_load *load;
    thole_registry_v1_Command *command;
    upb_Arena *arena;
    struct placement_result *ret;
    struct placement_member members[LIMIT_MEMBERS];
    size_t member_count;
    struct placement_host
        hosts[PLACEMENT_HOSTS_MAX]; /* that a new replica may go to, unused ones */
    size_t host_count;
    size_t appended; /* operations */
    /* Why hosts are not among `hosts`, for the explanation. */
    uint32_t all, not_active, dead, without_type, used;
    uint32_t ruled_out[REGISTRY_CONSTRAINTS_MAX];
};

void placement__load_members(struct placement *p);
void placement__load_hosts(struct placement *p);
bool placement__host_state_is(const thole_v1_Host *host, thole_v1_HostState state);
bool placement__host_dead(const thole_v1_Host *host);
uint32_t placement__host_load(const struct placement *p, const struct uuid *id);

/* Take the best host for a new replica; false if there is none. */
bool placement__take_host(struct placement *p, struct placement_host *ret);
void placement__explain(struct placement *p, uint32_t voters_missing, uint32_t non_voting_missing);

void placement__place(struct placement *p, thole_registry_v1_PlaceReplicas **op,
                      const struct placement_host *host, bool voter, const char *reason);
void placement__remove(struct placement *p, const struct placement_member *m, const char *reason);
void placement__set_role(struct placement *p, struct placement_member *m, bool voter,
                         const char *reason);

void placement__decide_user(struct placement *p);
void placement__decide_zero(struct placement *p);

#endif
