#include "bus/test/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t now_ms(void)
{
    return clock_now(&clock_system) / NS_PER_MS;
}

void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){0, (long)ms * 1000000}, NULL);
}

struct uuid uuid_of(uint8_t n)
{
    struct uuid u = {{0}};
    if (n) {
        memset(u.bytes, n, sizeof u.bytes);
    }
    return u;
}

struct bufslice body_of(const char *text)
{
    struct buf *b = buf_copy(text, strlen(text));
    return (struct bufslice){b, {b->data, b->size}};
}

static void on_frame(void *ctx, const struct uuid *from, uint64_t incarnation, enum bus_lane lane,
                     struct bufslice frame)
{
    struct host *h = ctx;
    (void)from;
    uint64_t number = get_le64(frame.bytes.data);
    pthread_mutex_lock(&h->mutex);
    if (number != h->next[lane]) {
        h->disorder++;
    }
    h->next[lane] = number + 1;
    h->frames++;
    h->bytes += frame.bytes.size;
    h->last_incarnation = incarnation;
    pthread_mutex_unlock(&h->mutex);
}

static void on_peer_state(void *ctx, const struct uuid *host, bool up, uint64_t incarnation)
{
    struct host *h = ctx;
    (void)host;
    pthread_mutex_lock(&h->mutex);
    if (up) {
        h->ups++;
    } else {
        h->downs++;
    }
    if (up) {
        h->up_incarnation = incarnation;
    }
    pthread_mutex_unlock(&h->mutex);
}

static void on_cancel(void *ctx)
{
    struct host *h = ctx;
    pthread_mutex_lock(&h->mutex);
    h->cancels++;
    pthread_mutex_unlock(&h->mutex);
}

static void flood(struct bus_request *r)
{
    for (int i = 0; i < 100000; i++) {
        struct buf *b = buf_new(65536);
        memset(b->data, 'x', b->size);
        if (!bus_answer(r, (struct bufslice){b, {b->data, b->size}}, true)) {
            break;
        }
    }
    bus_answer(r, body_of("full"), false);
}

static void on_request(void *ctx, struct bus_request *r)
{
    struct host *h = ctx;
    struct thole_status st;
    struct uuid from;
    struct slice body = bus_request_body(r);
    pthread_mutex_lock(&h->mutex);
    h->requests++;
    pthread_mutex_unlock(&h->mutex);
    switch (bus_request_method(r)) {
    case METHOD_ECHO: {
        struct buf *copy = buf_copy(body.data, body.size);
        bus_answer(r, (struct bufslice){copy, {copy->data, copy->size}}, false);
        return;
    }
    case METHOD_THREE:
        bus_answer(r, body_of("0"), true);
        bus_answer(r, body_of("1"), true);
        bus_answer(r, body_of("2"), false);
        return;
    case METHOD_HOLD:
        bus_request_on_cancel(r, on_cancel, h);
        pthread_mutex_lock(&h->mutex);
        bool kept = h->held_count < HELD_MAX;
        if (kept) {
            h->held[h->held_count++] = r;
        }
        pthread_mutex_unlock(&h->mutex);
        if (!kept) {
            bus_answer(r, body_of("full"), false);
        }
        return;
    case METHOD_DEADLINE:
        bus_answer(r, body_of(bus_request_deadline_ns(r) == CLOCK_NEVER ? "none" : "some"), false);
        return;
    case METHOD_FROM: {
        bool known = bus_request_from(r, &from);
        struct buf *copy = buf_copy(from.bytes, known ? sizeof from.bytes : 0);
        bus_answer(r, (struct bufslice){copy, {copy->data, copy->size}}, false);
        return;
    }
    case METHOD_FLOOD:
        flood(r);
        return;
    default:
        thole_status_set(&st, THOLE_ABORTED, THOLE_REASON_ETAG_MISMATCH, __FILE__, __LINE__, "no");
        bus_answer_failure(r, &st);
    }
}

static enum thole_code on_admit(void *ctx, const struct bus_identity *who, uint64_t incarnation,
                                const struct lineage *lineage, struct thole_status *st)
{
    struct host *h = ctx;
    (void)who;
    (void)incarnation;
    (void)lineage;
    pthread_mutex_lock(&h->mutex);
    enum thole_code code = h->refuse;
    pthread_mutex_unlock(&h->mutex);
    if (code == THOLE_OK) {
        return code;
    }
    return THOLE_FAIL(st, code, THOLE_REASON_REMOVED, "you were removed");
}

