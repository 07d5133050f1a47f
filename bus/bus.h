/* The gRPC bus: server, peers, streams, client channels. It carries frames and methods, and knows
 * nothing of Raft.
 *
 * Three things share one gRPC C core:
 *   - a server that offers the Bus service, reflection, health, and the methods that the agent
 *     registers (the control plane);
 *   - peers: for each remote host one connection per lane and one for exchanges, reconnected with
 *     backoff, each with a batching writer and a byte bound;
 *   - channels: plain gRPC clients for the command line and tests.
 *
 * Threads: callbacks run on the bus's own thread, one at a time, and must not block: post to a
 * worker. A cancellation may come while another thread answers. Every function may be called from
 * any thread unless it says otherwise.
 *
 * Ownership: the bus takes over `struct bufslice` arguments and releases one reference. */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/lineage.h"
#include "base/uuid.h"

struct bus;

/* ---- TLS ------------------------------------------------------------------------------------- */

/* Paths of PEM files. A host needs the first three, a client `ca`, and `cert` and `key` to be
 * somebody. */
struct bus_tls_files {
    const char *cert;      /* our own, then the chain up to a CA */
    const char *key;       /* its private key, without a password */
    const char *ca;        /* CAs that sign certificates of hosts */
    const char *client_ca; /* CAs that sign those of users; NULL: `ca` */
    const char *crl;       /* lists of revoked certificates, of any of these CAs; NULL: none */
};

/* The certificates of a process. Shared by buses and channels; counted. */
struct bus_tls;
/* INVALID_ARGUMENT, NOT_FOUND: a file is missing or holds something else; UNAUTHENTICATED: our own
 * certificate does not count. The reason is CERTIFICATE and the message names the file. */
THOLE_MUST_CHECK enum thole_code bus_tls_new(const struct bus_tls_files *files, bool host,
                                             struct bus_tls **ret, struct thole_status *st);
struct bus_tls *bus_tls_ref(struct bus_tls *t); /* NULL is fine */
void bus_tls_unref(struct bus_tls *t);          /* NULL is fine */
/* Read the files again now. After a failure the old ones stay in use. */
THOLE_MUST_CHECK enum thole_code bus_tls_reload(struct bus_tls *t, struct thole_status *st);
/* The name in our own certificate; "": we have none. */
void bus_tls_name(struct bus_tls *t, char *ret, size_t size);
/* Unix time at which the first of our own certificate and the CAs ceases to count. Looks at the
 * files, if that was not done for a while. */
int64_t bus_tls_expiry_s(struct bus_tls *t);

/* Our certificate and key in PEM, to be freed, for another server of this process. Returns a number
 * that changes when they do; with `ret_cert` NULL only that. */
uint64_t bus_tls_pem(struct bus_tls *t, char **ret_cert, char **ret_key);

/* ---- Who calls ------------------------------------------------------------------------------- */

enum bus_identity_kind {
    BUS_ANONYMOUS, /* without a certificate */
    BUS_HOST,      /* a host of our cluster */
    BUS_CLIENT,    /* a user with a certificate */
};

/* Who made a call or opened a stream. Its strings live as long as the call. */
struct bus_identity {
    enum bus_identity_kind kind;
    bool secure;         /* over TLS. Otherwise a host is one because it says so */
    struct uuid host_id; /* HOST: as its hello said, else nil (a call of the control plane) */
    const char *name;    /* HOST, CLIENT: as its certificate says; "" without TLS */
    /* CLIENT: its certificate says thole://CLUSTER/user/NAME, of our cluster. Others name a user by
     * another URI or a common name, which any CA may have given out. */
    bool ours;
    const char *address;        /* of the connection's other end, as gRPC writes it */
    struct slice authorization; /* that came with the call, see RFC 6750; empty: none */
};

