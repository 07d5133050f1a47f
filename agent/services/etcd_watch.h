/* etcdserverpb.Watch: what its files share. README.md has the whole.
 *
 *   etcd_watch.c     streams: what clients ask, in order
 *   etcd_watcher.c   a watcher: the responses it gets
 *   etcd_feed.c      a shard's changes, read page by page for the watchers of this host
 *   etcd_wait.c      calls that wait for keys: Lock, Campaign, Observe
 *   etcd_rights.c    what the users of a store may watch
 *   watch_ranges.c   which watchers are interested in a key
 *
 * One worker owns all of it. Callbacks of the bus, the agent and the router post to it. */
#ifndef AGENT_SERVICES_ETCD_WATCH_H
#define AGENT_SERVICES_ETCD_WATCH_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "agent/services/etcd_service.h"
#include "agent/services/watch_ranges.h"
#include "base/map.h"
#include "base/ref.h"
#include "thole/kv/v1/kv.upb.h"

/* What all streams together may have queued for their clients: see shared_bytes in bus.h. */
#define WATCH_QUEUED_BYTES_MAX ((size_t)64 * MIB)
/* A response ends at a revision's end when it has this many bytes or revisions. A revision is not
 * divided, unless its watcher takes fragments. */
#define WATCH_RESPONSE_BYTES ((size_t)16 * KIB)
#define WATCH_RESPONSE_REVISIONS 1000
#define WATCH_FRAGMENT_BYTES ((size_t)2 * MIB)
/* A watcher whose revision is larger, and which does not take fragments, is canceled. */
#define WATCH_REVISION_BYTES_MAX ((size_t)64 * MIB)

enum {
    RESPONSE_HEADER = 1,
    RESPONSE_WATCH_ID = 2,
    RESPONSE_CREATED = 3,
    RESPONSE_CANCELED = 4,
    RESPONSE_COMPACT_REVISION = 5,
    RESPONSE_CANCEL_REASON = 6,
    RESPONSE_FRAGMENT = 7,
    RESPONSE_EVENT = 11,
};

struct etcd_feed;
struct etcd_pull;
struct etcd_stream;
struct etcd_wait;
struct etcd_watcher;
TAILQ_HEAD(etcd_watcher_list, etcd_watcher);
TAILQ_HEAD(etcd_stream_list, etcd_stream);
TAILQ_HEAD(etcd_wait_list, etcd_wait);

/* ---- Watchers -------------------------------------------------------------------------------- */

/*   NEW -> QUEUED or SYNCED                       by its revision
 *   QUEUED -> PULLING -> QUEUED or SYNCED         behind, and catching up
 *   PULLING, SYNCED -> BLOCKED                    the stream has no room
 *   BLOCKED -> QUEUED                             the client has read
 *   SYNCED -> QUEUED                              its revision was compacted meanwhile */
enum etcd_watcher_state {
    WATCHER_NEW = 0,
    WATCHER_QUEUED,  /* in feed.queued */
    WATCHER_PULLING, /* in pull->members: gets what its next page has */
    WATCHER_SYNCED,  /* gets what the feed reads at its head */
    WATCHER_BLOCKED, /* in stream->blocked */
};

/* Is the user permitted to have the watcher? See etcd_rights.c. */
enum etcd_watcher_rights {
    RIGHTS_CHECKED = 0, /* in feed.checked */
    RIGHTS_UNCHECKED,   /* in feed.unchecked */
    RIGHTS_ASKED,       /* in feed.asked */
};

struct etcd_watcher {
    struct watch_interest interest; /* in feed.ranges */
    TAILQ_ENTRY(etcd_watcher) rights_link;
    enum etcd_watcher_rights rights_state;
    uint64_t rights;    /* CHECKED: the revision of auth at which the watcher was permitted */
    uint32_t rights_at; /* ASKED: which range of the request is the watcher's */
    struct etcd_stream *stream;
    int64_t id;
    bool prev_kv, progress, fragment, no_put, no_delete;
    enum etcd_watcher_state state;
    TAILQ_ENTRY(etcd_watcher) link; /* see the states */
    struct etcd_pull *pull;         /* PULLING */
    /* Everything below this revision was sent, or is not wanted; `sent` events of the revision
     * itself were sent, in fragments. SYNCED: no less than what the feed's head says. */
    int64_t next;
    uint32_t sent;
    /* Events that were read and not sent. */
    struct bytes out;
    int64_t out_first, out_last; /* revisions */
    uint32_t out_revisions, out_events;
    size_t memory; /* that its stream holds for it */
    size_t held;   /* see bus_rpc_hold */
    bool too_large;
    struct etcd_watcher_list *touched; /* of the pull that `out` is from; NULL: `out` is empty */
    TAILQ_ENTRY(etcd_watcher) touched_link;
    uint32_t seen; /* events of `next` met in this reading and sent before: skipped up to `sent` */
    uint64_t told_ns; /* the last response, for progress */
};

