/* Admitting hosts. See admission.h.
 *
 *   request -> AdmitHost proposed -> accepted at revision R -> the view is at R -> reply
 *
 * Every step is idempotent: AdmitHost of a member changes only what the host reports about itself,
 * so a host that lost the reply retries. */
#include "agent/join/admission.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/reconciler.h"
#include "base/assert.h"
#include "base/log.h"
#include "proto/decode.h"

#define JOIN_NS (8 * NS_PER_S)

struct joiner {
    struct worker_msg msg;
    struct joiner *next;
    struct agent *agent;
    struct bus_request *request;
    struct bufslice command; /* until the proposal */
    struct uuid host;
    char name[LIMIT_NAME_BYTES + 1];
    uint64_t failed; /* a member's failed replica of shard zero, to be replaced; 0: a new host */
    bool proposed;
    struct thole_status outcome;
    uint64_t revision, deadline_ns;
};

struct admissions {
    struct agent *agent;
    struct joiner *waiting;
};

static void refuse(struct joiner *j, const struct thole_status *st)
{
    bus_answer_failure(j->request, st);
    bufslice_unref(j->command);
    free(j);
}

void join__admission_refuse(struct worker_msg *m)
{
    struct thole_status st = {0};
    thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_STOPPED, __FILE__, __LINE__,
                     "this member is stopping; retry on another member");
    refuse(CONTAINER_OF(m, struct joiner, msg), &st);
}

static bool read_request(struct joiner *j, struct slice body, struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_JoinRequest *q = PROTO_DECODE(thole_bus_v1_JoinRequest, body, arena);
    const thole_v1_Host *host = q != NULL ? thole_bus_v1_JoinRequest_host(q) : NULL;
    bool ok = host != NULL && uuid_parse(registry_str(thole_v1_Host_id(host)), &j->host) &&
              registry_name_is_valid(registry_str(thole_v1_Host_name(host)));
    if (ok) {
        upb_StringView name = thole_v1_Host_name(host);
        memcpy(j->name, name.data, name.size < sizeof j->name ? name.size : sizeof j->name - 1);
        j->failed = thole_bus_v1_JoinRequest_failed_replica(q);
        j->command =
            reconciler_admit_command(host, "join", j->failed, thole_bus_v1_JoinRequest_failure(q),
                                     thole_bus_v1_JoinRequest_lineage(q), arena);
    } else {
        thole_status_set(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST, __FILE__, __LINE__,
                         "malformed request to join");
    }
    upb_Arena_Free(arena);
    return ok;
}

/* The first row of a host fixes its id and name, and later certificates are compared with them. So
 * a host may only ask to join as itself. */
static bool asks_for_itself(struct joiner *j, struct thole_status *st)
{
    struct bus_identity who;
    bus_request_identity(j->request, &who);
    bool same_name = agent_tls(j->agent) == NULL || strcmp(who.name, j->name) == 0;
    if (uuid_equal(&who.host_id, &j->host) && same_name) {
        return true;
    }
    thole_status_set(st, THOLE_PERMISSION_DENIED, THOLE_REASON_WRONG_HOST, __FILE__, __LINE__,
                     same_name
                         ? "a host may ask to join for itself only: the request is about "
                           "another id than its hello"
                         : "a host joins under the name in its certificate, which is \"%.64s\"",
                     who.name);
    return false;
}

struct worker_msg *join__admission_new(struct agent *a, struct bus_request *request)
{
    struct thole_status st = {0};
    struct uuid cluster;
    struct joiner *j = xcalloc(1, sizeof *j);
    j->agent = a;
    j->request = request;
    j->deadline_ns = clock_now(executor_clock(a->executor)) + JOIN_NS;
    if (!agent_cluster(a, &cluster)) {
        thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                         "this host is not a member of a cluster yet");
        refuse(j, &st);
        return NULL;
    }
    if (!read_request(j, bus_request_body(request), &st) || !asks_for_itself(j, &st)) {
        refuse(j, &st);
        return NULL;
    }
    return &j->msg;
}

/* May run on any thread. */
static void admitted(void *ctx, const struct thole_status *st,
                     const thole_registry_v1_Result *result)
{
    struct joiner *j = ctx;
    j->outcome = *st;
    j->revision = st->code == THOLE_OK ? thole_registry_v1_Result_revision(result) : 0;
    if (!agent__reconciler_repost_join(j->agent->reconciler, &j->msg)) {
        join__admission_refuse(&j->msg);
    }
}