/* Why a call is refused, and which right it lacks; "": it is not about a right. */
#define BUS_RIGHT_BYTES 192
struct bus_denial {
    struct thole_status st;
    char right[BUS_RIGHT_BYTES];
};

enum bus_lane { BUS_LANE_CONTROL = 1, BUS_LANE_APPEND = 2, BUS_LANE_SNAPSHOT = 3 };

/* A request by Exchange or Ask, from a peer or a client of the library. Answer it exactly once with
 * bus_answer(more = false) or bus_answer_failure, from any thread, now or later. */
struct bus_request;
uint32_t bus_request_method(const struct bus_request *r);
struct slice bus_request_body(const struct bus_request *r); /* until the last answer */
bool bus_request_from(const struct bus_request *r, struct uuid *ret_host); /* false: a client */
/* Of a request of this process to itself: HOST, with its own id. */
void bus_request_identity(const struct bus_request *r, struct bus_identity *ret);
uint64_t bus_request_deadline_ns(const struct bus_request *r); /* monotonic; CLOCK_NEVER */
/* `on_cancel` runs at most once: when the caller cancels, or when its stream breaks. A final answer
 * is still required, and is then dropped. Set it before returning from the handler. */
void bus_request_on_cancel(struct bus_request *r, void (*on_cancel)(void *ctx), void *ctx);
/* The bus frees `data` after the final answer, when no callback can use it any more. It is the
 * right owner for the context of on_cancel, which may run while another thread answers. */
void bus_request_set_data(struct bus_request *r, void *data, void (*free_fn)(void *data));
/* `body` is taken over; one without an owner is copied before this returns. If too many answers
 * wait unread, a final one is replaced by a failure, RESOURCE_EXHAUSTED OUTCOME_UNKNOWN. False
 * (only with more = true): the stream's bound is reached; slow down, or fail the watch. */
bool bus_answer(struct bus_request *r, struct bufslice body, bool more);
void bus_answer_failure(struct bus_request *r, const struct thole_status *st);

struct bus_rpc;

struct bus_handler {
    void *ctx;
    /* A frame from a known host of this cluster. `frame` is borrowed; take a reference to keep. */
    void (*frame)(void *ctx, const struct uuid *from, uint64_t from_incarnation, enum bus_lane lane,
                  struct bufslice frame);
    /* The lanes to a peer became usable, or stopped being so (broken, silent for too long). */
    void (*peer_state)(void *ctx, const struct uuid *host, bool up, uint64_t incarnation);
    void (*request)(void *ctx, struct bus_request *r);
    /* A peer refused our connection, for the given reason (wrong cluster, stale incarnation,
     * removed). The bus keeps trying, but time alone does not heal it. May be NULL. */
    void (*refused)(void *ctx, const struct uuid *host, const struct thole_status *st);
    /* Whether to accept a caller of our cluster; NULL accepts all. Refuse by filling `st` and
     * returning its code. Called for each hello of a stream from a host (not from clients). */
    enum thole_code (*admit)(void *ctx, const struct bus_identity *who, uint64_t incarnation,
                             const struct lineage *lineage, struct thole_status *st);
    /* The start of that host which the cluster has recorded, as far as this host knows; false:
     * none. It decides which of two processes of one host is the copy. May be NULL. */
    bool (*recorded)(void *ctx, const struct uuid *host, uint64_t *ret_incarnation,
                     uint64_t *ret_number);
    /* A host of our cluster called or answered, and named its address. May be NULL. Also called on
     * a thread that is in bus_ask. */
    void (*met)(void *ctx, const struct uuid *host, uint64_t incarnation, const char *address);
    /* Whether to take a call of this method; NULL takes all. Called for each call before its
     * handler, those of peers and clients of the library among them, and again twice a second for
     * each stream of a client that is open: if refused, it ends. Fills `ret` and returns its
     * code. */
    enum thole_code (*authorise)(void *ctx, struct bus_rpc *rpc, const char *path,
                                 struct bus_denial *ret);
};

