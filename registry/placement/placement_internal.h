/* Inside placement: one shard's replicas and the hosts, classified once per decision.
 *
 * What a spec wants are *slots* of some *classes*: voters, witnesses, and each group of non-voting
 * replicas with a count. A target gives slots to hosts, each host at most one; groups that cover
 * hosts come on top. The steps towards a target are in placement_user.c. */
#ifndef REGISTRY_PLACEMENT_PLACEMENT_INTERNAL_H
#define REGISTRY_PLACEMENT_PLACEMENT_INTERNAL_H

#include "registry/placement/placement.h"
#include "registry/registry_internal.h"

#define PLACEMENT_HOSTS_MAX (2 * LIMIT_MEMBERS)
#define PLACEMENT_CLASSES_MAX (2 + REGISTRY_GROUPS_MAX)
#define CLASS_VOTERS 0
#define CLASS_WITNESSES 1
#define CLASS_NONE (-1)
#define CLASS_COVER (-2) /* non-voting, to cover its host */

struct placement_member {
    uint64_t id, revision;
    const thole_v1_Host *host; /* NULL only if rows are inconsistent */
    struct uuid host_id;
    int host_index; /* into hosts; -1: none */
    int32_t role;   /* wanted role */
    bool run;       /* desired RUN */
    bool keep;    /* in its role: its host is not draining, removed, dead or against a constraint */
    bool voting;  /* a voter or a witness */
    bool running; /* observed in its wanted role */
    bool failed;
    bool out; /* observed OUT */
    bool leader;
    bool mine;    /* owned by placement, or a user's on a host that it has to leave */
    bool moving;  /* an operation moves it away: treated as on a draining host */
    bool pinned;  /* an operation moved it here: balance leaves it */
    bool host_up; /* not dead nor removed */
    int target;   /* class */
};

struct placement_host {
    const thole_v1_Host *row;
    struct uuid id;
    bool stays;        /* may keep what it has */
    bool open;         /* may get a new replica of this shard */
    bool suspect;      /* ... but others are better */
    bool used;         /* by a replica of this shard, even one that leaves */
    bool full;         /* has as many replicas as its capacity */
    bool over;         /* has more */
    bool failing;      /* replicas keep failing there: only a failed one of this shard may return */
    uint32_t failures; /* of replicas of this shard, lately */
    int64_t failed_ms; /* the last of them */
    uint32_t matches;  /* bit c: satisfies the constraints of class c */
    bool covers;       /* satisfies those of a group that covers */
    uint32_t load;
    uint32_t rank; /* by load, then by a hash of shard and host */
    uint64_t hash;
    int place[REGISTRY_SPREAD_MAX]; /* the first host with the same values of the first keys */
    int member;                     /* into members; -1: none that is to run */
    int target;                     /* class, for hosts without a member */
};

struct placement_class {
    int32_t role;
    uint32_t wanted;
    const thole_v1_Constraint *const *constraints;
    size_t constraint_count;
    uint32_t unmet; /* in the target */
};

/* Input of the decision, and where its operations go. */
struct placement {
    const struct registry_view *v;
    const thole_v1_Shard *shard;
    const thole_v1_ShardSpec *spec;
    const struct placement_options *o;
    thole_registry_v1_Command *command;
    upb_Arena *arena;
    struct placement_result *ret;
    struct placement_member members[LIMIT_MEMBERS];
    size_t member_count;
    struct placement_class classes[PLACEMENT_CLASSES_MAX];
    size_t class_count;
    uint32_t cover_unmet;
    size_t spread_count;                              /* tag keys */
    struct placement_host hosts[PLACEMENT_HOSTS_MAX]; /* all, by name */
    size_t host_count;
    size_t appended; /* operations */
};

/* ---- placement.c ----------------------------------------------------------------------------- */

void placement__load_members(struct placement *p);
/* Classes and hosts; after the members. */
void placement__load_hosts(struct placement *p);
bool placement__host_has_state(const thole_v1_Host *host, thole_v1_HostState state);
bool placement__host_is_dead(const thole_v1_Host *host);
uint32_t placement__host_load(const struct placement *p, const struct uuid *id);
/* The constraints of a group: its own, or the shard's. */
const thole_v1_Constraint *const *placement__group_constraints(const thole_v1_ShardSpec *spec,
                                                               const thole_v1_ReplicaGroup *group,
                                                               size_t *ret_count);
/* May the member go on in this class, or change into it? */
bool placement__member_fits(const struct placement *p, const struct placement_member *m, size_t c);
bool placement__satisfies(const thole_v1_Host *host, const thole_v1_Constraint *c);

void placement__place(struct placement *p, thole_registry_v1_PlaceReplicas **op,
                      const thole_v1_Host *host, int32_t role, const char *reason);
void placement__remove(struct placement *p, const struct placement_member *m, const char *reason);
void placement__set_role(struct placement *p, struct placement_member *m, int32_t role,
                         const char *reason);

/* ---- placement_target.c ---------------------------------------------------------------------- */

/* Fill the targets of members and hosts, and the unmet slots. `hold`: the fewest moves matter more
 * than the best spread. */
void placement__target(struct placement *p, bool hold);
/* The cost of the spread of running replicas, if host `without` (-1: none) were host `with`
 * instead. */
void placement__spread_cost(const struct placement *p, size_t class, int without, int with,
                            int32_t ret[static REGISTRY_SPREAD_MAX]);

/* ---- placement_explain.c --------------------------------------------------------------------- */

/* Why the target leaves slots unmet, for the hosts that are loaded. */
void placement__explain(struct placement *p);
/* In an answer to validate_only: can the last shard, or pool, of the transaction be placed? */
void placement__preview_shard(struct txn *t);
void placement__preview_pool(struct txn *t);
/* The same for the last operation, a drain of this host: how many replicas have to leave, and why
 * the first of those that cannot will stay. */
void placement__preview_drain(struct txn *t, const struct uuid *host);

void placement__decide_user(struct placement *p);
void placement__decide_zero(struct placement *p);

/* ---- placement_flow.c: the cheapest flow with lexicographic costs ---------------------------- */

#define FLOW_LEVELS 12
struct flow_cost {
    int32_t level[FLOW_LEVELS]; /* the first that differs decides */
};
struct flow;
struct flow *placement__flow_new(void);
void placement__flow_free(struct flow *f);
int placement__flow_node(struct flow *f);
/* One unit can pass. Returns the edge. */
int placement__flow_edge(struct flow *f, int from, int to, const struct flow_cost *cost);
/* Send as many units as there are ways, by the cheapest. */
void placement__flow_run(struct flow *f, int source, int sink);
bool placement__flow_is_used(const struct flow *f, int edge);

#endif