/* An event of a page: the field `events` of a WatchResponse, with and without prev_kv. */
struct etcd_event {
    struct slice key, plain, full;
    int64_t revision;
    bool deletion;
};

/* A watcher in no state, for the stream's feed. Its user was permitted to have it at the revision
 * `rights` of auth. NULL: refused, and `*ret_why` says why. */
struct etcd_watcher *services__etcd_watcher_new(struct etcd_stream *t,
                                                const etcdserverpb_WatchCreateRequest *m,
                                                uint64_t rights, const char **ret_why);
/* What it wants to watch; `to` empty and not `no_end`: one key. Borrowed. */
struct watch_keys services__etcd_watcher_keys(const etcdserverpb_WatchCreateRequest *m);
/* From its stream, its feed and memory. */
void services__etcd_watcher_free(struct etcd_watcher *w);
/* Add an event of the page that is read. Without room in the stream the watcher is BLOCKED then.
 * `divided`: the revision that goes on in the next page; 0: none. */
void services__etcd_watcher_event(struct etcd_watcher *w, const struct etcd_event *e,
                                  int64_t divided, struct etcd_watcher_list *touched);
/* Send what is complete at the end of a page. The watcher may be freed. */
void services__etcd_watcher_page_end(struct etcd_watcher *w, int64_t divided);
/* Forget what was read and not sent. */
void services__etcd_watcher_rewind(struct etcd_watcher *w);
/* An empty response: everything up to `revision` was sent. */
void services__etcd_watcher_progress(struct etcd_watcher *w, int64_t revision, uint64_t now_ns);
/* The start was compacted. */
void services__etcd_watcher_compacted(struct etcd_watcher *w, int64_t compacted);
/* The user has lost the right: canceled at once, or else its stream fails. */
void services__etcd_watcher_denied(struct etcd_watcher *w);
/* It must be in no list. */
void services__etcd_watcher_enter(struct etcd_watcher *w, enum etcd_watcher_state state);
/* Take it out of the list of its state. */
void services__etcd_watcher_leave(struct etcd_watcher *w);

/* ---- Streams --------------------------------------------------------------------------------- */

struct etcd_request {
    struct worker_msg msg;
    TAILQ_ENTRY(etcd_request) link;
    struct etcd_stream *stream; /* a reference until it is in its list */
    uint64_t number;
    /* Creations: was it asked whether the user may have the watcher? The answer, and the revision
     * of auth that it is of. */
    bool asked;
    uint32_t code;
    uint64_t rights;
    size_t size;
    uint8_t bytes[];
};

/* Who gets the responses of a stream that no client opened. Called on the worker, in the middle of
 * its work: change no stream or watcher in them. */
struct etcd_sink {
    /* False: no room; the responses are made again after services__etcd_stream_resume. */
    bool (*response)(void *ctx, struct slice response);
    /* The shard is gone, or has no leader: the stream is over. */
    void (*failed)(void *ctx, const struct thole_status *st);
};

struct etcd_stream {
    struct etcd_watches *set;
    struct bus_rpc *rpc;
    const struct etcd_sink *sink; /* NULL: `rpc` is a call of Watch, and gets the responses */
    void *sink_ctx;
    struct ref refs; /* the call's, the worker's until `over`, one for each message on the way */
    struct worker_msg drained_msg, end_msg, read_msg;
    _Atomic bool drained_posted, end_posted;
    _Atomic size_t waiting_bytes; /* of requests */

    /* The worker's. */
    size_t memory, held; /* of requests and watchers; as counted by the bus */
    bool over;
    char shard[LIMIT_NAME_BYTES + 1]; /* its name */
    bool needs_leader;                /* ends soon after the shard's leader is gone */
    struct etcd_feed *feed;           /* NULL before the first watcher */
    TAILQ_ENTRY(etcd_stream) feed_link;
    TAILQ_HEAD(, etcd_request) requests;
    uint64_t number; /* of the last request */
    /* The store's revision, and what the user may watch, is read for requests up to `read_number`,
     * and known for others. */
    bool reading;
    uint64_t read_number, known_number;
    struct etcd_route read;
    struct thole_status read_status;
    int64_t known_revision;
    uint64_t known_index; /* in the log */
    struct map watchers;  /* by id */
    int64_t next_id;
    size_t unsynced; /* watchers that are not SYNCED */
    bool progress_wanted;
    struct etcd_watcher *fragmenting; /* nothing else may be sent before its last fragment */
    bool stalled;                     /* in set->stalled: has no room */
    TAILQ_ENTRY(etcd_stream) stalled_link;
    struct etcd_watcher_list blocked;
};