struct bus_options {
    const char *listen_address; /* "127.0.0.1:0" picks a port; NULL: no server (a client) */
    /* NULL: the listen address with the real port; with port 0: the real one */
    const char *advertise_address;
    struct uuid host_id;    /* nil: a client */
    struct uuid cluster_id; /* nil until known; see bus_set_cluster */
    uint64_t incarnation;
    struct lineage lineage; /* of this start */
    const char *version;
    const char *log_host; /* host name in log lines of the bus's thread; NULL: none */
    const struct clock *clock;
    struct bus_handler handler;
    size_t peer_queue_bytes; /* per lane; 0: default 16 MiB. Full: bus_send refuses */
    uint32_t unary_slots;    /* concurrent unary control-plane calls; 0: default 256 */
    /* Concurrent streams and Asks of callers; the last fifth is reserved for hosts and the library.
     * 0: default 20480; each takes about 35 KiB, most of it in gRPC. */
    uint32_t streams_max;
    /* Accepted connections; the last quarter is reserved for other hosts. 0: from the limit of open
     * files, at most 10000. */
    uint32_t connections_max;
    /* Memory held for callers. The bound applies twice: to half-received messages in gRPC (beyond
     * it, calls are cancelled), and to requests and unread answers here. 0: default 256 MiB. */
    size_t memory_bytes;
    /* Certificates of this host or client (a reference is taken); NULL: connections are in plain
     * text. With it, only those with a host's certificate of our cluster are hosts. */
    struct bus_tls *tls;
    /* A client's: sent with each exchange and Ask as "authorization: Bearer TOKEN"; copied; NULL:
     * none. */
    const char *token;
    /* With TLS a connection takes no new calls when it is this old, so that clients show a new
     * certificate in time; open streams go on. 0: an hour */
    uint32_t connection_age_ms;
};

/* UNAVAILABLE ADDRESS_IN_USE, INVALID_ARGUMENT. The server does not answer until bus_start. */
THOLE_MUST_CHECK enum thole_code bus_new(const struct bus_options *o, struct bus **ret,
                                         struct thole_status *st);
void bus_start(struct bus *b);
/* The two parts of bus_stop, for an owner that stops other things in between, so that each call is
 * answered with its real outcome. bus_drain: refuse new calls, and let running ones finish for up
 * to grace_ms. bus_cut: end clients' streams, our exchanges, and all connections with peers. */
void bus_drain(struct bus *b, uint32_t grace_ms);
void bus_cut(struct bus *b);
/* Whatever of the two was not done, then cancel the calls that do not end soon. Not from a
 * callback. All three accept NULL. */
void bus_stop(struct bus *b, uint32_t grace_ms);
void bus_free(struct bus *b);                 /* after bus_stop; NULL is fine */
const char *bus_address(const struct bus *b); /* advertised, with the real port */
uint16_t bus_port(const struct bus *b);
void bus_set_cluster(struct bus *b, const struct uuid *cluster_id);

/* ---- Peers ----------------------------------------------------------------------------------- */

/* Idempotent; a changed address reconnects. A removed peer's queued frames are dropped and its
 * exchanges fail. A nil host id is invalid. */
THOLE_MUST_CHECK enum thole_code bus_peer_set(struct bus *b, const struct uuid *host,
                                              const char *address, struct thole_status *st);
void bus_peer_remove(struct bus *b, const struct uuid *host);
bool bus_peer_up(struct bus *b, const struct uuid *host);

/* Queue a frame. UNAVAILABLE UNREACHABLE: no such peer, or not connected (the frame is dropped;
 * Raft sends again). RESOURCE_EXHAUSTED QUEUE_FULL. `frame` is taken over in every case. Frames of
 * one lane arrive in order, or not at all. */
enum thole_code bus_send(struct bus *b, const struct uuid *host, enum bus_lane lane,
                         struct bufslice frame);

