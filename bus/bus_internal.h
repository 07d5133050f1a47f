/* Shared by the files of the bus. From the bottom up:
 *
 *   loop     a completion queue and its thread, with deferred tasks and timers
 *   pipe     a stream on either side: one receive and one send outstanding, a bounded send queue
 *   rpc      one call on the server (unary, or around a pipe)
 *   peer     links (pipes that reconnect) to one host, and the exchanges with it
 *
 * Lock order: bus.mutex, peer.mutex, pipe.mutex, loop.mutex. No callback runs under a lock. */
#ifndef BUS_BUS_INTERNAL_H
#define BUS_BUS_INTERNAL_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/address.h"
#include "base/assert.h"
#include "base/cork.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "base/wheel.h"
#include "base/worker.h"
#include "bus/bus.h"
#include "bus/tls.h"

/* A frame or a body with its envelope. */
#define BUS_MESSAGE_BYTES_MAX (LIMIT_FRAME_BYTES + 64 * KIB)
#define BUS_COPY_BYTES_MAX 1024 /* smaller payloads are copied next to each other */
#define BUS_RPC_QUEUE_BYTES (4 * MIB)
#define BUS_PEER_QUEUE_BYTES (16 * MIB)
#define BUS_MEMORY_BYTES (256 * MIB)
#define BUS_ANSWERS_BYTES_MAX (64 * MIB) /* unread answers of one stream of exchanges */
#define BUS_SMALL_BYTES (4 * KIB)        /* smaller answers are never refused for lack of memory */
#define BUS_EXCHANGES_MAX 65536 /* open exchanges with one peer, and open requests of one stream */

/* ---- completion_loop.c ----------------------------------------------------------------------- */

/* Drops one reference; true for the last one, whose owner frees the object. */
static inline bool bus__drop(_Atomic uint32_t *refs)
{
    uint32_t before = atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    return before == 1;
}

/* Returned by a completion queue. Embedded in its owner, which lives until the tag has returned. */
struct bus_tag {
    uint32_t magic;
    void (*fn)(struct bus_tag *tag, bool ok);
};
#define BUS_TAG_MAGIC 0x7a67626fU
static inline struct bus_tag bus_tag_of(void (*fn)(struct bus_tag *tag, bool ok))
{
    return (struct bus_tag){.magic = BUS_TAG_MAGIC, .fn = fn};
}

struct bus_task { /* embed; may be freed by fn */
    struct bus_task *next;
    void (*fn)(struct bus_task *task);
};

struct bus_timer { /* embed; zero-initialise, set fn */
    struct wheel_timer wheel;
    void (*fn)(struct bus_timer *timer);
};

struct bus_loop {
    grpc_completion_queue *cq;
    const struct clock *clock;
    const char *log_host;
    pthread_t thread;
    bool threaded;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct bus_task *tasks, **tasks_tail;
    bool sleeping, rung, closed;
    bool cancels;     /* cancels unary calls, running and new ones */
    uint64_t wake_ms; /* when the sleeping thread next checks its timers */
    struct wheel *wheel;
    struct unary *unaries; /* running calls */
    size_t live;           /* objects that have tags outstanding, or may start batches */
    grpc_channel *bell_channel;
    grpc_call *bell_call;
    struct bus_tag bell;
    /* Sent with each call of a client; none: `credential_count` is 0. */
    grpc_metadata credential;
    size_t credential_count;
};

void bus__loop_init(struct bus_loop *l, const struct clock *clock);
/* Before the first call. */
void bus__loop_set_token(struct bus_loop *l, const char *token);
/* The op that sends the initial metadata of a client's call. */
grpc_op bus__send_headers(struct bus_loop *l);
/* Starts the thread. Its log lines name `host` (borrowed; NULL: none). */
void bus__loop_run(struct bus_loop *l, const char *name, const char *host);
/* Wait until `ready`, which is called with the loop's mutex held whenever `changed` is
 * signalled. */
bool bus__loop_wait(struct bus_loop *l, bool (*ready)(struct bus_loop *l), uint32_t timeout_ms);
/* Admit nothing new, cancel unary calls, wait until nothing is live, end the thread, run the
 * remaining tasks. */
