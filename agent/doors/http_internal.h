/* Shared by the files of the HTTP port. */
#ifndef AGENT_DOORS_HTTP_INTERNAL_H
#define AGENT_DOORS_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "agent/doors/http.h"
#include "agent/doors/http_routes.h"
#include "base/buf.h"
#include "bus/bus.h"

/* A connection; its data in libmicrohttpd. Used by the polling thread only. */
struct http_connection {
    struct http_connection *older, *newer;
    int fd;
    bool asked; /* has sent a request */
    bool cut;   /* is being ended */
    bool busy;  /* waits for a call, or gets its stream */
};

struct exchange;

/* What calls share: see http_calls.c. */
struct http_calls {
    _Atomic uint32_t refs;
    struct bus *bus;
    pthread_mutex_t lock;   /* below */
    struct exchange *first; /* those that have begun */
    uint64_t next_id;
    bool stopping;
    size_t streams;       /* polling thread */
    _Atomic size_t bytes; /* of requests and answers in memory */
    int hangups, stop_fd; /* epoll of the connections of waiting streams; ends its thread */
    pthread_t thread;
};

struct http_calls *http__calls_new(struct bus *bus);
/* Ends all calls, before the daemon stops; their connections then end by themselves. */
void http__calls_end(struct http_calls *c);
void http__calls_begin(struct http_calls *c); /* calls are taken, again */
void http__calls_free(struct http_calls *c);

/* A request that a route exists for: the answer of libmicrohttpd's access handler. `state` is the
 * request's, NULL at its first call. */
enum MHD_Result http__call(struct http_calls *c, struct MHD_Connection *connection,
                           const struct http_route *route, const char *body, size_t *size,
                           void **state);
/* The request is over. */
void http__call_over(struct http_calls *c, void *state);

/* GET of `url`, which begins with /ui, or is "/". (http_ui.c) */
enum MHD_Result http__ui(struct MHD_Connection *c, const char *url);

/* Queues the response, with the headers that all have, and releases it. NULL: MHD_NO. */
enum MHD_Result http__respond(struct MHD_Connection *c, unsigned status, const char *type,
                              struct MHD_Response *r);
/* Copies the body: for small ones. */
enum MHD_Result http__reply(struct MHD_Connection *c, unsigned status, const char *type,
                            struct slice body);
/* Takes the body over. */
enum MHD_Result http__reply_text(struct MHD_Connection *c, unsigned status, const char *type,
                                 struct bytes *body);
struct http_connection *http__connection(struct MHD_Connection *c);

/* http_errors.c */
unsigned http__status_of(enum thole_code code);
/* Appends the body of an error, with a newline. `details` is a serialised google.rpc.Status, or
 * empty. in_stream: as an element of a stream of answers. */
void http__error_body(const struct http_route *route, const struct thole_status *st,
                      struct slice details, bool in_stream, struct bytes *out);

#endif