/* An exchange with a peer. `done` is called on a bus thread: for each answer with more = true, then
 * exactly once with more = false, when st->code says whether the exchange succeeded. UNAVAILABLE
 * UNREACHABLE: certainly not sent. UNKNOWN OUTCOME_UNKNOWN: the peer may have handled it.
 * The `body` of `done` is borrowed. The request's body is taken over, and copied before this
 * returns if it has no owner. Returns an id for bus_exchange_cancel. timeout_ms 0: no limit. A
 * timeout is DEADLINE_EXCEEDED; a timeout or cancellation has the reason OUTCOME_UNKNOWN if the
 * peer may have handled the request. After bus_stop `done` runs on the caller's thread. */
typedef void (*bus_answer_fn)(void *ctx, const struct thole_status *st, struct bufslice body,
                              bool more);
uint64_t bus_exchange(struct bus *b, const struct uuid *host, uint32_t method, struct bufslice body,
                      uint32_t timeout_ms, bus_answer_fn done, void *ctx);
/* `done` is still called (CANCELLED), perhaps before this returns. */
void bus_exchange_cancel(struct bus *b, const struct uuid *host, uint64_t id);

/* The host that answered an Ask, as it names itself. */
struct bus_ask_peer {
    struct uuid host_id, cluster_id;
    uint64_t incarnation;
    char name[129]; /* in its certificate; "" without TLS */
};
/* Ask an address (not a known peer) once; blocking; any thread but the bus's own. */
THOLE_MUST_CHECK enum thole_code bus_ask(struct bus *b, const char *address, uint32_t method,
                                         struct slice body, uint32_t timeout_ms,
                                         struct buf **ret_body, struct bus_ask_peer *ret_peer,
                                         struct thole_status *st);
/* Running and later Asks fail at once: UNAVAILABLE STOPPED. Any thread. */
void bus_end_asks(struct bus *b);

/* ---- Control-plane methods on the server ----------------------------------------------------- */

enum bus_rpc_kind { BUS_RPC_UNARY, BUS_RPC_SERVER_STREAM, BUS_RPC_BIDI_STREAM };

struct bus_rpc; /* one call; the bus frees it after its finish and the last callback */

struct bus_method {
    const char *path; /* "/thole.v1.Shards/Get" */
    enum bus_rpc_kind kind;
    void *ctx;
    /* UNARY, SERVER_STREAM: called once with the request. BIDI: called for each message, then `end`
     * (if set) after the client's last one. `message` is borrowed. */
    void (*handle)(void *ctx, struct bus_rpc *rpc, struct slice message);
    void (*end)(void *ctx, struct bus_rpc *rpc);
    /* Streams: 0, or all of the method share so many bytes of queue. Each may have a 64th of what
     * is free, and never less than BUS_RPC_SHARE_BYTES_MIN; one message of any size as long as half
     * is free. So many streams whose clients do not read take little each, and leave room for
     * others. */
    size_t shared_bytes;
};
#define BUS_RPC_SHARE_BYTES_MIN 4096
/* Before bus_start. `methods` is copied; paths must be static. */
void bus_register(struct bus *b, const struct bus_method *methods, size_t n);

void bus_rpc_set_data(struct bus_rpc *rpc, void *data, void (*free_fn)(void *data));
void *bus_rpc_data(const struct bus_rpc *rpc);
uint64_t bus_rpc_deadline_ns(const struct bus_rpc *rpc); /* monotonic; CLOCK_NEVER */
const char *bus_rpc_peer(const struct bus_rpc *rpc);     /* the client's address, for logs */
/* Metadata that came with the call, `name` in lower case: the first value of that name, borrowed
 * until the end of the call; empty: none. */
