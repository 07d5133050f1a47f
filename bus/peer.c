/* Peers: the table of other hosts, frames to them, and this host as a peer of itself. */
#include <stdlib.h>
#include <string.h>

#include "bus/bus_internal.h"

static METRIC_DEFINE_COUNTER(metric_dropped, "thole_bus_dropped_frames_total",
                             "Frames dropped because their peer was not connected");
static METRIC_DEFINE_COUNTER(metric_full, "thole_bus_refused_frames_total",
                             "Frames refused because the queue to their peer was full");

struct peer *bus__peer_new(struct bus *b, const struct uuid *host, const char *address)
{
    struct peer *p = xcalloc(1, sizeof *p);
    p->bus = b;
    p->host = *host;
    p->address = xstrdup(address);
    atomic_init(&p->refs, 1);
    pthread_mutex_init(&p->mutex, NULL);
    p->waiting_tail = &p->waiting;
    for (uint32_t i = 0; i < BUS_LINKS; i++) {
        bus__link_init(&p->links[i], p, i);
    }
    return p;
}

struct peer *bus__peer_ref(struct peer *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}

void bus__peer_unref(struct peer *p)
{
    if (p == NULL || !bus__drop(&p->refs)) {
        return;
    }
    ASSERT(p->exchanges.count == 0);
    map_deinit(&p->exchanges);
    pthread_mutex_destroy(&p->mutex);
    free(p->address);
    free(p);
}

/* bus.mutex is held. */
static struct peer **slot_of(struct bus *b, const struct uuid *host)
{
    struct peer **at = &b->peers;
    while (*at != NULL && !uuid_equal(&(*at)->host, host)) {
        at = &(*at)->next;
    }
    return at;
}

bool bus__peer_known(const struct bus *b, const struct uuid *host)
{
    const struct peer *p = b->peers;
    while (p != NULL && !uuid_equal(&p->host, host)) {
        p = p->next;
    }
    return p != NULL || uuid_equal(&b->o.host_id, host);
}

static bool is_self(const struct bus *b, const struct uuid *host)
{
    return b->self != NULL && uuid_equal(host, &b->o.host_id);
}

struct peer *bus__peer_find(struct bus *b, const struct uuid *host)
{
    if (is_self(b, host)) {
        return bus__peer_ref(b->self);
    }
    pthread_mutex_lock(&b->mutex);
    struct peer *p = *slot_of(b, host);
    if (p != NULL) {
        bus__peer_ref(p);
    }
    pthread_mutex_unlock(&b->mutex);
    return p;
}

/* ---- On the loop ----------------------------------------------------------------------------- */

struct peer_task {
    struct bus_task task;
    struct peer *peer;
    void (*fn)(struct peer *p);
};

static void run_peer_task(struct bus_task *t)
{
    struct peer_task *pt = CONTAINER_OF(t, struct peer_task, task);
    pt->fn(pt->peer);
    bus__peer_unref(pt->peer);
    free(pt);
}

void bus__peer_post(struct peer *p, void (*fn)(struct peer *p))
{
    struct peer_task *t = xcalloc(1, sizeof *t);
    t->task.fn = run_peer_task;
    t->peer = bus__peer_ref(p);
    t->fn = fn;
    bus__loop_post(&p->bus->loop, &t->task);
}

void bus__peer_report(struct peer *p)
{
    const struct bus_handler *h = &p->bus->o.handler;
    pthread_mutex_lock(&p->mutex);
    bool up = p->up && !p->removed;
    uint64_t incarnation = p->links[BUS_LANE_CONTROL].incarnation;
    pthread_mutex_unlock(&p->mutex);
    if (up == p->up_told) {
        return;
    }
    p->up_told = up;
    char host[UUID_TEXT_BYTES];
    uuid_format(&p->host, host);
    if (up) {
        LOG_INFO(BUS, "peer connected peer=%s", host);
    } else {
        LOG_WARN(BUS, "peer disconnected peer=%s; reconnecting", host);
    }
    if (h->peer_state != NULL) {
        h->peer_state(h->ctx, &p->host, up, incarnation);
    }
}

static void connect_all(struct peer *p)
{
    for (int i = 0; i < BUS_LINKS; i++) {
        bus__link_kick(&p->links[i]);
    }
}

