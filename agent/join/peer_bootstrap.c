/* Forming a new cluster with the hosts of --peers. README.md proves that at most one cluster forms.
 * The rules:
 *
 *   P1  A host promises only a list of (address, host id) of all peers. In the same round each peer
 *       has answered with its id, and all have the same addresses.
 *   P2  The promise is durable before any other host learns it, and never changes.
 *   P3  A host forms cluster H (the hash of the list) only when every host of the list has answered
 *       that it promised H, or one of them that it has formed H.
 *   P4  It forms with exactly the list of its promise.
 *
 * Hosts ask each other in rounds until they have formed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/tags.h"
#include "agent/join/join.h"
#include "agent/join/peer_bootstrap.h"
#include "base/address.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/log.h"
#include "proto/decode.h"

#define ASK_MS 1000
#define PAUSE_MS 150

struct peer_bootstrap {
    struct agent *agent;
    char *copy;
    const char *addresses[DATADIR_MEMBERS_MAX]; /* sorted */
    size_t count;

    pthread_mutex_t lock;
    struct member_list promise; /* cluster nil: none yet */
};

/* A peer's answer in this round. */
struct answer {
    bool there, same_peers;
    struct uuid host, promised, formed; /* nil: none */
    char name[LIMIT_NAME_BYTES + 1];
    char tags[DATADIR_TAGS_BYTES];
};

struct uuid join__peer_bootstrap_cluster_id(const struct member_list *l)
{
    struct uuid id;
    struct bytes text = {0};
    for (uint32_t i = 0; i < l->count; i++) {
        ASSERT(i == 0 || strcmp(l->members[i - 1].address, l->members[i].address) < 0);
        bytes_append_str(&text, l->members[i].address);
        bytes_append(&text, "", 1);
        bytes_append(&text, l->members[i].host.bytes, sizeof l->members[i].host.bytes);
    }
    /* Host ids are random, so two independent 64-bit hashes suffice. */
    put_be64(id.bytes, hash64(text.data, text.size, 0));
    put_be64(id.bytes + 8, hash64(text.data, text.size, UINT64_C(0x74686f6c65)));
    bytes_deinit(&text);
    return id;
}

/* ---- Messages -------------------------------------------------------------------------------- */

static upb_StringView view_of_uuid(const struct uuid *u)
{
    bool nil = uuid_is_nil(u);
    return upb_StringView_FromDataAndSize(nil ? NULL : (const char *)u->bytes,
                                          nil ? 0 : sizeof u->bytes);
}

static void uuid_of_view(upb_StringView v, struct uuid *ret)
{
    memset(ret, 0, sizeof *ret);
    if (v.size == sizeof ret->bytes) {
        memcpy(ret->bytes, v.data, v.size);
    }
}

static struct buf *encode_request(struct peer_bootstrap *m)
{
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_PeerBootstrapRequest *q = thole_bus_v1_PeerBootstrapRequest_new(arena);
    thole_bus_v1_PeerBootstrapRequest_set_host(q, agent__host_row(m->agent, arena));
    for (size_t i = 0; i < m->count; i++) {
        thole_bus_v1_PeerBootstrapRequest_add_peers(q, upb_StringView_FromString(m->addresses[i]),
                                                    arena);
    }
    thole_bus_v1_PeerBootstrapRequest_set_promised(q, view_of_uuid(&m->promise.cluster));
    size_t size = 0;
    const char *bytes = thole_bus_v1_PeerBootstrapRequest_serialize(q, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    return b;
}

void join__peer_bootstrap_serve(struct agent *a, struct bus_request *request)
{
    struct peer_bootstrap *m = a->peer_bootstrap;
    struct uuid formed = {{0}};
    upb_Arena *arena = upb_Arena_New();
    thole_bus_v1_PeerBootstrapReply *r = thole_bus_v1_PeerBootstrapReply_new(arena);
    thole_bus_v1_PeerBootstrapReply_set_host(r, agent__host_row(a, arena));
    if (agent_cluster(a, &formed)) {
        thole_bus_v1_PeerBootstrapReply_set_formed_cluster_id(r, view_of_uuid(&formed));
    }
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->count; i++) {
        thole_bus_v1_PeerBootstrapReply_add_peers(r, upb_StringView_FromString(m->addresses[i]),
                                                  arena);
    }
    struct uuid promised = m->promise.cluster;
    pthread_mutex_unlock(&m->lock);
    thole_bus_v1_PeerBootstrapReply_set_promised(r, view_of_uuid(&promised));
    size_t size = 0;
    const char *bytes = thole_bus_v1_PeerBootstrapReply_serialize(r, arena, &size);
    struct buf *b = buf_copy(bytes, size);
    upb_Arena_Free(arena);
    bus_answer(request, (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)}, false);
}

