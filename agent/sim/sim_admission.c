/* Decides which hosts a simulated host accepts, by the rules of bus/inbound_streams.c. */
#include <stdio.h>
#include <string.h>

#include "agent/sim/sim_bus.h"
#include "base/assert.h"
#include "bus/hello_rules.h"

void sim_bus__hello(const struct bus *b, struct hello *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->host = b->o.host_id;
    ret->cluster = b->cluster;
    ret->incarnation = b->o.incarnation;
    ret->lineage = b->o.lineage;
    snprintf(ret->address, sizeof ret->address, "%s", b->address);
}

static struct seen *seen_of(struct bus *b, const struct uuid *host)
{
    for (size_t i = 0; i < b->seen_count; i++) {
        if (uuid_equal(&b->seen[i].host, host)) {
            return &b->seen[i];
        }
    }
    return NULL;
}

void sim_bus__note_seen(struct bus *b, const struct hello *h)
{
    struct seen *s = seen_of(b, &h->host);
    if (s == NULL) {
        ASSERT(b->seen_count < SIM_SEEN_MAX);
        s = &b->seen[b->seen_count++];
        *s = (struct seen){.host = h->host};
    }
    if (h->incarnation <= s->incarnation) {
        return;
    }
    bool known = s->incarnation > 0;
    s->incarnation = h->incarnation;
    s->lineage = h->lineage;
    memcpy(s->address, h->address, sizeof s->address);
    if (known) {
        sim_bus__break_all(b->life, &h->host, h->incarnation,
                           "a newer process of this host has called");
    }
}

enum thole_code sim_bus__check_start(struct bus *b, const struct hello *h, struct thole_status *st)
{
    struct seen *s = seen_of(b, &h->host);
    struct known_start known = {.address = ""};
    struct recorded_start recorded = {.asked = s != NULL && s->incarnation > 0};
    if (recorded.asked) {
        recorded.found = b->o.handler.recorded(b->o.handler.ctx, &h->host, &recorded.incarnation,
                                               &recorded.number);
        known = (struct known_start){
            .incarnation = s->incarnation, .number = s->lineage.start, .address = s->address};
        enum known_verdict v = hello_judge_known(&recorded, &s->lineage, &known);
        if (v == KNOWN_IS_FORGOTTEN || (v == KNOWN_STAYS_IF_CONNECTED &&
                                        !sim_bus__is_connected(b, &h->host, s->incarnation))) {
            s->incarnation = 0;
            sim_bus__break_all(b->life, &h->host, known.incarnation + 1,
                               "a copy of this host has called");
            known = (struct known_start){.address = ""};
        }
    }
    return hello_check_start(&known, h->incarnation, &h->lineage, h->address, st);
}

static bool same_cluster(const struct bus *b, const struct hello *h)
{
    return !uuid_is_nil(&b->cluster) && uuid_equal(&b->cluster, &h->cluster);
}

void sim_bus__met(struct bus *b, const struct hello *h)
{
    if (b->o.handler.met != NULL && !uuid_is_nil(&h->host) && same_cluster(b, h) &&
        sim_bus__check_start(b, h, NULL) == THOLE_OK) {
        b->o.handler.met(b->o.handler.ctx, &h->host, h->incarnation, h->address);
    }
}

enum thole_code sim_bus__admit(struct bus *b, const struct hello *h, bool stream,
                               struct thole_status *st)
{
    if (b->draining || b->stopped) {
        return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED,
                          "this host is shutting down");
    }
    if (!uuid_is_nil(&h->callee) && !uuid_equal(&h->callee, &b->o.host_id)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "another host lives at this address now");
    }
    enum thole_code code =
        hello_check_cluster(&b->cluster, &h->cluster, !uuid_is_nil(&h->host), stream, st);
    if (code != THOLE_OK || uuid_is_nil(&h->host)) {
        return code;
    }
    code = sim_bus__check_start(b, h, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (uuid_equal(&h->host, &b->o.host_id)) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_HOST,
                          "the caller has the host id of the callee; is its disk a copy?");
    }
    if (b->o.handler.admit != NULL && (stream || same_cluster(b, h))) {
        const struct bus_identity who = {
            .kind = BUS_HOST, .host_id = h->host, .name = "", .address = h->address};
        code = b->o.handler.admit(b->o.handler.ctx, &who, h->incarnation, &h->lineage, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    if (stream) {
        sim_bus__note_seen(b, h);
    }
    sim_bus__met(b, h);
    return THOLE_OK;
}
