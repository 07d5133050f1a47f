/* The data directory of a host: lock, identity, incarnation, promise, last-known addresses.
 *
 *   LOCK          held by the running process
 *   identity      this host's id and name, and its cluster once it is a member
 *   incarnation   the number of starts, their numbers (base/lineage.h), and the election timeout;
 *                 durable before it is used
 *   promise       with --peers: the only list of members that this host agreed to
 *                 (join/README.md)
 *   peers         last-known addresses of the other hosts, so that a restart needs no flags
 *   log/          all groups' logs          state/   persistent machines' data
 *   snapshots/    staged snapshots and machines' own files
 *   restores/     uploaded snapshots, until their shards have begun
 *
 * The small files are lines of words, ended by a checksum line; docs/formats.md describes them.
 * They are replaced atomically. Not thread safe: the opening thread uses them, then the
 * reconciler's worker. */
#ifndef AGENT_CORE_DATADIR_H
#define AGENT_CORE_DATADIR_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/lineage.h"
#include "base/uuid.h"

#define DATADIR_FORMAT 1
#define DATADIR_ADDRESS_BYTES 272 /* host:port */
#define DATADIR_TAGS_BYTES 1024   /* a host's tags, as one text */
#define DATADIR_MEMBERS_MAX 32    /* hosts that form a cluster together */

/* One of the hosts that form a cluster; replica ids of shard zero count them from 1. */
struct member {
    struct uuid host;
    char name[LIMIT_NAME_BYTES + 1];
    char address[DATADIR_ADDRESS_BYTES];
    char tags[DATADIR_TAGS_BYTES]; /* "k=v,k=v"; what it was started with */
};

struct member_list {
    struct uuid cluster; /* nil: no list */
    uint32_t count;
    struct member members[DATADIR_MEMBERS_MAX];
};

struct identity {
    struct uuid host;
    char name[LIMIT_NAME_BYTES + 1];
    char listen[DATADIR_ADDRESS_BYTES];    /* as last started; what a start without flags uses */
    char advertise[DATADIR_ADDRESS_BYTES]; /* "": the listen address */
    struct uuid cluster;                   /* nil: not a member yet */
    uint64_t zero_replica;                 /* this host's replica of shard zero */
    char zero_seed[UUID_TEXT_BYTES]; /* until then: the snapshot that it is founded on; "": none */
    bool zero_created;        /* the replica was durably created: it must not be created again */
    struct member_list first; /* the hosts that formed the cluster; empty on one that joined */
};

struct datadir {
    char *path;
    int lock_fd;
};

/* Create or open, and lock. FAILED_PRECONDITION LOCKED, after 3 s; FAILED_PRECONDITION FORMAT when
 * the directory holds something else, or was written by a newer version; DATA_LOSS CORRUPT. A new
 * directory gets an identity with a new host id and `name` (NULL: made from the id). With an
 * existing one a different `name` is FAILED_PRECONDITION WRONG_HOST. */
THOLE_MUST_CHECK enum thole_code datadir_open(const char *path, const char *name,
                                              struct datadir *ret, struct identity *ret_identity,
                                              struct thole_status *st);
/* Of a host that does not run, to look at it: nothing is created or changed, and no daemon can
 * start with it until datadir_close. NOT_FOUND: no such directory, or not one of a host;
 * FAILED_PRECONDITION LOCKED: a daemon runs with it. An unreadable identity is no failure:
 * `*ret_why` says why, and `ret_identity` is empty. */
THOLE_MUST_CHECK enum thole_code datadir_look(const char *path, struct datadir *ret,
                                              struct identity *ret_identity,
                                              struct thole_status *ret_why,
                                              struct thole_status *st);
/* The number of starts, and of the last one that the registry is known to have accepted. */
THOLE_MUST_CHECK enum thole_code datadir_look_at_starts(const struct datadir *d,
                                                        uint64_t *ret_incarnation,
                                                        uint64_t *ret_admitted,
                                                        struct thole_status *st);
void datadir_close(struct datadir *d);
/* "<path>/<name>", malloced. */
char *datadir_file(const struct datadir *d, const char *name);

THOLE_MUST_CHECK enum thole_code datadir_save_identity(struct datadir *d, const struct identity *i,
                                                       struct thole_status *st);
/* Raise the incarnation, durably. Waits for as long as the election timeout is shorter than at the
 * last start: voters may have promised that much to their leaders. CANCELLED, with nothing changed,
 * when *stop_fd becomes readable meanwhile (NULL: nothing ends the wait). */
THOLE_MUST_CHECK enum thole_code datadir_next_start(struct datadir *d, uint32_t election_timeout_ms,
                                                    const int *stop_fd, uint64_t *ret_incarnation,
                                                    struct lineage *ret_lineage,
                                                    struct thole_status *st);
/* The registry accepted this start: numbers of earlier starts may be dropped. */
THOLE_MUST_CHECK enum thole_code datadir_admitted(struct datadir *d, uint64_t incarnation,
                                                  struct thole_status *st);
/* The promise; `ret->cluster` is nil if none was made. Saving one where one exists is refused. */
THOLE_MUST_CHECK enum thole_code datadir_load_promise(struct datadir *d, struct member_list *ret,
                                                      struct thole_status *st);
THOLE_MUST_CHECK enum thole_code datadir_save_promise(struct datadir *d,
                                                      const struct member_list *l,
                                                      struct thole_status *st);
/* Addresses of other hosts; `each` is called per line. A damaged file counts as absent. */
typedef void (*datadir_peer_fn)(void *ctx, const struct uuid *host, uint64_t incarnation,
                                const char *address);
void datadir_load_peers(struct datadir *d, datadir_peer_fn each, void *ctx);
/* `lines` is "UUID INCARNATION ADDRESS\n"... */
THOLE_MUST_CHECK enum thole_code datadir_save_peers(struct datadir *d, struct slice lines,
                                                    struct thole_status *st);

#endif
