/* The gRPC bus: server, peers, streams, client channels. It knows frames and methods, not Raft.
 *
 * Three things share one gRPC C core:
 *   - a server that offers the Bus service, reflection, health, and whatever methods the agent
 *     registers (the control plane);
 *   - peers: per remote host one connection per lane plus one for exchanges, reconnected with
 *     backoff, each with a batching writer and a byte bound;
 *   - channels: plain gRPC clients for the command line and tests.
 *
 * Threads: callbacks run on the bus's own thread, one at a time (a cancellation of what another
 * thread answers at that moment may come while it does). They must
 * not block: post to a worker. Every function may be called from any thread unless it says
 * otherwise. Ownership: `struct bufslice` arguments are taken over (the bus releases one
 * reference). */
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
    const char *address; /* of the connection's other end, as gRPC writes it */
};

enum bus_lane { BUS_LANE_CONTROL = 1, BUS_LANE_APPEND = 2, BUS_LANE_SNAPSHOT = 3 };

/* A request from a peer or a client of the library that came by Exchange or Ask. Answer it exactly
 * once with bus_answer(more = false) or bus_answer_failure, from any thread, now or later. */
struct bus_request;
uint32_t bus_request_method(const struct bus_request *r);
struct slice bus_request_body(const struct bus_request *r); /* until the last answer */
bool bus_request_from(const struct bus_request *r, struct uuid *ret_host); /* false: a client */
/* Of a request of this process to itself: HOST, with its own id. */
void bus_request_identity(const struct bus_request *r, struct bus_identity *ret);
uint64_t bus_request_deadline_ns(const struct bus_request *r); /* monotonic; CLOCK_NEVER */
/* `on_cancel` runs at most once, when the caller cancelled, or its stream broke; a final answer is
 * still owed (it goes nowhere). Set it before returning from the handler. */
void bus_request_on_cancel(struct bus_request *r, void (*on_cancel)(void *ctx), void *ctx);
/* `data` is freed by the bus once the final answer was given and no callback can use it any more:
 * the right owner for an on_cancel context, which may run while another thread answers. */
void bus_request_set_data(struct bus_request *r, void *data, void (*free_fn)(void *data));
/* `body` is taken over; one without an owner is copied before this returns. A final one is replaced
 * by a failure, RESOURCE_EXHAUSTED OUTCOME_UNKNOWN, when too much waits unread.
 * False (only with more = true) when the stream's bound is reached: slow down or fail the watch. */
bool bus_answer(struct bus_request *r, struct bufslice body, bool more);
void bus_answer_failure(struct bus_request *r, const struct thole_status *st);

struct bus_handler {
    void *ctx;
    /* A frame from a known host of this cluster. `frame` is borrowed; take a reference to keep. */
    void (*frame)(void *ctx, const struct uuid *from, uint64_t from_incarnation, enum bus_lane lane,
                  struct bufslice frame);
    /* The lanes to a peer became usable, or stopped being so (broken, silent for too long). */
    void (*peer_state)(void *ctx, const struct uuid *host, bool up, uint64_t incarnation);
    void (*request)(void *ctx, struct bus_request *r);
    /* A peer would not talk to us, and says why (wrong cluster, stale incarnation, removed): it is
     * tried again, but time alone will not heal it. NULL: nobody wants to know. */
    void (*refused)(void *ctx, const struct uuid *host, const struct thole_status *st);
    /* Whether to accept a caller of our cluster, or one that answers us; NULL accepts all. Fills
     * `st` and returns its code to refuse. Called for each hello of a host (not of clients). */
    enum thole_code (*admit)(void *ctx, const struct bus_identity *who, uint64_t incarnation,
                             const struct lineage *lineage, struct thole_status *st);
    /* A host of our cluster called, or answered: this is where it says that it is. NULL: nobody
     * wants to know. Also on a thread that is in bus_ask. */
    void (*met)(void *ctx, const struct uuid *host, uint64_t incarnation, const char *address);
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
    const char *log_host; /* the host that log lines of the bus's thread name; NULL: none */
    const struct clock *clock;
    struct bus_handler handler;
    size_t peer_queue_bytes; /* per lane; 0: default 16 MiB. Full: bus_send refuses */
    uint32_t unary_slots;    /* concurrent unary control-plane calls; 0: default 256 */
    /* Concurrent streams of callers, and Asks; the last fifth is for those of hosts and of the
     * library. 0: default 20480, as each takes some 35 KiB, most of it gRPC's */
    uint32_t streams_max;
    /* Accepted connections; the last quarter is for other hosts. 0: by the
     * limit of open files, at most 10000 */
    uint32_t connections_max;
    /* What callers may make us hold, twice: half-received messages in gRPC (beyond it, calls are
     * cancelled), and requests and unread answers here. 0: default 256 MiB */
    size_t memory_bytes;
    /* Certificates of this host or client (a reference is taken); NULL: connections are in plain
     * text. With it, only those with a host's certificate of our cluster are hosts. */
    struct bus_tls *tls;
    /* With TLS a connection takes no new calls when it is this old, so that clients show a new
     * certificate in time; open streams go on. 0: an hour */
    uint32_t connection_age_ms;
};