struct slice bus_rpc_metadata(const struct bus_rpc *rpc, const char *name);
void bus_rpc_identity(const struct bus_rpc *rpc, struct bus_identity *ret);
/* The same without the address, which costs an allocation. */
void bus_rpc_who(const struct bus_rpc *rpc, struct bus_identity *ret);
/* For `authorise`: who calls, freed with the call, ... */
void bus_rpc_set_user(struct bus_rpc *rpc, void *user, void (*free_fn)(void *user));
void *bus_rpc_user(const struct bus_rpc *rpc);       /* NULL: not set */
void *bus_request_user(const struct bus_request *r); /* of its stream or Ask; NULL: this process */
/* ... and memory for what the call was found to need: zeroed when the call arrives; only on the
 * bus's thread. */
#define BUS_RPC_SCRATCH_BYTES 160
void *bus_rpc_scratch(struct bus_rpc *rpc);
/* Called at most once, when the client is gone before the end. A finish is still required. */
void bus_rpc_on_cancel(struct bus_rpc *rpc, void (*on_cancel)(void *ctx), void *ctx);
/* Streams: queue a message. False: the bound (4 MiB, or see shared_bytes) is reached; nothing was
 * queued, and `message` was released. `drained` (optional) is called when the queue is below half
 * its bound again (with shared_bytes: empty). */
bool bus_rpc_send(struct bus_rpc *rpc, struct bufslice message);
/* A stream with shared_bytes, after bus_rpc_send returned false: is nothing of it queued? Then it
 * waits for others, `drained` does not come, and the caller tries again after a while. */
bool bus_rpc_flushed(const struct bus_rpc *rpc);
/* Is there room for a message of so many bytes in the host's memory for callers? */
bool bus_rpc_room(const struct bus_rpc *rpc, size_t bytes);
/* Count memory that the handler holds for the call, such as a waiting request: from now on `bytes`,
 * instead of the earlier count. False: the host's memory for callers has no room; nothing changed.
 * held NULL: the call's own count, which ends with the call (unary only). Otherwise the caller sets
 * the count to 0 before the call is finished. */
bool bus_rpc_hold(struct bus_rpc *rpc, size_t *held, size_t bytes);
void bus_rpc_on_drained(struct bus_rpc *rpc, void (*drained)(void *ctx), void *ctx);
/* End the call: UNARY with a message; a stream with OK, and a last message or none (owner and data
 * NULL). Exactly one finish per call, from any thread. */
void bus_rpc_reply(struct bus_rpc *rpc, struct bufslice message);
/* End the call with an error: a status with google.rpc.Status details: ErrorInfo with `metadata`
 * (NAME, VALUE, ..., NULL; may be NULL), and RetryInfo if retry_ms > 0. */
void bus_rpc_fail(struct bus_rpc *rpc, const struct thole_status *st, uint32_t retry_ms,
                  const char *const *metadata);

/* ---- Calls by other doors -------------------------------------------------------------------- */

/* A call of one of this bus' methods that came to this process by another protocol, such as HTTP:
 * `authorise` judges it, and it has the bounds and handlers of calls by gRPC. Methods between hosts
 * do not exist for it. */
struct bus_header {
    const char *name; /* in lower case, static */
    struct slice value;
};
struct bus_call_options {
    const char *path; /* "/thole.v1.Shards/GetShard" */
    const char *peer; /* the caller's address in gRPC's notation, "ipv4:127.0.0.1:1234" */
    const struct bus_header *headers; /* with "authorization", if there is one */
    size_t header_count;
    const struct slice *messages; /* one for UNARY and SERVER_STREAM */
    size_t message_count;
    bool stays_open; /* BIDI: no end of the messages is announced to the handler */
    /* Called on any thread when bus_call_take may have something new; not after the release, except
     * for one that runs already. Must not block. */
    void (*wake)(void *ctx);
    /* The last use of ctx, after the release. */
    void (*released)(void *ctx);
    void *ctx;
};
struct bus_call;
struct bus_call *bus_call_begin(struct bus *b, const struct bus_call_options *o); /* copies */
enum bus_call_state {
    BUS_CALL_WAITS,   /* nothing is known yet */
    BUS_CALL_BEGUN,   /* a SERVER_STREAM that the handler has accepted, without a message now */
    BUS_CALL_MESSAGE, /* in `ret`, to be released */
    BUS_CALL_ENDED,   /* bus_call_status says how; all messages were taken */
};
/* The next message. A stream's queue is bounded (4 MiB): its handler waits for a door that does not
 * take, or fails the call. */