void bus__loop_stop(struct bus_loop *l);
void bus__loop_deinit(struct bus_loop *l);
bool bus__loop_here(const struct bus_loop *l); /* on its thread? */
void bus__loop_live(struct bus_loop *l, int change);
bool bus__loop_enter(struct bus_loop *l); /* live + 1, unless the loop was stopped */
/* Run `t` on the loop's thread, in the order of posting; after bus__loop_stop, on the caller's
 * thread before this returns. */
void bus__loop_post(struct bus_loop *l, struct bus_task *t);
/* Timers fire on the loop's thread. Cancelling on another thread does not wait for a timer that is
 * firing. */
void bus__loop_arm(struct bus_loop *l, struct bus_timer *t, uint32_t after_ms);
void bus__loop_cancel(struct bus_loop *l, struct bus_timer *t);
/* grpc_call_start_batch for a live call; the tag returns on the call's loop. */
void bus__start(grpc_call *call, const grpc_op *ops, size_t n, struct bus_tag *tag);
void bus__tag_release(
    struct bus_tag *tag); /* before a tag is passed to gRPC by any other function */
grpc_call *bus__call_new(grpc_channel *channel, struct bus_loop *l, const char *path,
                         gpr_timespec deadline);
void bus__grpc_init(void);
void bus__grpc_shutdown(void);
gpr_timespec bus__deadline(uint32_t timeout_ms); /* 0: never */
grpc_arg bus__int_arg(const char *key, int value);

/* ---- send_queue.c: the send queue of a pipe, and the bounds of all send queues --------------- */

/* What streams of one method have queued or are sending together. */
struct bus_share {
    size_t bytes_max;
    _Atomic size_t bytes;
};
/* The bounds of one stream's queue. */
struct bus_queue {
    struct bus *budget; /* counts the bytes; NULL: they are not counted */
    size_t bytes_max;
    struct bus_share *share; /* instead of bytes_max; NULL: none */
    size_t charged, shared;  /* bytes that are counted in `budget` and in `share` */
};
/* The stream now has so many bytes, queued or with gRPC. */
void bus__queue_charge(struct bus_queue *q, size_t bytes);
/* Must the sender wait with a message of `bytes`? `queued`: bytes in the queue; `sending`: with
 * gRPC. `busy`: something is queued or being sent. One message always fits when nothing is, because
 * only its departure would end the wait. */
bool bus__queue_is_full(const struct bus_queue *q, size_t queued, size_t sending, bool busy,
                        size_t bytes);
/* Does a sender that waits for room get it, with so many bytes queued? */
bool bus__queue_has_drained(const struct bus_queue *q, size_t queued);

struct bus_out {
    grpc_slice slice;
    uint32_t items; /* items that end in this slice; 0: the item continues in the next one */
};
struct bus_writer {
    struct bus_out *ring;
    size_t head, count, capacity;
    struct buf *chunk; /* joined items are copied here until the chunk is full or sent */
    size_t chunk_used;
    uint32_t chunk_items;
    size_t chunk_size;      /* of the next chunk; follows the size of recent messages */
    size_t bytes;           /* queued */
    uint64_t queued, taken; /* items so far */
    bool join;              /* items may share a message */
};
void bus__writer_init(struct bus_writer *w, bool join);
void bus__writer_deinit(struct bus_writer *w);
void bus__writer_clear(struct bus_writer *w);
bool bus__writer_empty(const struct bus_writer *w);
/* Queue one item: `head` is copied, `body` is taken over. */
void bus__writer_put(struct bus_writer *w, struct slice head, struct bufslice body);
/* Move the next message into `ret` (empty before). */
void bus__writer_take(struct bus_writer *w, grpc_slice_buffer *ret);

struct bufslice bus__own(struct bufslice s);   /* with an owner: copies borrowed bytes */
grpc_slice bus__slice_of(struct bufslice s);   /* takes s over; copies small bytes */
struct buf *bus__buf_of(grpc_byte_buffer *bb); /* copies into one buffer */

