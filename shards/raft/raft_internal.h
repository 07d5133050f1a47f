/* Inside the core: the state, and which file changes which part. See README.md for invariants and
 * transitions. */
#ifndef SHARDS_RAFT_RAFT_INTERNAL_H
#define SHARDS_RAFT_RAFT_INTERNAL_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/canary.h"
#include "base/rand.h"
#include "shards/raft/config_history.h"
#include "shards/raft/outbox.h"
#include "shards/raft/progress.h"
#include "shards/raft/quorum.h"
#include "shards/raft/raft.h"
#include "shards/raft/raft_log.h"
#include "shards/raft/read_queue.h"

/* Terms and indexes of a peer beyond this are refused: arithmetic on them must not wrap. */
#define RAFT_NUMBER_MAX (UINT64_MAX / 4)
#define RAFT_NEVER_MS UINT64_MAX

/* Writes: those to come, under way and done. Tokens are 1, 2, 3, ... */
struct raft_persist {
    uint64_t token;      /* handed out last */
    uint64_t done;       /* durable up to this one */
    uint64_t hard_token; /* the write that makes the present term and vote durable */
    bool hard_dirty;     /* term or vote changed since the last harvest, or `commit_token` is set */
    uint64_t commit;     /* durable commit index: configurations up to it may act */
    uint64_t commit_token; /* the write that makes `commit_marked` durable; 0: none is needed */
    uint64_t commit_marked;
    bool snapshot_dirty; /* a snapshot was installed since the last harvest */
    bool start_dirty;    /* the log start moved since the last harvest */
};

/* A candidate's or pre-candidate's campaign. */
struct raft_campaign {
    uint8_t votes[LIMIT_MEMBERS]; /* enum raft_vote, by position in the configuration */
    uint64_t self_token;          /* our own vote counts when this is durable; 0: it is counted */
    bool transfer;
};

/* When a heartbeat round was sent, for leases. The numbers are those of read rounds. */
#define RAFT_LEASE_ROUNDS 32
struct raft_lease_round {
    uint64_t number, sent_ns;
};

/* A leader's state. `peers` is parallel to the configuration's members (our own included, whose
 * element is unused but for read_acked). */
struct raft_lead {
    struct raft_progress *peers; /* NULL while it sleeps and was trimmed: all are caught up */
    uint32_t peer_count;
    uint64_t first_index; /* of this leadership: its no-op */
    uint64_t began_ms;
    uint64_t began_alive_ms; /* of the log when leadership began: see stamp.c */
    uint64_t uncommitted_bytes;
    uint64_t checked_commit; /* the commit index at the last check of the quorum */
    uint64_t recent_commit;  /* at the check before that: a new voter must have it */
    uint64_t witness_sent;   /* the last entry that any witness was sent */
    uint64_t heartbeat_deadline_ms;
    uint64_t quorum_deadline_ms; /* when the next check of a quorum's activity is due */
    uint64_t transfer_target;    /* 0: none */
    uint64_t transfer_deadline_ms;
    bool transfer_sent;
    struct raft_lease_round *rounds; /* with lease reads: the newest, by number */
    bool lease_void; /* TIMEOUT_NOW was sent and may still arrive: no lease in this term */
};

/* What an event found: check.c compares it with what the event left. */
struct raft_found {
    uint64_t term, vote;
    uint64_t commit, applied, handed;
    uint64_t epoch;
    uint64_t start_index, last_index;
    struct raft_stamp last_stamp;
    uint64_t read_number;
    enum raft_role role;
};

/* State that is empty, or follows from the rest, while a replica sleeps: raft_trim frees it,
 * raft__begin makes it again. */