static bool has_same_addresses(const struct peer_bootstrap *m, const upb_StringView *peers,
                               size_t n)
{
    if (n != m->count) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (peers[i].size != strlen(m->addresses[i]) ||
            memcmp(peers[i].data, m->addresses[i], peers[i].size) != 0) {
            return false;
        }
    }
    return true;
}

/* False if the registry would refuse the tags, and with them the cluster's first command. */
static bool read_tags(const thole_v1_Host *host, char *to, size_t size)
{
    const thole_v1_HostSpec *spec = thole_v1_Host_spec(host);
    const thole_v1_HostSpec_TagsEntry *e;
    struct bytes text = {0};
    bool ok = true;
    for (size_t it = kUpb_Map_Begin;
         spec != NULL && (e = thole_v1_HostSpec_tags_next(spec, &it)) != NULL;) {
        if (text.size > 0) {
            bytes_append_str(&text, ",");
        }
        size_t begin = text.size;
        bytes_append_slice(&text, registry_str(thole_v1_HostSpec_TagsEntry_key(e)));
        bytes_append_str(&text, "=");
        bytes_append_slice(&text, registry_str(thole_v1_HostSpec_TagsEntry_value(e)));
        ok = ok && agent__tags_problem(slice_of(text.data + begin, text.size - begin)) == NULL;
    }
    ok = ok && text.size < size;
    if (ok && text.size > 0) {
        memcpy(to, text.data, text.size);
    }
    to[ok ? text.size : 0] = 0;
    bytes_deinit(&text);
    return ok;
}

static bool read_reply(const struct peer_bootstrap *m, struct slice body, struct answer *ret)
{
    upb_Arena *arena = upb_Arena_New();
    const thole_bus_v1_PeerBootstrapReply *r =
        PROTO_DECODE(thole_bus_v1_PeerBootstrapReply, body, arena);
    const thole_v1_Host *host = r != NULL ? thole_bus_v1_PeerBootstrapReply_host(r) : NULL;
    bool ok = host != NULL && uuid_parse(registry_str(thole_v1_Host_id(host)), &ret->host) &&
              registry_name_is_valid(registry_str(thole_v1_Host_name(host)));
    if (ok) {
        size_t n = 0;
        upb_StringView name = thole_v1_Host_name(host);
        const upb_StringView *peers = thole_bus_v1_PeerBootstrapReply_peers(r, &n);
        snprintf(ret->name, sizeof ret->name, "%.*s", (int)name.size, name.data);
        ok = read_tags(host, ret->tags, sizeof ret->tags);
        ret->same_peers = has_same_addresses(m, peers, n);
        uuid_of_view(thole_bus_v1_PeerBootstrapReply_promised(r), &ret->promised);
        uuid_of_view(thole_bus_v1_PeerBootstrapReply_formed_cluster_id(r), &ret->formed);
        ret->there = ok;
    }
    upb_Arena_Free(arena);
    return ok;
}

/* ---- A round --------------------------------------------------------------------------------- */

/* Rows are made of the answers: each is of the host whose certificate was shown. */
static bool speaks_for_itself(struct agent *a, const struct bus_ask_peer *peer,
                              const struct answer *r)
{
    return agent_tls(a) == NULL ||
           (uuid_equal(&peer->host_id, &r->host) && strcmp(peer->name, r->name) == 0);
}

static void ask_all(struct peer_bootstrap *m, struct answer *answers)
{
    struct agent *a = m->agent;
    struct buf *request = encode_request(m);
    for (size_t i = 0; i < m->count && !agent_is_stopping(a); i++) {
        struct answer *r = &answers[i];
        struct thole_status st = {0};
        struct bus_ask_peer peer;
        struct buf *reply = NULL;
        memset(r, 0, sizeof *r);
        if (strcmp(m->addresses[i], agent_address(a)) == 0) {
            r->there = r->same_peers = true;
            r->host = *agent_host_id(a);
            snprintf(r->name, sizeof r->name, "%s", agent_name(a));
            snprintf(r->tags, sizeof r->tags, "%s", a->tags);
            r->promised = m->promise.cluster;
        } else if (bus_ask(a->bus, m->addresses[i], METHOD_PEER_BOOTSTRAP,
                           slice_of(request->data, request->size), ASK_MS, &reply, &peer,
                           &st) == THOLE_OK) {
            if (!read_reply(m, slice_of(reply->data, reply->size), r)) {
                LOG_WARN(AGENT, "malformed answer from a peer address=%s; retrying",
                         m->addresses[i]);
            } else if (!speaks_for_itself(a, &peer, r)) {
                LOG_WARN(AGENT,
                         "a peer's certificate does not name the host that it says it is; ignoring "
                         "its answer address=%s certificate=%s says=%s",
                         m->addresses[i], peer.name, r->name);
                memset(r, 0, sizeof *r);
            }
            buf_unref(reply);
        } else {
            LOG_DEBUG(AGENT, "peer does not answer address=%s error=\"%s\"", m->addresses[i],
                      st.message);
        }
    }
    buf_unref(request);
}