/* False: no room. `w` NULL: about no watcher. `message` is cleared. */
bool services__etcd_stream_send(struct etcd_stream *t, const struct etcd_watcher *w,
                                struct bytes *message);
/* Count memory for the stream. False: this host has no more for callers, and nothing changed. */
bool services__etcd_stream_hold(struct etcd_stream *t, size_t bytes);
void services__etcd_stream_give(struct etcd_stream *t, size_t bytes);
void services__etcd_stream_fail(struct etcd_stream *t, const struct thole_status *st);
/* The stream may have room again: go on in the worker's next turn. */
void services__etcd_stream_resume(struct etcd_stream *t);
/* Answer a request for progress, if there is one and all watchers are SYNCED. */
void services__etcd_stream_progress(struct etcd_stream *t);
/* A stream of a call that is not one of Watch, and counts its memory by that call. Ended by
 * services__etcd_stream_end, or by `failed`. Only on the worker, like the next two. */
struct etcd_stream *services__etcd_stream_new(struct etcd_watches *set, struct bus_rpc *rpc,
                                              const struct etcd_sink *sink, void *ctx);
void services__etcd_stream_end(struct etcd_stream *t);
/* Watch from behind the answer of `r`, which said that the store's revision was `revision`.
 * NOT_FOUND: of another shard than the stream's. RESOURCE_EXHAUSTED QUEUE_FULL. */
THOLE_MUST_CHECK enum thole_code services__etcd_stream_watch(
    struct etcd_stream *t, const etcdserverpb_WatchCreateRequest *m, const struct etcd_route *r,
    int64_t revision, struct thole_status *st);
/* Forgets watchers that are not created yet. */
void services__etcd_stream_forget(struct etcd_stream *t);
/* Begins a WatchResponse. */
void services__etcd_response(const struct etcd_stream *t, int64_t revision, int64_t watch_id,
                             struct bytes *out);

/* ---- Feeds ----------------------------------------------------------------------------------- */

/* Where reading goes on: revision, and number of the change within it. */
struct etcd_position {
    int64_t revision;
    uint32_t sub;
};

/* One reading of changes: of the head, or for watchers that catch up. It goes on for more than a
 * page only in the middle of a revision. */
struct etcd_pull {
    struct worker_msg msg;
    struct etcd_feed *feed;
    bool head, previous;
    struct etcd_position at;
    struct etcd_watcher_list members; /* not of the head */
    struct etcd_watcher_list touched;
    uint64_t announced; /* what the reading must contain ... */
    bool linearizable;  /* ... and so it must not be of a replica that is behind */
    struct etcd_route route;
    struct thole_status st;
    TAILQ_ENTRY(etcd_pull) again_link; /* failed, or waits for a check of rights */
};
TAILQ_HEAD(etcd_pull_list, etcd_pull);

/* The changes of a shard that one user may see. */
struct etcd_feed {
    struct etcd_watches *set;
    uint64_t key; /* in set->feeds */
    uint64_t shard_id;
    struct bytes ticket; /* what the changes are asked for with; empty: auth is disabled */
    char shard[LIMIT_NAME_BYTES + 1];     /* its name */
    uint64_t cluster_id, member_id, term; /* as headers say */
    struct etcd_stream_list streams;
    struct watch_ranges ranges; /* of all watchers */
    size_t previous;            /* watchers that want prev_kv */
    /* All watchers by their rights_state. */
    struct etcd_watcher_list checked, unchecked, asked;
    /* The revision of auth at which all of `checked` were permitted. While a check is under way:
     * that of its last answer, and of watchers that were checked in it. */
    uint64_t rights;
    bool checking;       /* until all are checked, no page is used */
    bool check_sent;     /* a request is under way, of `asked` ... */
    size_t check_ranges; /* ... as they were when it was sent */
    struct worker_msg check_msg;
    struct etcd_route check;
    struct thole_status check_status;
    bool marked; /* in set->marked */
    TAILQ_ENTRY(etcd_feed) marked_link;
    /* The agent's watch, which only says that there is something to read. */
    bool watching;
    uint64_t watch_id, watched_ns;
    _Atomic uint64_t announced; /* index in the log */
    _Atomic bool wake_posted;
    struct worker_msg wake_msg, lost_msg;
    /* Watchers that are SYNCED, and where they are. */
    size_t synced;
    struct etcd_position head;
    bool head_is_old;    /* there is more to read, as far as is known */
    uint64_t head_index; /* in the log: read up to there */
    struct etcd_pull *head_pull;
    int64_t current; /* the greatest revision that was seen */
    uint64_t led_ns; /* when the shard had a leader, as far as this host knows */
    /* Others. */
    struct etcd_watcher_list queued;
    size_t pulls;                /* under way or in `again`, the head's among them */
    struct etcd_pull_list again; /* failed, or wait for a check of rights */
};

