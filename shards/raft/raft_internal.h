/* Inside the core: the state, and who changes what. See README.md for invariants and
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

/* What must be written, and how far writing has come. Tokens are 1, 2, 3, ... */
struct raft_persist {
    uint64_t token;      /* handed out last */
    uint64_t done;       /* durable up to this one */
    uint64_t hard_token; /* under which term and vote as they are now become durable */
    bool hard_dirty;     /* term or vote changed since the last harvest, or `commit_token` is set */
    uint64_t commit;     /* known to be durable: what lets configurations act */
    uint64_t
        commit_token; /* under which `commit_marked` becomes durable, too; 0: none is asked for */
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

/* When a heartbeat round left, for leases: numbers are those of read rounds. */
#define RAFT_LEASE_ROUNDS 32
struct raft_lease_round {
    uint64_t number, sent_ns;
};

/* A leader's state. `peers` is parallel to the configuration's members (our own included, whose
 * element is unused but for read_acked). */
struct raft_lead {
    struct raft_progress *peers; /* NULL: all are as sleep.c says of a group that sleeps */
    uint32_t peer_count;
    uint64_t first_index; /* of this leadership: its no-op */
    uint64_t uncommitted_bytes;
    uint64_t checked_commit; /* the commit index at the last check of the quorum ... */
    uint64_t recent_commit;  /* ... and at the one before: what a new voter must have */
    uint64_t witness_sent;   /* the last entry that any witness was sent */
    uint64_t heartbeat_deadline_ms;
    uint64_t quorum_deadline_ms; /* when the next check of a quorum's activity is due */
    uint64_t transfer_target;    /* 0: none */
    uint64_t transfer_deadline_ms;
    bool transfer_sent;
    struct raft_lease_round *rounds; /* with lease reads: the newest, by number */
    bool lease_void; /* TIMEOUT_NOW was sent, and may arrive as long as this term lasts */
};

/* What an event found: check.c compares it with what the event left. */
struct raft_found {
    uint64_t term, vote;
    uint64_t commit, applied, handed;
    uint64_t epoch;
    uint64_t start_index, last_index;
    uint64_t read_number;
    enum raft_role role;
};

/* What is empty, or follows from the rest, while a replica sleeps: raft__begin makes it, raft_trim
 * gives it back. */
struct raft_awake {
    struct rand rand;
    struct raft_persist persist;
    struct raft_campaign campaign;
    struct raft_reads reads;
    struct raft_outbox outbox;
    uint64_t answering, answering_life; /* the sender of the message being received */
    uint64_t answering_sent_ms;         /* of that message */
    uint64_t election_deadline_ms;
    uint64_t busy_ms;     /* leader: when something last happened; never: since the last tick */
    uint64_t force_index; /* raft_force's entry, until it is durable; 0: none */
    uint64_t force_token; /* under which it becomes so; 0: not harvested */
    uint64_t stand_term;  /* if it is ours: stand by transfer when the change that is due acts */
    struct raft_found found;
};

struct raft {
    struct raft_options options;
    uint64_t now_ms;
    uint64_t real_ns; /* raft_clock; 0: never told */

    uint64_t term, vote;
    uint64_t leader;
    uint64_t commit;
    uint64_t applied;             /* by the machine */
    uint64_t handed;              /* given to the machine in an update */
    uint64_t epoch;               /* of our configuration, or of the one we are about to get */
    uint64_t election_timeout_ms; /* drawn */
    uint64_t contact_ms; /* when the leader was last heard; with lease reads, at first, our start */
    uint64_t sleep_round; /* leader: raised by all that voids members' consent to sleep */
    uint64_t read_number; /* of the last round or forward of reads: only grows */

    struct raft_log log;
    struct raft_membership membership;
    struct raft_lead *lead;   /* NULL: it does not lead */
    struct raft_awake *awake; /* NULL: nothing happened since it fell asleep; then these count: */
    uint64_t asleep_seed;     /* of `rand` when it wakes */
    uint64_t asleep_token, asleep_commit; /* of `persist` */

