/* Who may do what: the one place that every call of a user passes, by whatever door it came.
 *
 * A call is judged twice. When it arrives: who calls, and does the user have the right that its
 * method needs, for some name at least (access_admit)? When its request was read: for this name
 * (access_require)? Rights come from the roles in this host's own view of the registry. They are
 * looked up once for each user, and again after a role or a token has changed.
 *
 * Without TLS (development on loopback addresses, --insecure) nothing is enforced, but a token
 * names its user. Threads: any, unless said otherwise. */
#ifndef AGENT_ACCESS_ACCESS_H
#define AGENT_ACCESS_ACCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "registry/registry.h"
#include "thole/v1/access.upb.h"

struct access;
/* A user with the rights that the user had when the call arrived. Immutable, counted. */
struct access_user;

/* What a method needs. */
enum access_level {
    ACCESS_PUBLIC,     /* nothing, not even to say who calls */
    ACCESS_BUS,        /* judged by the hello, and for each request: access_request_rule */
    ACCESS_HOSTS,      /* to be a host */
    ACCESS_USERS,      /* to be somebody */
    ACCESS_REFLECTION, /* to be somebody, unless reflection is for all */
    ACCESS_OBJECT,     /* `verb` on objects of `kind` */
    ACCESS_DATA, /* on data of a shard: `verb`, a DataRight, and `kind`, a second one if not 0 */
};
struct access_rule {
    const char *method; /* "thole.v1.Shards/GetShard" */
    enum access_level level;
    int32_t verb, kind; /* RoleVerb and RoleKind; or DataRights */
    bool etcd; /* DATA: of the shard that access_etcd_shard names, not of that in the request */
};
/* "/thole.v1.Shards/GetShard" -> its rule; NULL: there is none, and the call is refused. */
const struct access_rule *access_rule(const char *path);
size_t access_rule_count(void);
/* Of a request by Exchange or Ask, by its method (thole.bus.v1.Method). */
const struct access_rule *access_request_rule(uint32_t method);

struct access_refusal {
    const char *actor, *address, *method;
    const char *why;
    uint32_t others; /* refused since the last one that was reported */
};
struct access_options {
    struct registry *registry;
    const struct clock *clock;
    bool enforced;
    bool reflection_for_all; /* also for calls without a user */
    /* A call was refused, and the last report is a while ago. Must not block. */
    void (*refused)(void *ctx, const struct access_refusal *r);
    void *ctx;
};
struct access *access_new(const struct access_options *o);
void access_free(struct access *a); /* after the bus; NULL is fine */
bool access_is_enforced(const struct access *a);

/* bus_handler.authorise: gives the call its user, or refuses it. Called again for a stream that is
 * open: does what it was begun with still hold? Only on the bus's thread. */
enum thole_code access_admit(struct access *a, struct bus_rpc *rpc, const char *path,
                             struct bus_denial *ret);

/* One right. An empty name stands for all names. */
struct access_right {
    bool data;
    int32_t verb;
    uint32_t kinds; /* bits, 1 << RoleKind: all of these; none for data */
    struct slice name;
};
/* The shard of etcd's clients: that in the call's metadata "thole-shard", or "default". Borrowed;
 * at most LIMIT_NAME_BYTES. */
#define ACCESS_ETCD_SHARD "default"
struct slice access_etcd_shard(const struct bus_rpc *rpc);
#define ACCESS_KIND(kind) (UINT32_C(1) << thole_v1_ROLE_KIND_##kind)
/* May the user (bus_rpc_user, bus_request_user) do this now? PERMISSION_DENIED NO_RIGHT, or
 * UNAUTHENTICATED if the token has ended. The caller reports a refusal. */
THOLE_MUST_CHECK enum thole_code access_require(struct access *a, const struct access_user *u,
                                                const struct access_right *right,
                                                struct bus_denial *ret);
/* The same for a call, and reported. A stream ends when this does not hold any more; the last such
 * right counts. Only on the bus's thread. */
THOLE_MUST_CHECK enum thole_code access_require_of(struct access *a, struct bus_rpc *rpc,
                                                   const struct access_right *right,
                                                   const char *path, struct bus_denial *ret);
void access_report(struct access *a, const struct access_user *u, const char *address,
                   const char *path, const struct bus_denial *d);
/* Of a request of a client of the library: what its method needs, but for the name of a shard. */
THOLE_MUST_CHECK enum thole_code access_admit_request(struct access *a, const struct access_user *u,
                                                      const struct access_rule *rule,
                                                      struct bus_denial *ret);

/* "user/alice", "host/h1", or "user" if nobody knows; for events. */
#define ACCESS_ACTOR_BYTES 160
const char *access_actor(const struct access_user *u, char ret[static ACCESS_ACTOR_BYTES]);
/* "/thole.v1.Shards/UpdateShard" -> "Shards.UpdateShard" */
#define ACCESS_METHOD_BYTES 64
const char *access_method(const char *path, char ret[static ACCESS_METHOD_BYTES]);

#endif