/* UNAVAILABLE ADDRESS_IN_USE, INVALID_ARGUMENT. The server does not answer until bus_start. */
THOLE_MUST_CHECK enum thole_code bus_new(const struct bus_options *o, struct bus **ret,
                                         struct thole_status *st);
void bus_start(struct bus *b);
/* The parts of bus_stop, for an owner that stops in between what calls wait for, so that each is
 * answered with what is known of it. bus_drain: refuse new calls, and let running ones end for up
 * to grace_ms. bus_cut: end clients' streams, our exchanges, and what connects us with peers. */
void bus_drain(struct bus *b, uint32_t grace_ms);
void bus_cut(struct bus *b);
/* The same, where it was not done yet; what has not ended a moment later is cancelled. Not from a
 * callback. NULL is fine for all three. */
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

/* Queue a frame. UNAVAILABLE UNREACHABLE (no such peer or not connected: dropped at once, Raft
 * repeats itself), RESOURCE_EXHAUSTED QUEUE_FULL. `frame` is taken over in every case. Frames of
 * one lane arrive in order or not at all. */
enum thole_code bus_send(struct bus *b, const struct uuid *host, enum bus_lane lane,
                         struct bufslice frame);

/* An exchange with a peer. `done` is called for each answer, on a bus thread: with more == true any
 * number of times, then exactly once with more == false (st->code tells success; UNAVAILABLE
 * UNREACHABLE if it was certainly never sent, UNKNOWN OUTCOME_UNKNOWN if it may have been handled).
 * `body` there is borrowed; that of the request is taken over, and copied before this returns if it
 * has no owner. Returns an id for bus_exchange_cancel. timeout_ms 0: no limit. A timeout is
 * DEADLINE_EXCEEDED; it, and a cancellation, has reason OUTCOME_UNKNOWN if the request may have
 * been handled. After bus_stop `done` runs on the caller's thread. */
typedef void (*bus_answer_fn)(void *ctx, const struct thole_status *st, struct bufslice body,
                              bool more);
uint64_t bus_exchange(struct bus *b, const struct uuid *host, uint32_t method, struct bufslice body,
                      uint32_t timeout_ms, bus_answer_fn done, void *ctx);
/* `done` still comes (CANCELLED), perhaps before this returns. */
void bus_exchange_cancel(struct bus *b, const struct uuid *host, uint64_t id);

/* Who an Ask's answerer said it is. */
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
/* Those that wait, and all that come, fail at once: UNAVAILABLE STOPPED. Any thread. */
void bus_end_asks(struct bus *b);

/* ---- Control-plane methods on the server ----------------------------------------------------- */

enum bus_rpc_kind { BUS_RPC_UNARY, BUS_RPC_SERVER_STREAM, BUS_RPC_BIDI_STREAM };

struct bus_rpc; /* one call; freed by the bus after it finished and every callback returned */

struct bus_method {
    const char *path; /* "/thole.v1.Shards/Get" */
    enum bus_rpc_kind kind;
    void *ctx;
    /* UNARY, SERVER_STREAM: called once with the request. BIDI: once per message; `message` is
     * borrowed. At the end of a BIDI client's messages `end` (if set) is called. */
    void (*handle)(void *ctx, struct bus_rpc *rpc, struct slice message);
    void (*end)(void *ctx, struct bus_rpc *rpc);
};
/* Before bus_start. `methods` is copied; paths must be static. */
void bus_register(struct bus *b, const struct bus_method *methods, size_t n);

