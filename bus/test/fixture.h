/* Buses on the loopback that record their events, and waits with a deadline. */
#ifndef BUS_TEST_FIXTURE_H
#define BUS_TEST_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/assert.h"
#include "base/log.h"
#include "bus/bus.h"

#define WAIT_MS 20000

/* Requests of the fixture's handler, and its replies. */
enum {
    METHOD_ECHO = 1,     /* the body */
    METHOD_FAIL = 2,     /* ABORTED ETAG_MISMATCH "no" */
    METHOD_THREE = 3,    /* three answers "0", "1", "2", the last one final */
    METHOD_HOLD = 4,     /* no reply until host_release or a cancellation */
    METHOD_DEADLINE = 5, /* "some" or "none": whether the request has a deadline */
    METHOD_FROM = 6,     /* the caller's host id, 16 bytes or empty */
    METHOD_FLOOD = 7,    /* replies of 64 KiB until refused, then "full" */
};

#define HELD_MAX 65536

struct host {
    struct bus *bus;
    struct uuid id;
    char address[64];
    pthread_mutex_t mutex; /* below */
    uint64_t frames, bytes, disorder;
    uint64_t next[4]; /* by lane: the number that the next frame must carry */
    uint64_t last_incarnation;
    int ups, downs;
    uint64_t up_incarnation;
    int requests, cancels;
    struct bus_request *held[HELD_MAX];
    int held_count;
    enum thole_code refuse;                         /* admit's answer */
    int refusals;                                   /* of starts, by peers */
    uint64_t recorded_incarnation, recorded_number; /* of any host; 0: none */
};

struct uuid uuid_of(uint8_t n);
struct host *host_new(uint8_t n, uint8_t cluster, uint64_t incarnation, const char *listen);
/* The same, not started; o may be changed before host_open. */
struct bus_options host_options(struct host *h, uint8_t n, uint8_t cluster, uint64_t incarnation,
                                const char *listen);
struct host *host_alloc(void);
void host_open(struct host *h, const struct bus_options *o);
void host_free(struct host *h);    /* stops it */
void host_release(struct host *h); /* replies "late" to the held requests */
void host_knows(struct host *h, const struct host *other);
void frame_send(struct host *h, const struct host *to, enum bus_lane lane, uint64_t number,
                size_t size); /* asserts that the bus accepted the frame */
struct bufslice body_of(const char *text);

/* Evaluate `expression` under the host's mutex until it is true. */
#define eventually(h, expression)                                                          \
    do {                                                                                   \
        uint64_t give_up_ = now_ms() + WAIT_MS;                                            \
        for (;;) {                                                                         \
            pthread_mutex_lock(&(h)->mutex);                                               \
            bool is_ = (expression);                                                       \
            pthread_mutex_unlock(&(h)->mutex);                                             \
            if (is_) {                                                                     \
                break;                                                                     \
            }                                                                              \
            if (now_ms() > give_up_) {                                                     \
                fail_msg("%s:%d: never became true: %s", __FILE__, __LINE__, #expression); \
            }                                                                              \
            pause_ms(1);                                                                   \
        }                                                                                  \
    } while (0)
/* Read a field under the host's mutex. */
#define locked(h, expression)                     \
    __extension__({                               \
        pthread_mutex_lock(&(h)->mutex);          \
        __typeof__(expression) v_ = (expression); \
        pthread_mutex_unlock(&(h)->mutex);        \
        v_;                                       \
    })
uint64_t now_ms(void);
void pause_ms(unsigned ms);

/* The outcome of an exchange. */
struct outcome {
    pthread_mutex_t mutex;
    int answers; /* with more */
    bool done;
    struct thole_status st;
    size_t size;     /* of the last body */
    char body[4096]; /* its beginning, NUL-terminated */
};
void outcome_init(struct outcome *o);
void on_answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more);
uint64_t ask(struct host *h, const struct host *to, uint32_t method, const char *body,
             uint32_t timeout_ms, struct outcome *o);

#endif