void join__admissions_handle(struct admissions *js, struct worker_msg *m, uint64_t now_ns)
{
    struct joiner *j = CONTAINER_OF(m, struct joiner, msg);
    (void)now_ns;
    if (!j->proposed) {
        struct bufslice command = j->command;
        j->command = (struct bufslice){0};
        j->proposed = true;
        agent_command(js->agent, command, j->deadline_ns, admitted, j);
    } else if (j->outcome.code != THOLE_OK) {
        LOG_INFO(AGENT, "host refused name=%s error=\"%s\"", j->name, j->outcome.message);
        refuse(j, &j->outcome);
    } else {
        j->next = js->waiting;
        js->waiting = j;
    }
}

/* ---- Answering ------------------------------------------------------------------------------- */

static uint64_t zero_replica(const struct registry_view *v, const struct uuid *host)
{
    struct registry_replica_buf replica_buf;
    const thole_v1_Replica *r;
    for (uint64_t after = 0;
         (r = registry_next_replica_of_host(v, host, after, &replica_buf)) != NULL;
         after = thole_v1_Replica_id(r)) {
        if (thole_v1_Replica_shard_id(r) == REGISTRY_SHARD_ID &&
            thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_RUN) {
            return thole_v1_Replica_id(r);
        }
    }
    return 0;
}

static bool answer(struct joiner *j, const struct registry_view *v)
{
    ASSERT(j->proposed && j->outcome.code == THOLE_OK);
    struct uuid cluster;
    uint64_t replica = zero_replica(v, &j->host);
    if (replica == 0 || replica == j->failed || !registry_view_cluster(v, &cluster)) {
        return false;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_JoinReply *reply = thole_bus_v1_JoinReply_new(arena);
    thole_bus_v1_JoinReply_set_cluster_id(
        reply, upb_StringView_FromDataAndSize((const char *)cluster.bytes, sizeof cluster.bytes));
    thole_bus_v1_JoinReply_set_replica_id(reply, replica);
    size_t n = 0;
    const thole_v1_Host *h;
    for (struct slice after = {0}; (h = registry_next_host(v, after)) != NULL;
         after = registry_str(thole_v1_Host_name(h))) {
        n++;
    }
    struct thole_v1_Host **rows = thole_bus_v1_JoinReply_resize_hosts(reply, n, arena);
    size_t i = 0;
    for (struct slice after = {0}; (h = registry_next_host(v, after)) != NULL && i < n;
         after = registry_str(thole_v1_Host_name(h))) {
        rows[i++] = (thole_v1_Host *)(uintptr_t)h; /* the encoder only reads it */
    }
    size_t size = 0;
    const char *bytes = thole_bus_v1_JoinReply_serialize(reply, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    bus_answer(j->request, (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)},
               false);
    LOG_INFO(AGENT, "host admitted name=%s zero_replica=%" PRIu64, j->name, replica);
    free(j);
    return true;
}

uint64_t join__admissions_step(struct admissions *js, uint64_t now_ns)
{
    uint64_t next = CLOCK_NEVER;
    if (js->waiting == NULL) {
        return next;
    }
    struct registry_view *v = registry_view_acquire(js->agent->registry);
    for (struct joiner **at = &js->waiting; *at != NULL;) {
        struct joiner *j = *at, *after = j->next;
        if (registry_view_revision(v) >= j->revision && answer(j, v)) {
            *at = after;
        } else if (now_ns >= j->deadline_ns) {
            struct thole_status st = {0};
            thole_status_set(&st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY, __FILE__, __LINE__,
                             j->failed != 0 && registry_view_revision(v) >= j->revision
                                 ? "the replica of shard zero is not replaced yet; retry"
                                 : "admitted, but the view of this member lags behind; retry");
            refuse(j, &st);
            *at = after;
        } else {
            next = j->deadline_ns < next ? j->deadline_ns : next;
            at = &j->next;
        }
    }
    registry_view_release(v);
    return next;
}

struct admissions *join__admissions_new(struct agent *a)
{
    struct admissions *js = xcalloc(1, sizeof *js);
    js->agent = a;
    return js;
}

void join__admissions_stop(struct admissions *js)
{
    while (js->waiting != NULL) {
        struct joiner *j = js->waiting;
        js->waiting = j->next;
        join__admission_refuse(&j->msg);
    }
}

void join__admissions_free(struct admissions *js)
{
    free(js);
}