struct raft_awake {
    struct rand rand;
    struct raft_persist persist;
    struct raft_campaign campaign;
    struct raft_reads reads;
    struct raft_outbox outbox;
    uint64_t answering, answering_incarnation; /* the sender of the message being received */
    uint64_t answering_sent_ms;                /* of that message */
    uint64_t election_deadline_ms;
    bool asked; /* a learner or witness: it has asked for the leader and heard nothing since */
    uint64_t busy_ms;       /* leader: the last activity; RAFT_NEVER_MS: after the last tick */
    uint64_t force_index;   /* raft_force's entry, until it is durable; 0: none */
    uint64_t force_token;   /* the write that makes it durable; 0: not harvested */
    uint64_t transfer_term; /* TIMEOUT_NOW of this term waits for a due change; 0: none */
    struct raft_found found;
};

struct raft {
    struct raft_options options;
    uint64_t now_ms;
    uint64_t real_ns; /* of raft_clock; 0: it was never called */

    uint64_t term, vote;
    uint64_t leader;
    uint64_t commit;
    uint64_t applied;             /* by the machine */
    uint64_t handed;              /* given to the machine in an update */
    uint64_t epoch;               /* of the configuration in force, or of one about to come */
    uint64_t election_timeout_ms; /* drawn */
    uint64_t contact_ms; /* when the leader was last heard; with lease reads, at first, our start */
    uint64_t sleep_round; /* leader: raised when the members' consent to sleep becomes void */
    uint64_t read_number; /* the last round or forward of reads; only grows */

    struct raft_log log;
    struct raft_membership membership;
    struct raft_lead *lead;   /* NULL: it does not lead */
    struct raft_awake *awake; /* NULL: no event since it was trimmed; then these stand for it: */
    uint64_t asleep_seed;     /* seed of `rand` */
    uint64_t asleep_token, asleep_commit; /* of `persist` */

    enum raft_role role;
    bool asleep;     /* no deadline: see sleep.c */
    bool removed;    /* for good: never campaigns again */
    bool superseded; /* a peer has a higher epoch than this replica's data: it must stop */
    bool real_fresh; /* raft_clock was called since the last read arrived */
    bool work;       /* a leader's members may be due a message */
    bool status_changed, config_changed, removed_changed;
};
static_assert(sizeof(struct raft) <= 320, "one for each replica of the host");

static inline const struct raft_config *raft__config(const struct raft *r)
{
    return raft__membership_current(&r->membership);
}

/* role.c: roles, terms, votes and the election timer. */
void raft__become_follower(struct raft *r, uint64_t term, uint64_t leader);
void raft__become_pre_candidate(struct raft *r);
void raft__become_candidate(struct raft *r);
void raft__become_leader(struct raft *r);
void raft__set_term(struct raft *r, uint64_t term);
void raft__set_vote(struct raft *r, uint64_t vote);
/* A message of this term's leader arrived. Moves the election deadline; draws no new timeout. */
void raft__heard_leader(struct raft *r, uint64_t leader);
bool raft__has_election_timer(const struct raft *r);
/* Also true for a learner and a witness: see raft__leader_is_silent. */
bool raft__has_timer(const struct raft *r);
void raft__rearm_election(struct raft *r);
void raft__redraw_election(struct raft *r);
/* The only voter need not wait for a leader: let it campaign as soon as it may. */
void raft__hurry_if_only_voter(struct raft *r);

/* election.c */
bool raft__may_campaign(const struct raft *r);
void raft__campaign(struct raft *r, bool transfer);
/* The timer expired. A replica that can campaign does so. Another one (a learner, a witness) asks
 * for the leader, and forgets the one that it asked in vain: it may have been deposed by voters
 * that this replica does not reach. */
void raft__leader_is_silent(struct raft *r);
void raft__count_vote(struct raft *r, uint64_t from, bool granted);
void raft__self_vote_durable(struct raft *r);

/* persist.c: writes, and messages that wait for them. */
bool raft__dirty(const struct raft *r);
/* The token under which the log up to `index`, as it is now, becomes durable; 0 if it is. */
uint64_t raft__log_token(const struct raft *r, uint64_t index);
/* This replica's own writes have been stuck for an election timeout. */
bool raft__writer_stalled(const struct raft *r);