enum bus_call_state bus_call_take(struct bus_call *c, struct bufslice *ret);
/* Of a call that has ended. Of a failure, `ret_details` is a serialised google.rpc.Status, as
 * gRPC's clients get it. */
const struct thole_status *bus_call_status(const struct bus_call *c, struct slice *ret_details);
void bus_call_release(struct bus_call *c); /* cancels it, if it has not ended */

/* Health of "" (the server), a service, or "shard/<name>". Watchers are notified. */
void bus_health_set(struct bus *b, const char *name, bool serving);
void bus_health_remove(struct bus *b, const char *name);

/* ---- Client channels ------------------------------------------------------------------------- */

/* A gRPC client of one or several addresses, separated by commas: tried in order until one answers,
 * which is then kept. For the command line, tests and load generators. */
struct bus_channel;
THOLE_MUST_CHECK enum thole_code bus_channel_new(const char *addresses, struct bus_channel **ret,
                                                 struct thole_status *st);
/* The same over TLS: the servers' certificates must be for their host names or addresses. `tls` is
 * shared; NULL: plain text. */
THOLE_MUST_CHECK enum thole_code bus_channel_new_tls(const char *addresses, struct bus_tls *tls,
                                                     struct bus_channel **ret,
                                                     struct thole_status *st);
/* Send this bearer token with each call from now on; before the first call. */
void bus_channel_set_token(struct bus_channel *c, const char *token);
/* May a token be sent to all these addresses? In plain text to this machine only. */
THOLE_MUST_CHECK enum thole_code bus_check_token(const char *addresses, bool tls,
                                                 struct thole_status *st);
void bus_channel_free(
    struct bus_channel *c); /* running calls end with CANCELLED; free streams first */
/* Blocking unary call. On failure `st` has the server's code, reason (from ErrorInfo) and message.
 * UNAVAILABLE UNREACHABLE: certainly not sent. UNKNOWN OUTCOME_UNKNOWN: the connection broke after
 * the request was sent. A timeout or cancellation has the reason OUTCOME_UNKNOWN if the server may
 * have seen the call. Streams and asynchronous calls report the same. */
THOLE_MUST_CHECK enum thole_code bus_channel_call(struct bus_channel *c, const char *path,
                                                  struct slice request, uint32_t timeout_ms,
                                                  struct buf **ret_reply, struct thole_status *st);
/* The same without blocking: `done` runs on the channel's thread; `reply` is borrowed. */
typedef void (*bus_reply_fn)(void *ctx, const struct thole_status *st, struct bufslice reply);
void bus_channel_call_async(struct bus_channel *c, const char *path, struct bufslice request,
                            uint32_t timeout_ms, bus_reply_fn done, void *ctx);
/* A server stream, read by blocking calls. Its regular end is OUT_OF_RANGE with the reason NONE. */
struct bus_stream;
THOLE_MUST_CHECK enum thole_code bus_channel_stream(struct bus_channel *c, const char *path,
                                                    struct slice request, struct bus_stream **ret,
                                                    struct thole_status *st);
THOLE_MUST_CHECK enum thole_code bus_stream_next(struct bus_stream *s, uint32_t timeout_ms,
                                                 struct buf **ret, struct thole_status *st);
void bus_stream_free(
    struct bus_stream *s); /* cancels if it has not ended; any thread may cancel: */
void bus_stream_cancel(struct bus_stream *s);

#endif
