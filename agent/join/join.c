/* Joining an existing cluster: ask members in turn until one admits this host, then start
 * passively: the replica votes for nobody until the group's leader adds it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "base/log.h"
#include "proto/decode.h"

#define ASK_MS 10000
#define CHECK_MS 500
#define PAUSE_MS 300
/* A member has this host's name. It may be this host before its disk was lost, so wait until that
 * member is removed; but while it is alive, the name is taken. */
#define SAME_NAME_PAUSE_MS 2000
#define SAME_NAME_ROUNDS 8

struct buf *join__encode_request(struct agent *a, uint64_t failed_replica, const char *failure)
{
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_JoinRequest *q = thole_bus_v1_JoinRequest_new(arena);
    thole_bus_v1_JoinRequest_set_host(q, agent__host_row(a, arena));
    thole_bus_v1_JoinRequest_set_failed_replica(q, failed_replica);
    thole_bus_v1_JoinRequest_set_failure(q, upb_StringView_FromString(failure));
    thole_bus_v1_JoinRequest_set_lineage(q, agent__lineage(a, arena));
    size_t size = 0;
    const char *bytes = thole_bus_v1_JoinRequest_serialize(q, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    return b;
}

/* Durable before this host is a member, so that a restart finds the other hosts. */
void join__learn_hosts(struct agent *a, const thole_bus_v1_JoinReply *reply)
{
    size_t n = 0;
    const struct thole_v1_Host *const *hosts = thole_bus_v1_JoinReply_hosts(reply, &n);
    for (size_t i = 0; i < n; i++) {
        struct uuid id;
        char address[ADDRESS_BYTES];
        const thole_v1_HostStatus *st = thole_v1_Host_status(hosts[i]);
        upb_StringView v = st != NULL ? thole_v1_HostStatus_address(st) : (upb_StringView){0};
        if (v.size == 0 || v.size >= sizeof address ||
            !uuid_parse(registry_str(thole_v1_Host_id(hosts[i])), &id)) {
            continue;
        }
        snprintf(address, sizeof address, "%.*s", (int)v.size, v.data);
        join__addresses_learn(a->peer_addresses, &id, thole_v1_HostStatus_incarnation(st), address,
                              ADDRESSES_RELAYED);
    }
    struct thole_status st = {0};
    if (join__addresses_save(a->peer_addresses, &st) != THOLE_OK) {
        LOG_WARN(AGENT, "cannot write the peers file error=\"%s\"; retrying after the next change",
                 st.message);
    }
}

static enum thole_code accept_reply(struct agent *a, struct slice body, struct thole_status *st)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_JoinReply *reply = PROTO_DECODE(thole_bus_v1_JoinReply, body, arena);
    upb_StringView cluster = reply != NULL ? thole_bus_v1_JoinReply_cluster_id(reply)
                                           : upb_StringView_FromDataAndSize(NULL, 0);
    uint64_t replica = reply != NULL ? thole_bus_v1_JoinReply_replica_id(reply) : 0;
    enum thole_code code = THOLE_OK;
    if (cluster.size != sizeof(struct uuid) || replica == 0) {
        code = THOLE_FAIL(st, THOLE_INTERNAL, THOLE_REASON_BAD_REQUEST,
                          "malformed reply to a request to join");
    } else {
        struct identity *i = xmalloc(sizeof *i);
        *i = a->identity;
        memcpy(i->cluster.bytes, cluster.data, sizeof i->cluster.bytes);
        i->zero_replica = replica;
        /* The lanes need the cluster id before they are opened. */
        bus_set_cluster(a->bus, &i->cluster);
        join__learn_hosts(a, reply);
        code = join__bootstrap_become_member(a, i, st);
        free(i);
    }
    upb_Arena_Free(arena);
    return code;
}

struct join {
    struct agent *agent;
    const char *addresses[DATADIR_MEMBERS_MAX];
    size_t count;
    uint32_t same_name; /* rounds in which a live host had the name */
    uint32_t pause_ms;  /* until the next round */
};

