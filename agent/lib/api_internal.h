/* What the files of libthole share: handles, requests, clients. Public: <thole/thole.h>. */
#ifndef AGENT_LIB_API_INTERNAL_H
#define AGENT_LIB_API_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <thole/thole.h>

#include "agent/core/agent.h"
#include "agent/routing/router.h"
#include "base/map.h"
#include "base/ref.h"
#include "thole/v1/resources.upb.h"

struct answers;
struct client;
struct results;

#define API_TIMEOUT_MS 5000 /* of calls without their own timeout */

struct thole {
    bool is_client;
    /* Host. */
    struct thole_options o; /* strings copied */
    struct thole_tls tls;   /* likewise */
    bool has_tls;
    char **tags;
    const struct thole_machine_type *types[AGENT_TYPES_MAX];
    size_t type_count;
    struct agent *agent;         /* NULL before thole_start */
    struct readiness *readiness; /* see api_host.c; NULL: the program has no callback */
    /* Client. */
    struct client *client;

    struct thole_view *views;    /* of api_view.c: views that were not released yet */
    struct bus_channel *channel; /* of api_control.c; NULL until first used */
    struct executor *executor;
    struct results *results;
    _Atomic size_t in_flight;
    pthread_mutex_t lock; /* of the watches of a client, `views` and `channel` */
    struct map watches;
    uint64_t next_watch;
    struct leadership *leaderships; /* of api_lead.c; under the lock */
    uint64_t next_leadership;
};

/* What is known of one shard. For hosts: 1 + its id. For clients: 1 + the endpoint that led it
 * last. 0: nothing. A stale value costs one forwarded request: ids are not reused. */
typedef _Atomic uint64_t shard_hint;

struct thole_shard {
    struct thole *t;      /* may already be closed when the last reference is released */
    struct ref refs;      /* the user's, and that of each operation */
    uint32_t slot_plus_1; /* of the key that it was opened with: `name` is a pool's. 0: none */
    shard_hint hint;
    /* By slot, for operations with keys; made by the first one. */
    _Atomic(shard_hint *) by_slot;
    char name[THOLE_NAME_BYTES];
};

/* The request of an operation, a blocking call or a command. `shard` NULL: shard zero. */
struct api_request {
    struct thole *t;
    struct thole_shard *shard;
    void (*done)(struct api_request *q);
    bool resolved_anew; /* its shard was deleted, and the name resolved again */
    struct router_request r;
};
void api__route(struct api_request *q);
/* The hint of the shard that the request is for; `shard` is not NULL. */
shard_hint *api__hint(struct thole_shard *s, const struct router_request *r);
/* Blocks until the request completed; the results stay in `q`. */
void api__run(struct api_request *q);
uint64_t api__deadline(uint32_t timeout_ms); /* 0: the default */
enum thole_code api__finish(const struct api_request *q, struct thole_status *st);
/* FAILED_PRECONDITION unless the handle is a started host. */
THOLE_MUST_CHECK enum thole_code api__need_host(const struct thole *t, struct thole_status *st);
/* FAILED_PRECONDITION unless it is a started host or a client. */
THOLE_MUST_CHECK enum thole_code api__need_running(const struct thole *t, struct thole_status *st);
/* Copy a struct of an older or newer program, of any size, into ours. */
void api__copy_struct(void *to, size_t to_size, const void *from, uint32_t from_size);

/* api_ops.c */
struct results *api__results_new(struct thole *t);
void api__results_free(struct results *rs); /* waits until nothing is in flight */

/* api_host.c: calls options.ready from now on, until the end. */
void api__readiness_begin(struct thole *t);
void api__readiness_end(struct thole *t);

/* api_lead.c: stops the work of all registrations. */
void api__leaderships_end(struct thole *t);

/* api_control.c: a gRPC client of a host; stays until thole_close. FAILED_PRECONDITION: does not
 * run. */
THOLE_MUST_CHECK enum thole_code api__channel(struct thole *t, struct bus_channel **ret,
                                              struct thole_status *st);

/* api_shards.c */
THOLE_MUST_CHECK enum thole_code api__read_shard_spec(const struct thole_shard_spec *given,
                                                      struct thole_shard_spec *ret,
                                                      struct thole_status *st);
thole_v1_ShardSpec *api__shard_spec(const struct thole_shard_spec *s, upb_Arena *arena);

/* of api_view.c; call before the registry is freed */
void api__views_end(struct thole *t);

/* api_client.c */
THOLE_MUST_CHECK enum thole_code api__client_new(struct thole *t, const char *addresses,
                                                 struct bus_tls *tls, const char *token,
                                                 struct client **ret, struct thole_status *st);
void api__client_stop(struct client *c);
void api__client_free(struct client *c);
void api__client_route(struct client *c, struct router_request *r, const char *shard_name);
struct bus *api__client_bus(struct client *c);
struct answers *api__client_answers(struct client *c);
const char *api__client_token(const struct client *c);     /* NULL: none */
struct bus_tls *api__client_tls(struct client *c);         /* NULL: plain text */
bool api__client_host(struct client *c, struct uuid *ret); /* the endpoint in use */
bool api__client_wait(struct client *c, uint32_t timeout_ms);
const char *api__client_addresses(const struct client *c);

#endif