static bool on_recorded(void *ctx, const struct uuid *host, uint64_t *ret_incarnation,
                        uint64_t *ret_number)
{
    struct host *h = ctx;
    (void)host;
    pthread_mutex_lock(&h->mutex);
    *ret_incarnation = h->recorded_incarnation;
    *ret_number = h->recorded_number;
    pthread_mutex_unlock(&h->mutex);
    return *ret_incarnation > 0;
}

static void on_refused(void *ctx, const struct uuid *host, const struct thole_status *st)
{
    struct host *h = ctx;
    (void)host;
    pthread_mutex_lock(&h->mutex);
    h->refusals += st->reason == THOLE_REASON_STALE_INCARNATION;
    pthread_mutex_unlock(&h->mutex);
}

struct host *host_alloc(void)
{
    struct host *h = xcalloc(1, sizeof *h);
    pthread_mutex_init(&h->mutex, NULL);
    return h;
}

struct bus_options host_options(struct host *h, uint8_t n, uint8_t cluster, uint64_t incarnation,
                                const char *listen)
{
    return (struct bus_options){
        .listen_address = listen,
        .host_id = uuid_of(n),
        .cluster_id = uuid_of(cluster),
        .incarnation = incarnation,
        .version = "test",
        .clock = &clock_system,
        .handler = {.ctx = h,
                    .frame = on_frame,
                    .peer_state = on_peer_state,
                    .request = on_request,
                    .refused = on_refused,
                    .admit = on_admit,
                    .recorded = on_recorded},
    };
}

void host_open(struct host *h, const struct bus_options *o)
{
    struct thole_status st = {0};
    if (bus_new(o, &h->bus, &st) != THOLE_OK) {
        fail_msg("bus_new: %s", st.message);
    }
    h->id = o->host_id;
    snprintf(h->address, sizeof h->address, "%s", bus_address(h->bus));
    bus_start(h->bus);
}

struct host *host_new(uint8_t n, uint8_t cluster, uint64_t incarnation, const char *listen)
{
    struct host *h = host_alloc();
    struct bus_options o =
        host_options(h, n, cluster, incarnation, listen != NULL ? listen : "127.0.0.1:0");
    host_open(h, &o);
    return h;
}

void host_release(struct host *h)
{
    pthread_mutex_lock(&h->mutex);
    int n = h->held_count;
    struct bus_request **held = xmalloc(((size_t)n + 1) * sizeof(struct bus_request *));
    memcpy(held, h->held, (size_t)n * sizeof(struct bus_request *));
    h->held_count = 0;
    pthread_mutex_unlock(&h->mutex);
    for (int i = 0; i < n; i++) {
        bus_answer(held[i], body_of("late"), false);
    }
    free(held);
}

void host_free(struct host *h)
{
    if (h == NULL) {
        return;
    }
    bus_stop(h->bus, 0);
    host_release(h);
    bus_free(h->bus);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

void host_knows(struct host *h, const struct host *other)
{
    struct thole_status st = {0};
    if (bus_peer_set(h->bus, &other->id, other->address, &st) != THOLE_OK) {
        fail_msg("bus_peer_set: %s", st.message);
    }
}

void frame_send(struct host *h, const struct host *to, enum bus_lane lane, uint64_t number,
                size_t size)
{
    ASSERT(size >= 8);
    struct buf *b = buf_new(size);
    memset(b->data, 0, size);
    put_le64(b->data, number);
    assert_int_equal(bus_send(h->bus, &to->id, lane, (struct bufslice){b, {b->data, size}}),
                     THOLE_OK);
}

void outcome_init(struct outcome *o)
{
    memset(o, 0, sizeof *o);
    pthread_mutex_init(&o->mutex, NULL);
}

void on_answer(void *ctx, const struct thole_status *st, struct bufslice body, bool more)
{
    struct outcome *o = ctx;
    pthread_mutex_lock(&o->mutex);
    ASSERT(!o->done);
    o->size = body.bytes.size;
    size_t n = o->size < sizeof o->body - 1 ? o->size : sizeof o->body - 1;
    if (n > 0) {
        memcpy(o->body, body.bytes.data, n);
    }
    o->body[n] = '\0';
    if (more) {
        o->answers++;
    } else {
        o->st = *st;
        o->done = true;
    }
    pthread_mutex_unlock(&o->mutex);
}

uint64_t ask(struct host *h, const struct host *to, uint32_t method, const char *body,
             uint32_t timeout_ms, struct outcome *o)
{
    outcome_init(o);
    return bus_exchange(h->bus, &to->id, method, body_of(body), timeout_ms, on_answer, o);
}