/* ---- pipe.c ---------------------------------------------------------------------------------- */

struct bus_pipe;
/* Called on the pipe's loop, one at a time. */
struct bus_pipe_events {
    void (*message)(void *ctx, struct bufslice message); /* borrowed */
    void (*half_closed)(void *ctx);                      /* server: no more messages; may be NULL */
    void (*cancelled)(void *ctx); /* server: the client is gone; may be NULL */
    void (*drained)(void *ctx);   /* may be NULL */
    /* The last event; on a client with the status of the call. */
    void (*closed)(void *ctx, const struct thole_status *st);
};

struct bus_pipe_options {
    struct bus_loop *loop;
    struct bus *budget; /* counts the queued bytes; NULL: they are not counted */
    grpc_call *call;    /* taken over */
    bool connected;     /* client: see bus__channel_ready */
    bool server;
    bool join;
    bool half_close; /* client: after the first message */
    size_t queue_bytes;
    struct bus_share *share; /* instead of queue_bytes; NULL: none */
    const struct bus_pipe_events *events;
    void *ctx;
};
enum bus_put { BUS_PUT_OK, BUS_PUT_FULL, BUS_PUT_CLOSED };

/* The owner has one reference, and releases it after `closed` (on a server also after the
 * finish). */
struct bus_pipe *bus__pipe_new(const struct bus_pipe_options *o);
/* Start. A client's first message (taken over) is sent with the start. */
void bus__pipe_start(struct bus_pipe *p, struct bufslice first);
struct bus_pipe *bus__pipe_ref(struct bus_pipe *p);
void bus__pipe_unref(struct bus_pipe *p);
/* `body` is taken over. `must`: queue it even beyond the bound. `ret_seq` (may be NULL): its
 * number. */
enum bus_put bus__pipe_put(struct bus_pipe *p, struct slice head, struct bufslice body, bool must,
                           uint64_t *ret_seq);
bool bus__pipe_taken(struct bus_pipe *p, uint64_t seq); /* has it been handed to gRPC? */
size_t bus__pipe_queued(struct bus_pipe *p);
bool bus__pipe_flushed(struct bus_pipe *p); /* nothing is queued, or with gRPC */
void bus__pipe_headers(struct bus_pipe *p); /* send the initial metadata now */
/* Server: send the queue, then end with this status; `details` is taken over. */
void bus__pipe_finish(struct bus_pipe *p, enum thole_code code, const char *message,
                      grpc_slice details);
void bus__pipe_cancel(struct bus_pipe *p);
/* End a server's stream at once and drop its send queue. */
void bus__pipe_abort(struct bus_pipe *p, enum thole_code code, const char *why);
void bus__pipe_pause(struct bus_pipe *p); /* stop reading; from the message callback */
void bus__pipe_resume(struct bus_pipe *p);
grpc_call *bus__pipe_call(struct bus_pipe *p);

/* ---- errors.c -------------------------------------------------------------------------------- */

/* A serialised google.rpc.Status for the trailer. */
grpc_slice bus__details_encode(const struct thole_status *st, uint32_t retry_ms,
                               const char *const *metadata);
/* The status that a client received. `trailing` may have details; `sent`: the server may have seen
 * the call. OK leaves *st zeroed. */
void bus__status_decode(grpc_status_code code, grpc_slice message,
                        const grpc_metadata_array *trailing, bool sent, struct thole_status *st);
grpc_slice bus__details_key(void);
/* Saturated. */
uint64_t bus__deadline_ns(uint64_t now_ns, int64_t left_s, int32_t left_ns);
bool bus__log_allowed(struct bus *b); /* rate limit of log lines that callers can provoke */

/* ---- wire.c ---------------------------------------------------------------------------------- */