/* commit.c */
/* Followers: everything up to `index`, which is in the log, is committed. */
void raft__commit_to(struct raft *r, uint64_t index);
/* Leader: commit up to the index that a quorum has durable. */
void raft__commit_by_quorum(struct raft *r);
/* Any role: a vote message's commit index, if this log has an entry with its index and term. */
void raft__commit_by_vote(struct raft *r, const struct raft_message *m);
/* Is a change committed that does not act yet? Then the configuration in force may be too old to
 * win an election by. */
bool raft__change_is_due(const struct raft *r);
bool raft__has_witness(const struct raft_config *c);
/* Leader: the highest match among the members that may lead under `next`. */
uint64_t raft__best_match(const struct raft *r, const struct raft_config *next);
/* A voter and a witness may be a quorum, and a witness cannot lead. If a change removes the only
 * voter whose log is as new as the witness', no replica can be elected any more. So while a change
 * is pending in a group with witnesses, it commits only when a voter that stays has it, and
 * witnesses get no entry that none of those voters has. Returns the highest match of those voters;
 * UINT64_MAX: no bound. */
uint64_t raft__staying_match(const struct raft *r);
/* Let configurations act that are committed and durable, then evict entries from the cache. */
void raft__advance(struct raft *r);

/* lead.c: a leader's work beside replication. */
void raft__lead_begin(struct raft *r);
void raft__lead_end(struct raft *r);
/* May a sleeping leader free what it knows of its members? If all of them consented and have the
 * whole log, it can be made again. */
bool raft__lead_may_trim(const struct raft *r);
void raft__lead_trim(struct raft *r);
void raft__lead_restore(struct raft *r);
void raft__lead_tick(struct raft *r);
uint64_t raft__lead_deadline(const struct raft *r);
void raft__lead_append(struct raft *r, struct raft_entry *e, uint64_t wall_ms);
void raft__lead_config_changed(struct raft *r, const struct raft_config *before);
void raft__lead_auto_leave(struct raft *r);
void raft__heartbeat(struct raft *r, bool voters_only);
/* The progress of another member; NULL for an unknown id, for this replica, and unless it leads. */
struct raft_progress *raft__peer(struct raft *r, uint64_t replica_id);

/* `m` is the member's answer to a message of this leader. */
void raft__lead_answered(struct raft *r, struct raft_progress *p, const struct raft_message *m);
/* By position in the configuration; true for this replica. See struct raft_peer_status. */
bool raft__lead_answers(const struct raft *r, uint32_t i);
/* False while a new leader has not heard from the member, and the member had no time to answer. */
bool raft__lead_knows(const struct raft *r, uint32_t i);
bool raft__lead_caught_up(const struct raft *r, uint32_t i);

/* propose.c: the log's entry for a change; one reference, the caller's. */
struct raft_entry *raft__change_entry(const struct raft_change *c);

/* replicate.c */
void raft__replicate(struct raft *r);

/* transfer.c */
void raft__transfer_step(struct raft *r, uint64_t peer);
void raft__transfer_end(struct raft *r);
void raft__timeout_now(struct raft *r, uint64_t target);
void raft__transfer_resume(struct raft *r); /* campaign, if TIMEOUT_NOW waited for a due change */
/* The other voter with the highest match among those in REPLICATE, or 0. */
uint64_t raft__transfer_choose(const struct raft *r);

/* read_index.c */
void raft__reads_start(struct raft *r);   /* at harvest: open a round, forward, or park */
void raft__reads_confirm(struct raft *r); /* leader: answer the reads that a quorum confirmed */
void raft__reads_fail(struct raft *r);    /* leadership or leader lost */
void raft__reads_tick(struct raft *r);
uint64_t raft__reads_deadline(const struct raft *r);
void raft__recv_read(struct raft *r, const struct raft_message *m);
void raft__recv_read_reply(struct raft *r, const struct raft_message *m);

/* force.c */
bool raft__has_no_data(const struct raft *r);
/* Is `epoch`, of a message or snapshot, this replica's? A replica without data takes over a higher
 * one. OK and false in ret_ours: the epoch is lower, and the sender is answered with REMOVED.
 * DATA_LOSS: this replica is superseded. */