static void close_all(struct peer *p)
{
    for (int i = 0; i < BUS_LINKS; i++) {
        bus__link_close(&p->links[i]);
    }
    pthread_mutex_lock(&p->mutex);
    /* If there is a pipe, its end fails the exchanges, and knows which were sent. */
    if (p->links[0].pipe != NULL) {
        pthread_mutex_unlock(&p->mutex);
    } else {
        bus__exchange_broken(p, NULL, "the peer was removed");
    }
    bus__peer_report(p);
}

static void self_up(struct peer *p)
{
    pthread_mutex_lock(&p->mutex);
    p->up = true;
    p->links[BUS_LANE_CONTROL].incarnation = p->bus->o.incarnation;
    pthread_mutex_unlock(&p->mutex);
    bus__peer_report(p);
}

/* ---- Which peers there are ------------------------------------------------------------------- */

enum thole_code bus_peer_set(struct bus *b, const struct uuid *host, const char *address,
                             struct thole_status *st)
{
    if (uuid_is_nil(host)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a peer needs a host id");
    }
    if (is_self(b, host)) {
        bus__peer_post(b->self, self_up);
        return THOLE_OK;
    }
    if (address == NULL || !address_valid(slice_str(address), ADDRESS_REACH)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "a peer's address must be host:port, not \"%s\"",
                          address != NULL ? address : "");
    }
    pthread_mutex_lock(&b->mutex);
    if (atomic_load(&b->stopping)) { /* under the mutex: bus__peers_stop sees this peer */
        pthread_mutex_unlock(&b->mutex);
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, "the bus was stopped");
    }
    struct peer **at = slot_of(b, host);
    bool fresh = *at == NULL;
    if (fresh) {
        *at = bus__peer_new(b, host, address);
    }
    struct peer *p = bus__peer_ref(*at);
    pthread_mutex_unlock(&b->mutex);
    pthread_mutex_lock(&p->mutex);
    bool moved = strcmp(p->address, address) != 0;
    if (moved) {
        free(p->address);
        p->address = xstrdup(address);
        p->generation++;
    }
    pthread_mutex_unlock(&p->mutex);
    if (fresh || moved) {
        bus__peer_post(p, connect_all);
    }
    bus__peer_unref(p);
    return THOLE_OK;
}

static void remove_peer(struct peer *p) /* takes a reference over */
{
    pthread_mutex_lock(&p->mutex);
    p->removed = true;
    pthread_mutex_unlock(&p->mutex);
    bus__peer_post(p, close_all);
    bus__peer_unref(p);
}

void bus_peer_remove(struct bus *b, const struct uuid *host)
{
    pthread_mutex_lock(&b->mutex);
    struct peer **at = slot_of(b, host);
    struct peer *p = *at;
    if (p != NULL) {
        *at = p->next;
    }
    pthread_mutex_unlock(&b->mutex);
    if (p != NULL) {
        remove_peer(p);
    }
}

void bus__peers_stop(struct bus *b)
{
    for (;;) {
        pthread_mutex_lock(&b->mutex);
        struct peer *p = b->peers;
        if (p != NULL) {
            b->peers = p->next;
        }
        pthread_mutex_unlock(&b->mutex);
        if (p == NULL) {
            break;
        }
        remove_peer(p);
    }
    if (b->self != NULL) {
        remove_peer(bus__peer_ref(b->self));
    }
}

bool bus_peer_up(struct bus *b, const struct uuid *host)
{
    if (is_self(b, host)) {
        return true;
    }
    struct peer *p = bus__peer_find(b, host);
    if (p == NULL) {
        return false;
    }
    pthread_mutex_lock(&p->mutex);
    bool up = p->up && !p->removed;
    pthread_mutex_unlock(&p->mutex);
    bus__peer_unref(p);
    return up;
}

/* Retry peers at once whose last attempt may have failed because of the old cluster id. */
static void retry_all(struct peer *p)
{
    for (int i = 0; i < BUS_LINKS; i++) {
        if (p->links[i].state == LINK_WAITING) {
            bus__link_kick(&p->links[i]);
        }
    }
}