struct bus_hello {
    struct uuid host, cluster, callee;
    uint64_t incarnation;
    char version[64];
    char address[ADDRESS_BYTES];
    uint32_t lane;
    struct lineage lineage;
};
struct bus_item {
    uint64_t id;
    uint32_t method, timeout_ms;
    bool more, cancel;
    struct slice body;
    const struct thole_status *failure; /* NULL: none */
};
#define BUS_ITEM_HEAD_MAX 64
struct bus_head { /* an encoded prefix; the body follows it directly */
    uint8_t data[BUS_ITEM_HEAD_MAX];
    size_t size;
};
/* All hellos use field 1, so one encoding serves LaneMessage, LaneReply, Exchange and Ask. */
struct bufslice bus__hello_encode(const struct bus *b, uint32_t lane, const struct uuid *callee);
void bus__hello_append(struct bytes *out, const struct bus *b, uint32_t lane,
                       const struct uuid *callee);
void bus__lane_head(struct bus_head *h, size_t body_size);
void bus__item_head(struct bus_head *h, const struct bus_item *item, size_t body_size);
struct bufslice bus__item_failure(uint64_t id, const struct thole_status *st);
struct bufslice bus__ask_encode(const struct bus *b, const struct bus_item *item);
/* False if malformed. `has_hello` says which of the two a message has. */
bool bus__lane_decode(struct slice in, bool *has_hello, struct bus_hello *ret_hello,
                      struct slice *ret_body);
bool bus__ask_decode(struct slice in, struct bus_hello *ret_hello, struct bus_item *ret);
bool bus__answer_decode(struct slice in, struct bus_hello *ret_hello, struct slice *ret_body);
/* Calls `item` for each item; bodies point into `in`. */
bool bus__exchange_decode(struct slice in, bool *has_hello, struct bus_hello *ret_hello,
                          void (*item)(void *ctx, struct bus_item *item), void *ctx);

/* ---- accept.c -------------------------------------------------------------------------------- */

#define BUS_ACCEPT_ADDRESS "external:bus"
#define BUS_KEEPALIVE_TIMEOUT_MS 3000
struct bus_acceptor;
/* Listens on all addresses of `host`; connections wait until the start. */
enum thole_code bus__accept_new(struct bus *b, const char *host, const char *port,
                                const char *address, struct bus_acceptor **ret, uint16_t *ret_port,
                                struct thole_status *st);
grpc_arg bus__accept_arg(
    struct bus_acceptor *a); /* for the server that takes the accepted connections */
bool bus__accept_ready(const struct bus_acceptor *a);
void bus__accept_start(struct bus_acceptor *a);
void bus__accept_stop(struct bus_acceptor *a); /* before the server is shut down; idempotent */
void bus__accept_free(struct bus_acceptor *a);
/* The connection from `peer` (in gRPC's notation) belongs to a known host. */
void bus__accept_peer(struct bus_acceptor *a, const char *peer);
/* A call of an accepted connection got a message. */
void bus__accept_delivered(struct bus_acceptor *a, grpc_call *call, size_t bytes);
/* A call ended before its first message. */
void bus__accept_wasted(struct bus_acceptor *a, grpc_call *call);

/* ---- server.c, rpc.c ------------------------------------------------------------------------- */

struct bus_entry { /* a method on the server */
    struct bus *bus;
    struct bus_method m; /* path NULL: for unknown methods */
    /* Used instead of m.handle: passes the message with its owner. */
    void (*handle_buf)(void *ctx, struct bus_rpc *rpc, struct bufslice message);
    struct bus_share share; /* of m.shared_bytes */
    bool join;              /* queued messages may be concatenated */
    bool ends_itself;       /* BIDI: a cancelled call needs no finish by the handler */
    bool inward;            /* between hosts: no call metrics, not bounded by unary_slots */
};

