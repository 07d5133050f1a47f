/* Open streams end when the certificate of their caller does not count any more: it has expired, or
 * was revoked, or its CA was taken out of the file. Calls are checked when they arrive; a stream
 * may stay open for months.
 *
 * Lanes and requests between hosts outlive the time of a certificate until their connection breaks:
 * a cluster whose operator forgot to renew must not end at one instant. */
#include <stdlib.h>
#include <time.h>

#include "bus/bus_internal.h"

#define RECHECK_MS 2000

static METRIC_DEFINE_COUNTER(metric_ended, "thole_tls_streams_ended_total",
                             "Open streams ended because their certificate no longer counted");

struct stream {                  /* with a reference */
    struct bus_rpc *client;      /* or */
    struct bus_inbound *inbound; /* of a host */
    struct bus_certificate *certificate;
};

struct streams {
    struct stream *all;
    size_t count;
};

static void add(struct streams *list, struct stream s)
{
    atomic_fetch_add_explicit(&s.certificate->refs, 1, memory_order_relaxed);
    if ((list->count & (list->count - 1)) == 0) { /* a power of two: full */
        list->all = xrealloc(list->all, (list->count ? list->count * 2 : 1) * sizeof *list->all);
    }
    list->all[list->count++] = s;
}

/* The streams whose caller showed a certificate. */
static void collect(struct bus *b, struct streams *list)
{
    pthread_mutex_lock(&b->mutex);
    for (struct bus_rpc *r = b->streams; r != NULL; r = r->next_stream) {
        if (r->certificate != NULL && bus__rpc_ref_if_used(r)) {
            add(list, (struct stream){.client = r, .certificate = r->certificate});
        }
    }
    for (struct bus_inbound *in = b->inbound; in != NULL; in = in->next) {
        if (in->rpc->certificate != NULL) {
            bus__inbound_ref(in);
            add(list, (struct stream){.inbound = in, .certificate = in->rpc->certificate});
        }
    }
    pthread_mutex_unlock(&b->mutex);
}

static void end(struct stream *s, const struct thole_status *st)
{
    struct bus_inbound *in = s->inbound;
    metric_add(&metric_ended, 1);
    if (in == NULL) {
        bus__rpc_end(s->client, st);
        return;
    }
    /* A request that is open is answered first, so that its outcome is known. */
    pthread_mutex_lock(&in->mutex);
    bool now = in->requests.count == 0;
    in->draining = true;
    pthread_mutex_unlock(&in->mutex);
    if (now) {
        bus__inbound_end(in, st);
    }
}

static void recheck(struct bus_timer *timer)
{
    struct bus *b = CONTAINER_OF(timer, struct bus, recheck);
    struct streams list = {0};
    const int64_t now_s = (int64_t)time(NULL);
    collect(b, &list);
    for (size_t i = 0; i < list.count; i++) {
        struct stream *s = &list.all[i];
        struct thole_status st = {0};
        bool spared = s->inbound != NULL && now_s > s->certificate->c.not_after_s;
        if (!spared && bus__tls_recheck(b->o.tls, s->certificate, &st) != THOLE_OK) {
            end(s, &st);
        }
        bus__certificate_unref(s->certificate);
        if (s->client != NULL) {
            bus__rpc_unref(s->client);
        } else {
            bus__inbound_unref(s->inbound);
        }
    }
    free(list.all);
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