/* The list that these answers make. False: they make none, and the reason is set. */
static bool make_list(struct peer_bootstrap *m, const struct answer *answers,
                      struct member_list *ret)
{
    struct agent *a = m->agent;
    bool self = false;
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < m->count; i++) {
        const struct answer *r = &answers[i];
        if (!r->there) {
            agent__set_waiting_for(a, "forming a cluster: waiting for %s", m->addresses[i]);
            return false;
        }
        if (!r->same_peers) {
            agent__set_waiting_for(
                a, "forming a cluster: %s was started with another list of peers", m->addresses[i]);
            return false;
        }
        for (size_t k = 0; k < i; k++) {
            if (uuid_equal(&answers[k].host, &r->host) || strcmp(answers[k].name, r->name) == 0) {
                agent__set_waiting_for(
                    a, "forming a cluster: %s and %s are the same host or have the same name",
                    m->addresses[k], m->addresses[i]);
                return false;
            }
        }
        struct member *to = &ret->members[ret->count++];
        to->host = r->host;
        snprintf(to->name, sizeof to->name, "%s", r->name);
        snprintf(to->address, sizeof to->address, "%s", m->addresses[i]);
        memcpy(to->tags, r->tags, sizeof to->tags);
        self = self || uuid_equal(&r->host, agent_host_id(a));
    }
    if (!self) {
        agent__set_waiting_for(a, "forming a cluster: none of the peers' addresses is this host's");
        return false;
    }
    ASSERT(ret->count == m->count); /* P1: every peer is on the list */
    ret->cluster = join__peer_bootstrap_cluster_id(ret);
    return true;
}

static bool save_promise(struct peer_bootstrap *m, const struct member_list *l)
{
    struct agent *a = m->agent;
    struct thole_status st = {0};
    ASSERT(uuid_is_nil(&m->promise.cluster)); /* P2 */
    if (!join__bootstrap_step(a, "before-promise")) {
        return false;
    }
    if (datadir_save_promise(&a->dir, l, &st) != THOLE_OK) {
        agent__fail(a, &st);
        return false;
    }
    if (!join__bootstrap_step(a, "promise-saved")) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->promise = *l;
    pthread_mutex_unlock(&m->lock);
    return join__bootstrap_step(a, "promise-told");
}

static void form(struct peer_bootstrap *m)
{
    struct agent *a = m->agent;
    struct thole_status st = {0};
    ASSERT(!uuid_is_nil(&m->promise.cluster)); /* P4 */
    struct identity *i = xmalloc(sizeof *i);
    *i = a->identity;
    i->first = m->promise;
    i->cluster = m->promise.cluster;
    for (uint32_t k = 0; k < i->first.count; k++) {
        if (uuid_equal(&i->first.members[k].host, &i->host)) {
            i->zero_replica = k + 1;
        }
    }
    LOG_INFO(AGENT, "forming the cluster: all peers agreed hosts=%" PRIu32, i->first.count);
    if (join__bootstrap_become_member(a, i, &st) != THOLE_OK && st.code != THOLE_CANCELLED) {
        agent__fail(a, &st);
    }
    free(i);
}

/* P3: has every host of the promised list answered with the same promise? */
static bool have_all_promised(struct peer_bootstrap *m, const struct answer *answers)
{
    for (size_t i = 0; i < m->count; i++) {
        if (!answers[i].there || !uuid_equal(&answers[i].host, &m->promise.members[i].host) ||
            !uuid_equal(&answers[i].promised, &m->promise.cluster)) {
            agent__set_waiting_for(m->agent, "forming a cluster: waiting for the promise of %s",
                                   m->addresses[i]);
            return false;
        }
    }
    return true;
}