    enum raft_role role;
    bool asleep;     /* no deadline: see sleep.c */
    bool removed;    /* for good: never campaigns again */
    bool superseded; /* a peer has a higher epoch than this replica's data: it takes part no more */
    bool real_fresh; /* raft_clock told since the last read arrived */
    bool work;       /* a leader's members may be due a message */
    bool status_changed, config_changed, removed_changed;
};
static_assert(sizeof(struct raft) <= 320, "one for each replica of the host");

static inline const struct raft_config *raft__config(const struct raft *r)
{
    return raft__membership_current(&r->membership);
}

/* role.c: who leads whom. */
void raft__become_follower(struct raft *r, uint64_t term, uint64_t leader);
void raft__become_pre_candidate(struct raft *r);
void raft__become_candidate(struct raft *r);
void raft__become_leader(struct raft *r);
void raft__set_term(struct raft *r, uint64_t term);
void raft__set_vote(struct raft *r, uint64_t vote);
/* The leader of this term spoke. Redraws nothing; moves the election deadline. */
void raft__heard_leader(struct raft *r, uint64_t leader);
bool raft__has_election_timer(const struct raft *r);
void raft__rearm_election(struct raft *r);
void raft__redraw_election(struct raft *r);
/* If we are alone among the voters there is nobody to wait for: campaign as soon as may be. */
void raft__hurry_if_alone(struct raft *r);

/* election.c */
bool raft__may_campaign(const struct raft *r);
void raft__campaign(struct raft *r, bool transfer);
void raft__count_vote(struct raft *r, uint64_t from, bool granted);
void raft__self_vote_durable(struct raft *r);

/* persist.c: what is durable when. */
bool raft__dirty(const struct raft *r);
/* The token under which the log up to `index`, as it is now, becomes durable; 0 if it is. */
uint64_t raft__log_token(const struct raft *r, uint64_t index);
/* Our own writes have been stuck for an election timeout. */
bool raft__writer_stalled(const struct raft *r);

/* commit.c */
/* Followers: everything up to `index`, which is in the log, is committed. */
void raft__commit_to(struct raft *r, uint64_t index);
/* Leader: commit what a quorum has. */
void raft__commit_by_quorum(struct raft *r);
/* Anyone: a peer's (commit, term of it) on a vote message, if our log has that entry. */
void raft__commit_by_vote(struct raft *r, const struct raft_message *m);
/* Is a change committed that does not act yet? Then our idea of a quorum may be too old. */
bool raft__change_is_due(const struct raft *r);
bool raft__has_witness(const struct raft_config *c);
/* Leader: how far the logs of those reach who may lead under `next`: the best of them. */
uint64_t raft__best_match(const struct raft *r, const struct raft_config *next);
/* A voter and a witness may be a quorum, and a witness cannot lead. If a change takes away the
 * voter whose log alone is as new as the witness', nobody can be elected any more. So while a
 * change is pending in a group with witnesses, it commits only when a voter that stays has it, and
 * witnesses get nothing that none of those has. This is how far they have the log; UINT64_MAX: no
 * bound. */
uint64_t raft__staying_match(const struct raft *r);
/* Let configurations act that are committed and durable, then drop what the cache need not hold. */
void raft__advance(struct raft *r);

/* lead.c: what a leader does beside replicating. */
void raft__lead_begin(struct raft *r);
void raft__lead_end(struct raft *r);
/* What is known of its members need not be kept while it sleeps: they sleep too. */
bool raft__lead_rests(const struct raft *r);
void raft__lead_rest(struct raft *r);
void raft__lead_rise(struct raft *r);
void raft__lead_tick(struct raft *r);
uint64_t raft__lead_deadline(const struct raft *r);
void raft__lead_append(struct raft *r, struct raft_entry *e);
void raft__lead_config_changed(struct raft *r, const struct raft_config *before);
void raft__lead_auto_leave(struct raft *r);
void raft__heartbeat(struct raft *r, bool voters_only);
/* The progress of a member, or NULL; not for ourselves. */
struct raft_progress *raft__peer(struct raft *r, uint64_t replica_id);

/* The member answered us: `m` says what. */
void raft__lead_answered(struct raft *r, struct raft_progress *p, const struct raft_message *m);
/* Of a member by its position; we answer ourselves. See struct raft_peer_status. */
bool raft__lead_answers(const struct raft *r, uint32_t i);
bool raft__lead_caught_up(const struct raft *r, uint32_t i);

/* propose.c: the log's entry for a change; one reference, the caller's. */
struct raft_entry *raft__change_entry(const struct raft_change *c);

/* replicate.c */
void raft__replicate(struct raft *r);

/* transfer.c */
void raft__transfer_step(struct raft *r, uint64_t peer);
void raft__transfer_end(struct raft *r);
void raft__timeout_now(struct raft *r, uint64_t target);
void raft__transfer_resume(struct raft *r); /* stand, if that only waited for a change to act */
/* The best caught-up voter other than us, or 0. */
uint64_t raft__transfer_choose(const struct raft *r);

/* read_index.c */
void raft__reads_start(struct raft *r);   /* at harvest: open a round, forward, or park */
void raft__reads_confirm(struct raft *r); /* leader: answer what a quorum confirmed */
void raft__reads_fail(struct raft *r);    /* leadership or leader lost */
void raft__reads_tick(struct raft *r);
uint64_t raft__reads_deadline(const struct raft *r);
void raft__recv_read(struct raft *r, const struct raft_message *m);
void raft__recv_read_reply(struct raft *r, const struct raft_message *m);

/* force.c */
bool raft__has_no_data(const struct raft *r);
/* Is `epoch`, of a message or snapshot, ours? A replica without data takes a higher one over. OK
 * and false in ret_ours: a lower one, which is answered; DATA_LOSS: we are superseded. */
THOLE_MUST_CHECK enum thole_code raft__check_epoch(struct raft *r, uint64_t from, uint8_t kind,
                                                   uint64_t epoch, bool *ret_ours,
                                                   struct thole_status *st);
void raft__force_durable(struct raft *r, uint64_t token);
void raft__force_acts(struct raft *r); /* its configuration came into force */
void raft__answer_removed(struct raft *r, uint64_t to);

/* sleep.c */
void raft__busy(struct raft *r); /* something happens here: no time to sleep */
/* Leader, in place of heartbeats: true if the group is falling asleep, or does. */
bool raft__lead_sleep(struct raft *r);
void raft__wake(struct raft *r, uint64_t heard_ms);
THOLE_MUST_CHECK enum thole_code raft__recv_sleep(struct raft *r, const struct raft_message *m,
                                                  struct thole_status *st);
void raft__recv_sleep_reply(struct raft *r, const struct raft_message *m);
struct raft_awake *raft__awake_new(struct raft *r); /* r->awake, as it is for who slept */
void raft__awake_free(struct raft *r);              /* and what it holds */

/* lease.c: all without effect unless the option is on */
uint64_t raft__lease_promise_ms(const struct raft *r); /* 0: none */
bool raft__promised(const struct raft *r);             /* not to vote now */
void raft__lease_round(struct raft *r);                /* leader: heartbeats leave */
void raft__lease_acked(const struct raft *r, struct raft_progress *p, const struct raft_message *m);
bool raft__lease_valid(const struct raft *r);

/* recv_*.c: one per message kind, called at the message's term (replies and requests), with
 * INVALID_ARGUMENT or DATA_LOSS for what an honest peer cannot send. */
enum thole_code raft__check_message(const struct raft *r, const struct raft_message *m,
                                    struct thole_status *st);
void raft__recv_vote(struct raft *r, const struct raft_message *m);
void raft__recv_vote_reply(struct raft *r, const struct raft_message *m);
THOLE_MUST_CHECK enum thole_code raft__recv_append(struct raft *r, struct raft_message *m,
                                                   struct thole_status *st);
THOLE_MUST_CHECK enum thole_code raft__recv_append_reply(struct raft *r,
                                                         const struct raft_message *m,
                                                         struct thole_status *st);
/* All of a heartbeat (or SLEEP) but the answer. */
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

/* Start of every event: forget what the last harvest lent out, and take the time. */
void raft__begin(struct raft *r, uint64_t now_ms);

/* check.c: the invariants, as assertions. */
void raft__check_begin(struct raft *r); /* of raft__begin: what the event finds */
/* End of every event: in each build what takes no loop, with THOLE_SLOW_ASSERTS all of them. */
void raft__check(const struct raft *r);
void raft__check_all(const struct raft *r);
/* What a harvest is about to hand out; with THOLE_SLOW_ASSERTS. */
void raft__check_leaving(const struct raft *r, const struct raft_message *messages, size_t n);

#endif