void bus_set_cluster(struct bus *b, const struct uuid *cluster_id)
{
    pthread_mutex_lock(&b->mutex);
    bool changed = !uuid_equal(&b->cluster_id, cluster_id);
    b->cluster_id = *cluster_id;
    for (struct peer *p = b->peers; p != NULL && changed; p = p->next) {
        pthread_mutex_lock(&p->mutex);
        p->generation++;
        pthread_mutex_unlock(&p->mutex);
        bus__peer_post(p, retry_all);
    }
    pthread_mutex_unlock(&b->mutex);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

struct self_frame {
    struct bus_task task;
    struct peer *self;
    enum bus_lane lane;
    struct bufslice frame;
};

static void deliver_self(struct bus_task *t)
{
    struct self_frame *f = CONTAINER_OF(t, struct self_frame, task);
    struct peer *p = f->self;
    const struct bus_handler *h = &p->bus->o.handler;
    pthread_mutex_lock(&p->mutex);
    ASSERT(p->self_bytes >= f->frame.bytes.size);
    p->self_bytes -= f->frame.bytes.size;
    bool drop = p->removed;
    pthread_mutex_unlock(&p->mutex);
    if (h->frame != NULL && !drop) {
        h->frame(h->ctx, &p->host, p->bus->o.incarnation, f->lane, f->frame);
    }
    bufslice_unref(f->frame);
    bus__peer_unref(p);
    free(f);
}

static enum bus_put send_self(struct peer *p, enum bus_lane lane, struct bufslice frame)
{
    pthread_mutex_lock(&p->mutex);
    bool full = p->self_bytes > 0 && p->self_bytes + frame.bytes.size > p->bus->o.peer_queue_bytes;
    bool removed = p->removed;
    if (!full && !removed) {
        p->self_bytes += frame.bytes.size;
    }
    pthread_mutex_unlock(&p->mutex);
    if (full || removed) {
        bufslice_unref(frame);
        return full ? BUS_PUT_FULL : BUS_PUT_CLOSED;
    }
    struct self_frame *f = xcalloc(1, sizeof *f);
    f->task.fn = deliver_self;
    f->self = bus__peer_ref(p);
    f->lane = lane;
    f->frame = frame;
    bus__loop_post(&p->bus->loop, &f->task);
    return BUS_PUT_OK;
}

static enum bus_put send_remote(struct peer *p, enum bus_lane lane, struct bufslice frame)
{
    struct bus_head head;
    struct link *l = &p->links[lane];
    pthread_mutex_lock(&p->mutex);
    bool ready = l->state == LINK_READY && !p->removed;
    struct bus_pipe *pipe = ready ? bus__pipe_ref(l->pipe) : NULL;
    pthread_mutex_unlock(&p->mutex);
    if (pipe == NULL) {
        bufslice_unref(frame);
        return BUS_PUT_CLOSED;
    }
    bus__lane_head(&head, frame.bytes.size);
    enum bus_put put =
        bus__pipe_put(pipe, (struct slice){head.data, head.size}, frame, false, NULL);
    bus__pipe_unref(pipe);
    return put;
}

enum thole_code bus_send(struct bus *b, const struct uuid *host, enum bus_lane lane,
                         struct bufslice frame)
{
    size_t size = frame.bytes.size;
    ASSERT(lane >= BUS_LANE_CONTROL && lane <= BUS_LANE_SNAPSHOT);
    struct peer *p = size <= LIMIT_FRAME_BYTES ? bus__peer_find(b, host) : NULL;
    if (p == NULL) {
        bufslice_unref(frame);
        metric_add(&metric_dropped, 1);
        return size <= LIMIT_FRAME_BYTES ? THOLE_UNAVAILABLE : THOLE_RESOURCE_EXHAUSTED;
    }
    enum bus_put put = p == b->self ? send_self(p, lane, frame) : send_remote(p, lane, frame);
    bus__peer_unref(p);
    switch (put) {
    case BUS_PUT_OK:
        bus__frame_sent(lane, size);
        return THOLE_OK;
    case BUS_PUT_FULL:
        metric_add(&metric_full, 1);
        return THOLE_RESOURCE_EXHAUSTED;
    case BUS_PUT_CLOSED:
        metric_add(&metric_dropped, 1);
        return THOLE_UNAVAILABLE;
    }
    return THOLE_INTERNAL;
}
