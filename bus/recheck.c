/* Open streams end when the certificate of their caller does not count any more: it has expired, or
 * was revoked, or its CA was taken out of the file. Calls are checked when they arrive; a stream
 * may stay open for months. Streams with open requests end at the second check.
 *
 * Lanes and requests between hosts outlive the time of a certificate until their connection breaks:
 * a cluster whose operator forgot to renew must not end at one instant. */
#include <time.h>

#include "bus/bus_internal.h"

#define RECHECK_MS 2000

static METRIC_DEFINE_COUNTER(metric_ended, "thole_tls_streams_ended_total",
                             "Open streams ended because their certificate no longer counted");

/* The streams to check: their callers showed a certificate. */
static void collect(struct bus *b, int64_t now_s, struct bus_streams *list)
{
    pthread_mutex_lock(&b->mutex);
    for (struct bus_rpc *r = b->streams; r != NULL; r = r->next_stream) {
        if (r->certificate != NULL) {
            bus__streams_add(list, r);
        }
    }
    for (struct bus_inbound *in = b->inbound; in != NULL; in = in->next) {
        const struct bus_certificate *c = in->rpc->certificate;
        bool spared = c != NULL && !uuid_is_nil(&in->hello.host) && now_s > c->c.not_after_s;
        if (c != NULL && !spared) {
            bus__streams_add(list, in->rpc);
        }
    }
    pthread_mutex_unlock(&b->mutex);
}

/* Its open requests may be answered until the next check, so that their outcomes are known. A watch
 * among them would keep the stream for ever. */
static bool may_end(struct bus_rpc *r, const struct thole_status *st)
{
    struct bus_inbound *in = r->entry->inward ? bus_rpc_data(r) : NULL;
    if (in == NULL) {
        return true;
    }
    pthread_mutex_lock(&in->mutex);
    bool now = in->requests.count == 0 || in->barred.code != THOLE_OK;
    in->draining = true;
    in->barred = *st;
    pthread_mutex_unlock(&in->mutex);
    return now;
}

static void recheck(struct bus_timer *timer)
{
    struct bus *b = CONTAINER_OF(timer, struct bus, recheck);
    struct bus_streams list = {0};
    collect(b, (int64_t)time(NULL), &list);
    for (size_t i = 0; i < list.count; i++) {
        struct bus_rpc *r = list.all[i];
        struct thole_status st = {0};
        /* One that has ended is listed until its last answer was read. */
        if (!r->denied && !atomic_load(&r->finished) &&
            bus__tls_recheck(b->o.tls, r->certificate, &st) != THOLE_OK && may_end(r, &st)) {
            metric_add(&metric_ended, 1);
            bus__rpc_end(r, &st);
        }
    }
    bus__streams_deinit(&list);
    bus__loop_arm(&b->loop, timer, RECHECK_MS);
}

void bus__recheck_start(struct bus *b)
{
    if (b->o.tls != NULL) {
        b->recheck.fn = recheck;
        bus__loop_arm(&b->loop, &b->recheck, RECHECK_MS);
    }
}

void bus__recheck_stop(struct bus *b)
{
    bus__loop_cancel(&b->loop, &b->recheck);
}