struct bus_rpc {
    struct bus_entry *entry; /* from its arrival on */
    struct bus *bus;
    struct bus_rpc *next_free, *next_slot; /* next_slot: all slots, never removed */
    _Atomic uint32_t refs;
    grpc_call *call;
    struct bus_pipe *pipe;  /* not UNARY, and not of another door */
    struct bus_call *local; /* by another door; then there is no gRPC call, and no pipe */
    struct bus_tag arrived, received, sent, closed;
    grpc_metadata_array metadata;
    grpc_call_details details;
    gpr_timespec deadline;
    grpc_byte_buffer *payload;
    grpc_byte_buffer *reply; /* reused */
    struct buf *request;     /* the payload, if it was not in one piece */
    uint64_t started_ns;
    int cancelled_flag;
    bool listening;        /* for the close, by its own tag */
    bool counted;          /* in unary_active or streams_active */
    size_t held;           /* bytes of the request, then of the reply, counted in bus.held_bytes */
    bool handled;          /* BIDI: the handler was called; loop thread */
    bool open;             /* arrived and not back in the pool; loop thread */
    _Atomic bool finished; /* the owner has finished it */
    _Atomic bool answered; /* UNARY: the batch that ends the call was started ... */
    _Atomic uint64_t answered_ns; /* ... at this time; before that 0 */
    void *data;
    void (*data_free)(void *data);
    pthread_mutex_t mutex; /* of the callbacks */
    void (*on_cancel)(void *ctx);
    void *on_cancel_ctx;
    void (*on_drained)(void *ctx);
    void *on_drained_ctx;
    bool cancelled;
    char *peer;
    struct bus_certificate *certificate; /* of the caller; NULL: it showed none */
    void *user;                          /* bus_rpc_set_user */
    void (*user_free)(void *user);
    bool denied; /* the bus has ended the stream; loop thread */
    _Alignas(8) uint8_t scratch[BUS_RPC_SCRATCH_BYTES];
    struct bus_rpc *next_stream, **prev_stream; /* in bus.streams, under its mutex */
    struct bus_rpc *wait_next, *wait_prev;      /* among calls without a message; loop thread */
    struct bus_task end_task;
};

static inline bool bus__rpc_is_unary(const struct bus_rpc *r)
{
    return r->entry->m.kind == BUS_RPC_UNARY;
}
/* End a call that has no pipe: the answer, or a status with its details. Takes a reference over. */
void bus__rpc_answer(struct bus_rpc *r, const struct thole_status *st, grpc_slice details,
                     struct bufslice message);
void bus__rpc_listen(struct bus_rpc *r);           /* for the cancellation of a unary call */
struct slice bus__rpc_request(struct bus_rpc *r);  /* valid while the call lives */
struct bus_rpc *bus__rpc_take_slot(struct bus *b); /* with one reference */
void bus__rpc_begin(struct bus_rpc *r);            /* it has arrived */
/* What a pipe reports; loop thread. */
void bus__rpc_message(struct bus_rpc *r, struct bufslice message);
void bus__rpc_half_closed(struct bus_rpc *r);
void bus__rpc_cancelled(struct bus_rpc *r); /* also of a unary call */
void bus__rpc_drained(struct bus_rpc *r);

/* local.c: calls by other doors. */
bool bus__local_send(struct bus_call *c, struct bufslice message); /* false: no room */
bool bus__local_flushed(struct bus_call *c);
void bus__local_begun(struct bus_call *c);
/* The first end counts. `st` NULL: OK. */
void bus__local_end(struct bus_call *c, const struct thole_status *st, grpc_slice details,
                    struct bufslice message);
void bus__local_deliver(struct bus_call *c); /* the messages of a BIDI call; loop thread */
struct slice bus__local_request(const struct bus_call *c);
struct slice bus__local_header(const struct bus_call *c, const char *name);
void bus__local_free(struct bus_call *c);

/* rpc_caller.c: may the call be made? It was refused if not. */
bool bus__rpc_admit(struct bus_rpc *r);
/* Release what is known about the caller. */
void bus__rpc_forget_caller(struct bus_rpc *r);
/* Look at open streams of clients again from now on, as long as there are any; loop thread. */
void bus__rpc_watch_streams(struct bus *b);
/* End an open stream with this status; its handler gets a cancellation. Loop thread. */
void bus__rpc_end_stream(struct bus_rpc *r, const struct bus_denial *d);
/* End clients' streams with UNAVAILABLE STOPPED; their handlers get a cancellation. */
void bus__rpc_end_streams(struct bus *b);
void bus__rpc_end_unaries(struct bus *b);       /* the same for unary calls; posted to the loop */
void bus__rpc_arm(struct bus *b);               /* one more slot */
void bus__rpc_free_all(struct bus *b);          /* the unused ones */
void bus__rpc_await_request(struct bus_rpc *r); /* then bus__rpc_handle, with or without it */
void bus__rpc_end(struct bus_rpc *r, const struct thole_status *st); /* a client's stream */
bool bus__rpc_ref_if_used(struct bus_rpc *r);
/* Streams with a reference each, for use after the bus's mutex was released: they may end while
 * others are looked at. Zero-initialise. */
