/* The network: a matrix of directed links. Frames in flight belong to the network: they arrive even
 * if their sender is gone, and reach the next incarnation of a host that restarts. */
#include <stdlib.h>

#include "shards/sim/sim_internal.h"

struct packet {
    struct sim_host *from, *to;
    uint64_t incarnation;
    enum engine_lane lane;
    struct bufslice frame;
};

static void arrive(struct sim *s, void *arg)
{
    struct packet *p = arg;
    struct sim_host *to = p->to;
    struct sim_link *link = &s->links[p->from->id][to->id];
    if (s->now_ns < to->paused_until_ns) {
        /* Frames that waited in sockets are read in any order of the peers. */
        uint64_t at = to->paused_until_ns + rand_below(&s->rand[SIM_PAUSE], 30 * NS_PER_MS);
        if (at < link->resumed_ns) {
            at = link->resumed_ns;
        }
        link->resumed_ns = at;
        sim__at(s, at, arrive, p);
        return;
    }
    s->in_flight--;
    /* A cut may come before or after the frames in flight. */
    bool lost = link->cut && rand_chance(&s->rand[SIM_PARTITION], 0.5);
    if (to->engine != NULL && !to->ending && !lost) {
        engine_deliver(to->engine, &p->from->uuid, p->incarnation, p->lane, p->frame);
    } else {
        bufslice_unref(p->frame);
    }
    free(p);
}

static uint64_t due(struct sim *s, struct sim_link *link, enum engine_lane lane)
{
    const struct sim_config *c = &s->c;
    uint64_t at = s->now_ns + c->delay_min_ns;
    if (c->delay_max_ns > c->delay_min_ns) {
        at += rand_below(&s->rand[SIM_RAND_NET], c->delay_max_ns - c->delay_min_ns);
    }
    if (link->delay > 0 && rand_chance(&s->rand[SIM_DELAY], link->delay)) {
        at += rand_below(&s->rand[SIM_DELAY], 2 * (uint64_t)c->election_ms * NS_PER_MS);
    }
    if (link->clogged_until_ns > at) {
        at = link->clogged_until_ns;
    }
    if (link->reorder > 0 && rand_chance(&s->rand[SIM_REORDER], link->reorder)) {
        return at + rand_below(&s->rand[SIM_REORDER], 20 * NS_PER_MS);
    }
    if (at < link->last_due_ns[lane]) {
        at = link->last_due_ns[lane];
    }
    link->last_due_ns[lane] = at;
    return at;
}

static void post(struct sim_host *from, struct sim_host *to, struct sim_link *link,
                 enum engine_lane lane, struct bufslice frame)
{
    struct packet *p = xmalloc(sizeof *p);
    *p = (struct packet){from, to, from->incarnation, lane, frame};
    from->s->in_flight++;
    sim__at(from->s, due(from->s, link, lane), arrive, p);
}

enum thole_code sim__network_send(void *ctx, const struct uuid *uuid, enum engine_lane lane,
                                  struct bufslice frame)
{
    struct sim_host *h = ctx;
    struct sim *s = h->s;
    int to = uuid->bytes[15] - 1;
    ASSERT(to >= 0 && to < s->c.hosts);
    struct sim_link *link = &s->links[h->id][to];
    s->report->frames++;
    sim__mix(s, (uint64_t)h->id << 8 | (uint64_t)to, frame.bytes.size);
    if (lane != ENGINE_LANE_SNAPSHOT) {
        sim__check_frame(s, h, frame);
    } else {
        sim__check_chunk(s, h, frame);
    }
    if (link->cut || (link->loss > 0 && rand_chance(&s->rand[SIM_LOSS], link->loss))) {
        bufslice_unref(frame);
        return THOLE_UNAVAILABLE;
    }
    if (link->duplicate > 0 && rand_chance(&s->rand[SIM_DUPLICATE], link->duplicate)) {
        post(h, &s->hosts[to], link, lane, bufslice_ref(frame));
    }
    post(h, &s->hosts[to], link, lane, frame);
    return THOLE_OK;
}

void sim__network_init(struct sim *s)
{
    for (int a = 0; a < s->c.hosts; a++) {
        for (int b = 0; b < s->c.hosts; b++) {
            s->links[a][b] = (struct sim_link){
                .loss = s->c.loss,
                .duplicate = s->c.duplicate,
                .delay = s->c.delay,
                .reorder = s->c.reorder,
            };
        }
    }
}

void sim__network_heal(struct sim *s)
{
    for (int a = 0; a < s->c.hosts; a++) {
        for (int b = 0; b < s->c.hosts; b++) {
            s->links[a][b].cut = false;
        }
    }
}

void sim__network_drop_all(struct sim *s)
{
    for (size_t i = 0; i < s->event_count; i++) {
        if (s->events[i].fire != arrive) {
            continue;
        }
        struct packet *p = s->events[i].arg;
        bufslice_unref(p->frame);
        free(p);
    }
    s->event_count = 0;
}