/* P3: True if a peer has formed the promised cluster. *ret_other: a peer has formed another one. */
static bool follow_formed(struct peer_bootstrap *m, const struct answer *answers, bool *ret_other)
{
    *ret_other = false;
    for (size_t i = 0; i < m->count; i++) {
        if (!answers[i].there || uuid_is_nil(&answers[i].formed)) {
            continue;
        }
        if (uuid_equal(&answers[i].formed, &m->promise.cluster)) {
            return true;
        }
        *ret_other = true;
        agent__set_waiting_for(
            m->agent,
            "forming a cluster: %s is already a member of a cluster without this host; "
            "start with --join instead",
            m->addresses[i]);
    }
    return false;
}

/* False when this host has formed the cluster, failed or is stopping. */
static bool run_round(struct peer_bootstrap *m, struct answer *answers, struct member_list *list)
{
    struct agent *a = m->agent;
    bool other;
    ask_all(m, answers);
    if (agent_is_stopping(a)) {
        return false;
    }
    bool formed = follow_formed(m, answers, &other);
    if (!formed) {
        if (other || !make_list(m, answers, list)) {
            return true;
        }
        if (uuid_is_nil(&m->promise.cluster)) {
            return save_promise(m, list);
        }
        if (!uuid_equal(&m->promise.cluster, &list->cluster)) {
            agent__set_waiting_for(
                a, "forming a cluster: this host promised a list of other hosts; to start over, "
                   "wipe the data directories");
            return true;
        }
        if (!have_all_promised(m, answers)) {
            return true;
        }
    }
    if (join__bootstrap_step(a, "all-promised")) {
        form(m);
    }
    return false;
}

void join__peer_bootstrap_run(struct agent *a)
{
    struct peer_bootstrap *m = a->peer_bootstrap;
    struct answer *answers = xcalloc(DATADIR_MEMBERS_MAX, sizeof *answers);
    struct member_list *list = xmalloc(sizeof *list);
    bool go_on = true;
    while (go_on) {
        bool had = !uuid_is_nil(&m->promise.cluster);
        go_on = run_round(m, answers, list);
        bool just_promised = !had && !uuid_is_nil(&m->promise.cluster);
        if (go_on && !join__pause(a, just_promised ? 1 : PAUSE_MS)) {
            go_on = false;
        }
    }
    free(list);
    free(answers);
}

/* ---- Preparation ----------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum thole_code read_addresses(struct peer_bootstrap *m, struct thole_status *st)
{
    enum thole_code code = address_list_split(m->agent->addresses, &m->copy, m->addresses,
                                              DATADIR_MEMBERS_MAX, &m->count, st);
    if (code != THOLE_OK) {
        return code;
    }
    bool self = false;
    for (size_t i = 0; i < m->count; i++) {
        self = self || strcmp(m->addresses[i], agent_address(m->agent)) == 0;
    }
    if (!self) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "--peers %.200s lacks this host's address %.100s: add it, or give "
                          "--advertise with the address in the list that is this host's",
                          m->agent->addresses, agent_address(m->agent));
    }
    qsort(m->addresses, m->count, sizeof m->addresses[0], compare);
    for (size_t i = 1; i < m->count; i++) {
        if (strcmp(m->addresses[i - 1], m->addresses[i]) == 0) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "--peers has %s twice", m->addresses[i]);
        }
    }
    return THOLE_OK;
}

/* A promise binds across restarts, whatever the flags are now. */
enum thole_code join__peer_bootstrap_prepare(struct agent *a, struct thole_status *st)
{
    struct peer_bootstrap *m = a->peer_bootstrap;
    enum thole_code code = datadir_load_promise(&a->dir, &m->promise, st);
    if (code != THOLE_OK) {
        return code;
    }
    if (uuid_is_nil(&m->promise.cluster)) {
        return a->bootstrap == AGENT_BOOTSTRAP_PEERS ? read_addresses(m, st) : THOLE_OK;
    }
    if (a->bootstrap == AGENT_BOOTSTRAP_DEV || a->bootstrap == AGENT_BOOTSTRAP_JOIN) {
        return THOLE_FAIL(
            st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
            "this host has promised to form a cluster with %s and others; to start over, wipe "
            "the data directory",
            m->promise.members[0].address);
    }
    a->bootstrap = AGENT_BOOTSTRAP_PEERS;
    m->count = m->promise.count;
    for (size_t i = 0; i < m->count; i++) {
        m->addresses[i] = m->promise.members[i].address;
    }
    return THOLE_OK;
}

struct peer_bootstrap *join__peer_bootstrap_new(struct agent *a)
{
    struct peer_bootstrap *m = xcalloc(1, sizeof *m);
    m->agent = a;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void join__peer_bootstrap_free(struct peer_bootstrap *m)
{
    if (m == NULL) {
        return;
    }
    free(m->copy);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