bool join__is_permanent_refusal(const struct thole_status *st)
{
    return st->reason == THOLE_REASON_REMOVED || st->reason == THOLE_REASON_STALE_INCARNATION ||
           st->code == THOLE_INVALID_ARGUMENT;
}

/* Returns true if retrying is useless. */
static bool note_refusal(struct join *j, size_t i, const struct thole_status *st)
{
    agent__set_waiting_for(j->agent, "joining: %s refused: %.280s", j->addresses[i], st->message);
    if (st->reason == THOLE_REASON_EXISTS) {
        j->pause_ms = SAME_NAME_PAUSE_MS;
        j->same_name = st->code == THOLE_ALREADY_EXISTS ? j->same_name + 1 : 0;
        return j->same_name > SAME_NAME_ROUNDS;
    }
    return join__is_permanent_refusal(st);
}

/* Ask each address once. True when the host is a member or has failed. */
static bool join_round(struct join *j)
{
    struct agent *a = j->agent;
    struct buf *request = join__encode_request(a, 0, "");
    bool done = false;
    j->pause_ms = PAUSE_MS;
    for (size_t i = 0; i < j->count && !done && !agent_is_stopping(a); i++) {
        struct thole_status st = {0};
        struct buf *reply = NULL;
        struct bus_ask_peer peer;
        enum thole_code code =
            bus_ask(a->bus, j->addresses[i], METHOD_JOIN, slice_of(request->data, request->size),
                    ASK_MS, &reply, &peer, &st);
        if (code == THOLE_OK) {
            code = accept_reply(a, slice_of(reply->data, reply->size), &st);
            buf_unref(reply);
            done = true;
            if (code != THOLE_OK && !agent_is_stopping(a)) {
                agent__fail(a, &st);
            }
        } else if (agent_is_stopping(a)) {
            done = true;
        } else if (note_refusal(j, i, &st)) {
            agent__fail(a, &st);
            done = true;
        } else if (st.reason == THOLE_REASON_EXISTS) {
            break; /* other members would answer the same */
        }
    }
    buf_unref(request);
    return done;
}

void join__run(struct agent *a)
{
    char *copy = NULL;
    struct thole_status st = {0};
    struct join *j = xcalloc(1, sizeof *j);
    j->agent = a;
    if (address_list_split(a->addresses, &copy, j->addresses, DATADIR_MEMBERS_MAX, &j->count,
                           &st) != THOLE_OK) {
        agent__fail(a, &st);
    } else {
        while (!join_round(j) && join__pause(a, j->pause_ms)) {
        }
    }
    free(copy);
    free(j);
}

/* Best effort: an address that does not answer, or has no cluster yet, proves nothing. */
enum thole_code join__check_cluster(struct agent *a, struct thole_status *st)
{
    char *copy = NULL;
    const char *addresses[DATADIR_MEMBERS_MAX];
    size_t n;
    enum thole_code code =
        address_list_split(a->addresses, &copy, addresses, DATADIR_MEMBERS_MAX, &n, st);
    for (size_t i = 0; code == THOLE_OK && i < n; i++) {
        struct buf *reply = NULL;
        struct bus_ask_peer peer = {0};
        struct thole_status why = {0};
        enum thole_code asked = bus_ask(a->bus, addresses[i], METHOD_PEER_BOOTSTRAP,
                                        (struct slice){0}, CHECK_MS, &reply, &peer, &why);
        bool other = asked == THOLE_OK ? !uuid_is_nil(&peer.cluster_id) &&
                                             !uuid_equal(&peer.cluster_id, &a->identity.cluster)
                                       : why.reason == THOLE_REASON_WRONG_CLUSTER;
        if (asked == THOLE_OK) {
            buf_unref(reply);
        }
        if (other) {
            code =
                THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                           "the data directory %s belongs to another cluster than the host at %s",
                           a->dir.path, addresses[i]);
        } else if (asked == THOLE_OK) {
            break;
        }
    }
    free(copy);
    return code;
}