/* The stream's feed from now on, if it has none. */
void services__etcd_feed_join(struct etcd_stream *t, uint64_t shard_id, struct slice ticket);
void services__etcd_feed_part(struct etcd_stream *t);
/* The watcher has everything below its `next`. The store was read at `index` of the log, and had
 * the revision `current` then. */
void services__etcd_feed_place(struct etcd_feed *f, struct etcd_watcher *w, int64_t current,
                               uint64_t index);
/* Something may be to be read: look at the end of the worker's turn. */
void services__etcd_feed_mark(struct etcd_feed *f);
void services__etcd_feed_read_on(struct etcd_feed *f);
/* Everything up to it was sent to watchers that are SYNCED. */
int64_t services__etcd_feed_sent(const struct etcd_feed *f);
/* From time to time: repeat what failed; tell progress. */
void services__etcd_feed_look(struct etcd_feed *f);
void services__etcd_feed_woken(struct worker_msg *m);
void services__etcd_feed_lost(struct worker_msg *m);
void services__etcd_feed_page(struct worker_msg *m);
void services__etcd_feed_free(struct etcd_feed *f);
void services__etcd_feed_fail(struct etcd_feed *f, const struct thole_status *st); /* all streams */
/* All watchers are checked: repeat what waited for it. */
void services__etcd_feed_again(struct etcd_feed *f);

/* ---- Rights ---------------------------------------------------------------------------------- */

#define RIGHTS_RANGES_MAX 1000
#define RIGHTS_BYTES_MAX ((size_t)512 * KIB)
/* A PermitRequest of what the stream's waiting requests want to watch. Returns the number of the
 * last request that is known then. */
uint64_t services__etcd_rights_encode(struct etcd_stream *t, struct bytes *out);
/* The answer to it. False: it is none. */
bool services__etcd_rights_learn(struct etcd_stream *t, const thole_kv_v1_PermitResponse *m);
/* Of a refusal: etcd's message, and the cancel_reason. */
const char *services__etcd_rights_text(uint32_t code);
const char *services__etcd_rights_reason(uint32_t code);
/* The watcher is new, and was permitted at its `rights`; or it goes. */
void services__etcd_rights_add(struct etcd_watcher *w);
void services__etcd_rights_remove(struct etcd_watcher *w);
/* Has the feed any watchers? */
bool services__etcd_rights_matter(const struct etcd_feed *f);
/* The rights may have changed: look at all watchers. */
void services__etcd_rights_check(struct etcd_feed *f);
void services__etcd_rights_checked(struct worker_msg *m);
void services__etcd_rights_look(struct etcd_feed *f);

/* ---- The whole ------------------------------------------------------------------------------- */

enum etcd_watch_message {
    WATCH_REQUEST = 1,
    WATCH_DRAINED,
    WATCH_END,
    WATCH_READ,
    WATCH_WOKEN,
    WATCH_LOST,
    WATCH_PAGE,
    WATCH_WAIT,
    WATCH_CHECKED,
};

struct etcd_watches {
    struct services *s;
    struct worker *worker;
    struct map feeds; /* by a hash of shard and ticket */
    struct etcd_stream_list stalled;
    TAILQ_HEAD(, etcd_feed) marked;
    struct etcd_wait_list later; /* etcd_wait.h: calls that repeat a request at the next look */
    uint64_t now_ns;             /* at the turn's begin */
    uint64_t look_ns;            /* CLOCK_NEVER: there is nothing to look at */
};

struct etcd_watches *services__etcd_watches_new(struct services *s);
void services__etcd_watches_free(struct etcd_watches *set); /* stops the worker */
void services__etcd_watch(void *ctx, struct bus_rpc *rpc, struct slice message);
void services__etcd_watch_end(void *ctx, struct bus_rpc *rpc);

#endif