struct bus_streams {
    struct bus_rpc **all;
    size_t count;
};
void bus__streams_add(struct bus_streams *s, struct bus_rpc *r); /* unless it has ended */
void bus__streams_deinit(struct bus_streams *s);
void bus__rpc_unref(struct bus_rpc *r);
void bus__recheck_start(struct bus *b); /* streams whose certificate no longer counts end */
void bus__recheck_stop(struct bus *b);
void bus__rpc_handle(struct bus_rpc *r); /* takes the reference of the arrival over */

struct bus_inbound { /* an accepted stream of a peer or client; the data of its rpc */
    struct bus_inbound *next, **prev; /* under bus.mutex */
    struct bus *bus;
    struct bus_rpc *rpc; /* until `ended` */
    struct bus_pipe *pipe;
    bool lane;
    bool known; /* hello accepted; loop thread */
    struct bus_hello
        hello; /* hello.incarnation is under bus.mutex; it is changed to end the stream */
    uint64_t incarnation;
    _Atomic uint32_t refs; /* the rpc's, one per open request, and short-lived ones */
    pthread_mutex_t mutex; /* below */
    struct map requests;   /* Exchange: id -> struct bus_request */
    size_t open_bytes;
    size_t charged;             /* part of open_bytes that is counted in bus.held_bytes */
    bool ended;                 /* the rpc was finished */
    bool draining;              /* end when no request is open */
    struct thole_status barred; /* why, if its certificate does not count any more; else OK */
    /* Any thread: */
    _Atomic bool unread; /* aborted because its answers are not read */
};

struct bus_seen { /* a host's highest known incarnation, and where it was first seen */
    struct bus_seen *next;
    struct uuid host;
    uint64_t incarnation;
    struct lineage lineage;
    char address[ADDRESS_BYTES];
};

struct bus {
    _Atomic uint32_t refs;
    struct bus_options o;
    const struct clock *clock;
    char *version, *listen_address, *advertise_address;
    uint16_t port;
    _Atomic bool stopping;
    bool started, drained, cut, stopped;
    pthread_mutex_t mutex;   /* below, to the blank line */
    struct bus_rpc *streams; /* clients' streams that are open */
    struct uuid cluster_id;
    struct peer *peers;
    struct bus_inbound *inbound;
    struct bus_seen *seen; /* the most recently used first */
    size_t seen_count;
    uint64_t log_window_ns;
    uint32_t log_count;

    struct bus_loop loop;
    grpc_server *server;
    struct bus_acceptor *acceptor;
    grpc_resource_quota *quota;
    _Atomic size_t held_bytes;   /* requests and answers of callers; see memory_bytes */
    struct map methods;          /* by the hash of the path: struct bus_entry */
    struct bus_entry *no_method; /* for calls of unknown methods */
    pthread_mutex_t pool_mutex;
    struct bus_rpc *pool, *slots;
    struct bus_task end_task;
    struct bus_timer recheck;
    struct bus_rpc *waiting_oldest, *waiting_newest; /* calls without a message; loop thread */
    size_t waiting_count;
    struct bus_timer look;    /* at open streams again, see bus__rpc_watch_streams */
    bool looking;             /* loop thread */
    uint64_t unread_ended_ns; /* when unread answers were last looked for; loop thread */
    _Atomic uint32_t unary_active;
    _Atomic uint32_t streams_active;
    struct pool requests, exchanges;
    struct bus_tag shutdown_tag;
    bool shutdown_done; /* under loop.mutex */
    struct peer *self;
    struct bus_health *health;
    struct bus_reflection *reflection;
};