THOLE_MUST_CHECK enum thole_code raft__check_epoch(struct raft *r, uint64_t from, uint8_t kind,
                                                   uint64_t epoch, bool *ret_ours,
                                                   struct thole_status *st);
void raft__force_durable(struct raft *r, uint64_t token);
void raft__force_acts(struct raft *r); /* its configuration came into force */
void raft__answer_removed(struct raft *r, uint64_t to);

/* stamp.c */

/* sleep.c */
void raft__busy(struct raft *r); /* note activity: the group does not sleep now */
/* Leader, in place of heartbeats: true if the group is falling asleep or fell asleep. */
bool raft__lead_sleep(struct raft *r);
void raft__wake(struct raft *r, uint64_t heard_ms);
THOLE_MUST_CHECK enum thole_code raft__recv_sleep(struct raft *r, const struct raft_message *m,
                                                  struct thole_status *st);
void raft__recv_sleep_reply(struct raft *r, const struct raft_message *m);
void raft__awake_new(struct raft *r);  /* make r->awake of a trimmed replica again */
void raft__awake_free(struct raft *r); /* and what it holds */

/* lease.c: all without effect unless the option is on */
uint64_t raft__lease_promise_ms(const struct raft *r); /* 0: none */
bool raft__promised(const struct raft *r);             /* not to vote now */
void raft__lease_round(struct raft *r);                /* leader: heartbeats leave */
void raft__lease_acked(const struct raft *r, struct raft_progress *p, const struct raft_message *m);
bool raft__lease_valid(const struct raft *r);

/* recv_*.c: one per message kind, called at the message's term. INVALID_ARGUMENT or DATA_LOSS for a
 * message that a correct peer cannot send. */
enum thole_code raft__check_message(const struct raft *r, const struct raft_message *m,
                                    struct thole_status *st);
void raft__recv_vote(struct raft *r, const struct raft_message *m);
void raft__recv_vote_reply(struct raft *r, const struct raft_message *m);
THOLE_MUST_CHECK enum thole_code raft__recv_append(struct raft *r, struct raft_message *m,
                                                   struct thole_status *st);
THOLE_MUST_CHECK enum thole_code raft__recv_append_reply(struct raft *r,
                                                         const struct raft_message *m,
                                                         struct thole_status *st);
/* The part that HEARTBEAT and SLEEP share: everything except the answer. */
THOLE_MUST_CHECK enum thole_code raft__take_heartbeat(struct raft *r, const struct raft_message *m,
                                                      struct thole_status *st);
THOLE_MUST_CHECK enum thole_code raft__recv_heartbeat(struct raft *r, const struct raft_message *m,
                                                      struct thole_status *st);
THOLE_MUST_CHECK enum thole_code raft__recv_heartbeat_reply(struct raft *r,
                                                            const struct raft_message *m,
                                                            struct thole_status *st);
void raft__recv_timeout_now(struct raft *r, const struct raft_message *m);
void raft__recv_removed(struct raft *r, const struct raft_message *m);

/* Send `m` as soon as its term (unless 0) and `token` are durable. Fills `from`. */
void raft__send(struct raft *r, struct raft_message m, uint64_t token);
/* An append reply that acknowledges everything up to `index`. */
void raft__send_ack(struct raft *r, uint64_t to, uint64_t index);

/* Start of every event: end what the last harvest lent out, and take the time. */
void raft__begin(struct raft *r, uint64_t now_ms);

/* check.c: the invariants, as assertions. */
void raft__check_begin(struct raft *r); /* in raft__begin: note the state that the event finds */
/* End of every event. In each build the checks without loops; with THOLE_SLOW_ASSERTS all. */
void raft__check(const struct raft *r);
void raft__check_all(const struct raft *r);
/* The messages that a harvest hands out; with THOLE_SLOW_ASSERTS only. */
void raft__check_leaving(const struct raft *r, const struct raft_message *messages, size_t n);

#endif
