/* A member whose replica of shard zero cannot go on gets a new one. See replace_zero.h. */
#include "agent/join/replace_zero.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/core/availability.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "base/assert.h"
#include "base/log.h"
#include "proto/decode.h"

#define PAUSE_MS 300
#define SILENT_PAUSE_MS 2000
/* A member answers once the old replica is out of the group and a new one is placed. */
#define REPLACE_ASK_MS 2000

struct zero_replacement {
    struct agent *agent;
    uint64_t replica;
    bool failed; /* else it only hears no leader, and may be a member as before */
    char failure[THOLE_STATUS_MESSAGE_BYTES];
};

/* Durable before the restart, which creates the new replica and deletes the old one. */
static enum thole_code save_new_replica(struct agent *a, uint64_t replica, struct thole_status *st)
{
    pthread_mutex_lock(&a->lock);
    struct identity *i = xmalloc(sizeof *i);
    *i = a->identity;
    pthread_mutex_unlock(&a->lock);
    i->zero_replica = replica;
    i->zero_created = false;
    enum thole_code code = datadir_save_identity(&a->dir, i, st);
    free(i);
    return code;
}

static const char *reason_of(const struct engine_replica_status *zero)
{
    return zero->failed            ? zero->failure
           : zero->removed_by_peer ? "it was removed from the group"
                                   : "it hears no leader";
}

static void accept_replacement(struct zero_replacement *r, const thole_bus_v1_JoinReply *reply)
{
    struct thole_status st = {0};
    uint64_t replica = thole_bus_v1_JoinReply_replica_id(reply);
    join__learn_hosts(r->agent, reply);
    if (save_new_replica(r->agent, replica, &st) != THOLE_OK) {
        agent__fail(r->agent, &st);
    } else {
        agent__request_restart(r->agent,
                               "replica %" PRIu64 " of shard zero failed (%.120s); replica %" PRIu64
                               " replaces it",
                               r->replica, r->failure, replica);
    }
}

/* Since the last round. False: it hears a leader again. */
static bool look_again(struct zero_replacement *r)
{
    struct engine_replica_status s;
    if (r->failed || !engine_shard_status(r->agent->engine, REGISTRY_SHARD_ID, &s)) {
        return true;
    }
    if (s.failed || s.removed_by_peer) {
        r->failed = true;
        snprintf(r->failure, sizeof r->failure, "%s", reason_of(&s));
    }
    return r->failed || agent_view_age_ms(r->agent) > 0;
}

/* Ask each known host once. True when there is a new replica, or the host has failed. */
static bool replace_round(struct zero_replacement *r)
{
    struct agent *a = r->agent;
    struct buf *request = join__encode_request(a, r->failed ? r->replica : 0, r->failure);
    char(*addresses)[ADDRESS_BYTES];
    size_t count = join__addresses_list(a->peer_addresses, &addresses);
    bool done = false;
    bool known = false; /* somebody said which one it has */
    for (size_t i = 0; i < count && !done && !known && !agent_is_stopping(a); i++) {
        struct thole_status st = {0};
        struct buf *reply = NULL;
        struct bus_ask_peer peer;
        enum thole_code code =
            bus_ask(a->bus, addresses[i], METHOD_JOIN, slice_of(request->data, request->size),
                    REPLACE_ASK_MS, &reply, &peer, &st);
        if (code == THOLE_OK) {
            upb_Arena *arena = upb_Arena_New();
            const thole_bus_v1_JoinReply *parsed =
                PROTO_DECODE(thole_bus_v1_JoinReply, slice_of(reply->data, reply->size), arena);
            done = parsed != NULL && thole_bus_v1_JoinReply_replica_id(parsed) > r->replica;
            known = !r->failed;
            if (done) {
                accept_replacement(r, parsed);
            }
            upb_Arena_Free(arena);
            buf_unref(reply);
        } else if (agent_is_stopping(a)) {
            done = true;
        } else if (join__is_permanent_refusal(&st)) {
            agent__fail(a, &st);
            done = true;
        } else {
            agent__set_waiting_for(
                a, "its replica of shard zero failed (%.120s); no replacement from %s yet: %.120s",
                r->failure, addresses[i], st.message);
        }
    }
    free(addresses);
    buf_unref(request);
    return done;
}

static void *replace_main(void *ctx)
{
    struct zero_replacement *r = ctx;
    struct agent *a = r->agent;
    pthread_setname_np(pthread_self(), "replace-zero");
    (void)log_context_host(agent_name(a));
    bool done = false;
    bool lost = true;
    while (!done && (lost = look_again(r))) {
        done = replace_round(r) || !join__pause(a, r->failed ? PAUSE_MS : SILENT_PAUSE_MS);
    }
    if (!lost) { /* another time it may be needed again */
        LOG_INFO(AGENT, "replica %" PRIu64 " of shard zero hears a leader again", r->replica);
        atomic_store(&a->replace_zero_over, true);
    }
    free(r);
    return NULL;
}

void join__replace_zero_start(struct agent *a, const struct engine_replica_status *zero)
{
    if (a->replace_zero_running && atomic_load(&a->replace_zero_over)) {
        join__replace_zero_stop(a);
    }
    if (a->replace_zero_running) {
        return;
    }
    ASSERT(zero->failed || zero->removed_by_peer || !zero->voter);
    atomic_store(&a->replace_zero_over, false);
    struct zero_replacement *r = xcalloc(1, sizeof *r);
    r->agent = a;
    r->replica = zero->replica_id;
    r->failed = zero->failed || zero->removed_by_peer;
    snprintf(r->failure, sizeof r->failure, "%s", reason_of(zero));
    LOG_WARN(AGENT, "replica %" PRIu64 " of shard zero %s error=\"%s\"; %s", r->replica,
             r->failed ? "failed" : "hears nothing", r->failure,
             r->failed ? "requesting a replacement"
                       : "asking the others whether this host has another one");
    a->replace_zero_running = pthread_create(&a->replace_zero_thread, NULL, replace_main, r) == 0;
    if (!a->replace_zero_running) {
        free(r);
    }
}

void join__replace_zero_stop(struct agent *a)
{
    if (a->replace_zero_running) {
        pthread_join(a->replace_zero_thread, NULL);
    }
    a->replace_zero_running = false;
}