void bus__ref(struct bus *b);
void bus__unref(struct bus *b);
/* Memory held for callers. `charged` follows `now` in steps, so that small amounts need no access
 * to shared memory. */
#define BUS_CHARGE_STEP_BYTES (4 * KIB)
void bus__charge(struct bus *b, size_t *charged, size_t now);
bool bus__has_room(const struct bus *b, size_t bytes);
struct bus_entry *bus__register(struct bus *b, const struct bus_method *m);
bool bus__serves(const struct bus *b, const char *service, size_t size);
/* The method of that path, or `no_method`. */
struct bus_entry *bus__find_method(const struct bus *b, struct slice path);
/* Refuse a caller, or remember it: the rules for all streams of hosts. */
enum thole_code bus__admit(struct bus *b, const struct bus_hello *h,
                           const struct bus_certificate *c, const char *address, bool stream,
                           struct thole_status *st);
/* May the peer whose certificate this is (NULL: none) speak as the host that its hello names? */
enum thole_code bus__check_host(struct bus *b, const struct bus_hello *h,
                                const struct bus_certificate *c, const char *address,
                                struct thole_status *st);
void bus__cluster(struct bus *b, struct uuid *ret);
/* Report the address of a host of our cluster, which called or answered, to the handler. */
void bus__met(struct bus *b, const struct bus_hello *h);
/* Remember this start of a host if it is newer than the known one. */
void bus__seen(struct bus *b, const struct bus_hello *h);
/* Refuse a start that does not follow the known starts of its host: it is a copy's. */
enum thole_code bus__check_start(struct bus *b, const struct bus_hello *h, struct thole_status *st);

/* ---- inbound_streams.c, lane.c, request.c: what peers call ----------------------------------- */

struct bus_inbound *bus__inbound_of(struct bus *b, struct bus_rpc *rpc, bool lane);
/* Handle the first message, which must be a hello: answer it, or end the stream. False: the stream
 * ended. */
bool bus__inbound_greet(struct bus_inbound *in, const struct bus_hello *hello);
void bus__inbound_malformed(struct bus_inbound *in, const char *what);
void bus__inbound_end(struct bus_inbound *in, const struct thole_status *st); /* NULL: OK */
void bus__inbound_ref(struct bus_inbound *in);
void bus__inbound_unref(struct bus_inbound *in);
void bus__inbound_stop(
    struct bus *b); /* end each stream of a peer as soon as it has no open request */
void bus__lane_register(struct bus *b);
void bus__exchange_register(struct bus *b);
void bus__frame_sent(enum bus_lane lane, size_t bytes);
void bus__frame_received(enum bus_lane lane, size_t bytes);

/* Pass a request of this process to its own handler; answers go to bus__self_answer. Returns a
 * reference with which the caller can cancel it. */
struct bus_request *bus__request_self(struct bus *b, uint64_t id, uint32_t method,
                                      struct bufslice body, uint64_t deadline_ns);
void bus__request_deliver(struct bus_request *r);
void bus__request_cancel_all(struct bus_inbound *in); /* those not yet notified */
void bus__request_cancel(struct bus_request *r);
size_t bus__request_bytes(void); /* memory of the pools */
size_t bus__exchange_bytes(void);
void bus__request_unref(struct bus_request *r);

/* ---- peer.c, link.c, exchange.c -------------------------------------------------------------- */

#define BUS_LINKS 4 /* lanes 1 to 3, and 0: exchanges */
enum link_state {
    LINK_IDLE,       /* not used yet */
    LINK_CONNECTING, /* the hello was sent */
    LINK_READY,      /* the hello was answered */
    LINK_WAITING,    /* broken; the timer is set */
};

struct link {
    struct peer *peer;
    uint32_t lane;
    struct bus_timer retry;
    uint32_t failures;     /* in a row; loop */
    enum link_state state; /* below: under peer.mutex, and changed on the loop only */
    struct bus_pipe *pipe; /* CONNECTING, READY */
    uint64_t incarnation;  /* of the callee, when READY */
};