void bus_rpc_set_data(struct bus_rpc *rpc, void *data, void (*free_fn)(void *data));
void *bus_rpc_data(const struct bus_rpc *rpc);
uint64_t bus_rpc_deadline_ns(const struct bus_rpc *rpc); /* monotonic; CLOCK_NEVER */
const char *bus_rpc_peer(const struct bus_rpc *rpc);     /* the client's address, for logs */
void bus_rpc_identity(const struct bus_rpc *rpc, struct bus_identity *ret);
/* Once, when the client went away before the end. A finish is still owed. */
void bus_rpc_on_cancel(struct bus_rpc *rpc, void (*on_cancel)(void *ctx), void *ctx);
/* Streams: queue a message; `drained` (optional) runs when the queue is below half its bound
 * again. False when the bound (4 MiB) is reached: nothing was queued, `message` released. */
bool bus_rpc_send(struct bus_rpc *rpc, struct bufslice message);
/* May a message of so many bytes be queued, as far as the host's memory for callers goes? */
bool bus_rpc_room(const struct bus_rpc *rpc, size_t bytes);
/* Count what the handler holds for the call, a request that waits for example: `bytes` from now on,
 * instead of what was counted before. False: the host's memory for callers has no room, and nothing
 * changed. held NULL: the call's own count, of a unary call, which ends with it; else the caller
 * sets it to 0 bytes before the call is finished. */
bool bus_rpc_hold(struct bus_rpc *rpc, size_t *held, size_t bytes);
void bus_rpc_on_drained(struct bus_rpc *rpc, void (*drained)(void *ctx), void *ctx);
/* End the call: UNARY success with a message, or a stream's end with OK and no message
 * (message.owner and data NULL). Exactly one finish per rpc, from any thread. */
void bus_rpc_reply(struct bus_rpc *rpc, struct bufslice message);
/* End with an error: status, and google.rpc.Status details with ErrorInfo (and RetryInfo when
 * retry_ms > 0, and metadata pairs NAME, VALUE, ..., NULL; may be NULL). */
void bus_rpc_fail(struct bus_rpc *rpc, const struct thole_status *st, uint32_t retry_ms,
                  const char *const *metadata);

/* Health: names "", a service, "shard/<name>". Watchers are told. */
void bus_health_set(struct bus *b, const char *name, bool serving);
void bus_health_remove(struct bus *b, const char *name);

/* ---- Client channels ------------------------------------------------------------------------- */

/* A gRPC client of one or several addresses (comma separated: tried in order, sticking to one
 * that answers). For the command line, tests and load generators. */
struct bus_channel;
THOLE_MUST_CHECK enum thole_code bus_channel_new(const char *addresses, struct bus_channel **ret,
                                                 struct thole_status *st);
/* The same over TLS: the servers' certificates must be for their host names or addresses. `tls` is
 * shared; NULL: plain text. */
THOLE_MUST_CHECK enum thole_code bus_channel_new_tls(const char *addresses, struct bus_tls *tls,
                                                     struct bus_channel **ret,
                                                     struct thole_status *st);
void bus_channel_free(
    struct bus_channel *c); /* open calls end with CANCELLED; streams: free first */
/* Blocking unary call. On failure `st` has the server's code, reason (from ErrorInfo) and message;
 * UNAVAILABLE UNREACHABLE if the call was certainly never sent, UNKNOWN OUTCOME_UNKNOWN if the
 * connection broke after it was. A timeout or cancellation has reason OUTCOME_UNKNOWN if the server
 * may have seen the call. Streams and asynchronous calls tell the same. */
THOLE_MUST_CHECK enum thole_code bus_channel_call(struct bus_channel *c, const char *path,
                                                  struct slice request, uint32_t timeout_ms,
                                                  struct buf **ret_reply, struct thole_status *st);
/* The same, asynchronous: `done` runs on the channel's thread; `reply` is borrowed. */
typedef void (*bus_reply_fn)(void *ctx, const struct thole_status *st, struct bufslice reply);
void bus_channel_call_async(struct bus_channel *c, const char *path, struct bufslice request,
                            uint32_t timeout_ms, bus_reply_fn done, void *ctx);
/* A server stream, read by blocking calls: OUT_OF_RANGE with reason NONE at its regular end. */
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