struct peer {
    struct peer *next; /* under bus.mutex */
    struct bus *bus;
    struct uuid host;
    _Atomic uint32_t refs;                 /* the bus's list, each pipe's, each task's */
    bool up_told;                          /* loop */
    char said[THOLE_STATUS_MESSAGE_BYTES]; /* the last failure logged; loop */
    pthread_mutex_t mutex;                 /* below */
    char *address;
    uint32_t
        generation; /* of the address and our cluster: a change triggers an immediate attempt */
    bool removed, up;
    struct link links[BUS_LINKS];
    struct map exchanges; /* id -> struct exchange */
    uint64_t next_id;
    struct exchange *waiting,
        **waiting_tail; /* exchanges that wait for the link to be READY; also in the map */
    size_t waiting_bytes;
    size_t self_bytes; /* requests to ourselves in flight */
};

struct peer *bus__peer_find(struct bus *b, const struct uuid *host); /* a reference, or NULL */
bool bus__peer_known(const struct bus *b, const struct uuid *host);  /* bus.mutex is held */
struct peer *bus__peer_new(struct bus *b, const struct uuid *host, const char *address);
struct peer *bus__peer_ref(struct peer *p);
void bus__peer_unref(struct peer *p);
void bus__peer_report(struct peer *p); /* notify the handler if `up` changed; loop */
void bus__peer_post(struct peer *p, void (*fn)(struct peer *p)); /* run fn on the loop */
void bus__peers_stop(struct bus *b);

void bus__link_init(struct link *l, struct peer *p, uint32_t lane);
bool bus__link_wanted(const struct link *l); /* does this process use it? */
void bus__link_connect(struct link *l);      /* loop */
void bus__link_kick(struct link *l);         /* loop: the address or cluster changed */
void bus__link_close(struct link *l);        /* loop: the peer was removed */
/* `tls` (NULL: plain text) with `names` as in bus__tls_channel_credentials. */
grpc_channel *bus__channel_open(const char *address, bool peer, struct bus_tls *tls,
                                const char *names);
grpc_channel *bus__peer_channel(struct bus *b, const char *address); /* to another host */
/* A call on a channel that is not connected sends its headers first and the message after them: if
 * gRPC was never given the message, the message was certainly not sent. */
bool bus__channel_ready(grpc_channel *channel);

/* The exchange link became READY; loop. */
void bus__exchange_ready(struct peer *p);
void bus__exchange_message(struct peer *p, struct bufslice message);
/* Fail open exchanges. The peer's mutex is held on entry, and released. */
void bus__exchange_broken(struct peer *p, struct bus_pipe *pipe, const char *why);
/* Takes `body` over; false: the bound is reached (only with more). */
bool bus__self_answer(struct bus *b, uint64_t id, struct bufslice body,
                      const struct thole_status *st, bool more);

/* ---- unary.c: one call of a client ----------------------------------------------------------- */

/* `done` runs once on the loop, unless this returns false: the loop was stopped. */
typedef void (*bus_unary_fn)(void *ctx, const struct thole_status *st, grpc_byte_buffer *reply,
                             grpc_call *call);
bool bus__unary(struct bus_loop *loop, grpc_channel *channel, const char *path,
                struct bufslice request, uint32_t timeout_ms, bus_unary_fn done, void *ctx);
void bus__unary_cancel_all(struct bus_loop *loop); /* its mutex is held */
/* The same, blocking. `ret_call` (or NULL): a reference to the call, on success. */
enum thole_code bus__unary_wait(struct bus_loop *loop, grpc_channel *channel, const char *path,
                                struct bufslice request, uint32_t timeout_ms,
                                struct buf **ret_reply, grpc_call **ret_call,
                                struct thole_status *st);

/* ---- health_service.c, reflection_service.c -------------------------------------------------- */

void bus__health_init(struct bus *b);
void bus__health_stop(struct bus *b);
void bus__health_free(struct bus *b);
void bus__reflection_init(struct bus *b);
void bus__reflection_free(struct bus *b);

#endif
