/* Becoming a member of a cluster, and a member again after a restart. See agent/join/README.md. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/reconciler.h"
#include "agent/join/join.h"
#include "agent/join/peer_addresses.h"
#include "agent/join/peer_bootstrap.h"
#include "agent/repair/repair_zero.h"
#include "base/address.h"
#include "base/assert.h"
#include "base/log.h"

#define FORCE_PAUSE_MS 20
#define REPAIR_ZERO_NS (5 * NS_PER_S)

bool join__bootstrap_step(struct agent *a, const char *name)
{
    return a->o.step == NULL || a->o.step(a->o.step_ctx, name);
}

bool join__pause(struct agent *a, uint32_t ms)
{
    return !latch_wait_until(&a->stop, clock_now(&clock_system) + ms * NS_PER_MS);
}

/* ---- Shard zero's replica on this host ------------------------------------------------------- */

static enum thole_code start_zero(struct agent *a, const struct identity *i,
                                  struct thole_status *st)
{
    struct raft_member members[DATADIR_MEMBERS_MAX];
    memset(members, 0, sizeof members);
    for (uint32_t k = 0; k < i->first.count; k++) {
        members[k].replica_id = k + 1;
        members[k].role = RAFT_VOTER; /* as the registry's Bootstrap says */
        memcpy(members[k].host, i->first.members[k].host.bytes, sizeof members[k].host);
    }
    bool founder = i->zero_replica <= i->first.count; /* a replacement replica is not initial */
    const struct engine_replica_spec spec = {
        .replica_id = i->zero_replica,
        .shard_id = REGISTRY_SHARD_ID,
        .machine_type = REGISTRY_MACHINE_TYPE,
        .initial = founder ? members : NULL,
        .initial_count = founder ? i->first.count : 0,
    };
    struct latch started;
    latch_init(&started);
    engine_replica_start(a->engine, &spec, latch_callback, &started);
    enum thole_code code = latch_wait(&started, st);
    latch_deinit(&started);
    return code;
}

/* The data directory was made from a snapshot (restore_zero.h): the empty replica is founded on it.
 * Idempotent: after a crash the step may already have been done. */
static enum thole_code seed_zero(struct agent *a, const char *file, struct thole_status *st)
{
    enum thole_code code;
    struct thole_status why = {0};
    LOG_WARN(AGENT, "restoring shard zero from a snapshot file=%s", file);
    do { /* NOT_READY until the machine is open */
        struct latch seeded;
        latch_init(&seeded);
        engine_seed(a->engine, REGISTRY_SHARD_ID, file, latch_callback, &seeded);
        code = latch_wait(&seeded, &why);
        latch_deinit(&seeded);
    } while (code != THOLE_OK && why.reason == THOLE_REASON_NOT_READY &&
             join__pause(a, FORCE_PAUSE_MS));
    if (code != THOLE_OK && st != NULL) {
        *st = why;
    }
    return code;
}

/* Delete the replica that join__replace_zero_start replaced. */
static enum thole_code remove_old_zero(struct agent *a, uint64_t replica_id,
                                       struct thole_status *st)
{
    struct latch removed;
    latch_init(&removed);
    LOG_INFO(AGENT, "deleting the replaced replica of shard zero replica=%" PRIu64, replica_id);
    engine_replica_remove(a->engine, replica_id, latch_callback, &removed);
    enum thole_code code = latch_wait(&removed, st);
    latch_deinit(&removed);
    return code;
}

struct repair_proposal {
    struct engine_request request;
    struct latch done;
};

static void repair_proposed(struct engine_request *q)
{
    struct repair_proposal *p = CONTAINER_OF(q, struct repair_proposal, request);
    bufslice_unref(q->result);
    latch_open(&p->done, &q->status);
}

/* The first command of the epoch. It bypasses the router, which holds all others until then. */
static enum thole_code propose_repair_zero(struct agent *a, uint64_t epoch, struct thole_status *st)
{
    enum thole_code code;
    do {
        upb_Arena *arena = upb_Arena_New();
        thole_registry_v1_Command *c = agent_command_new("repair", arena);
        thole_registry_v1_RepairZero_set_epoch(
            thole_registry_v1_Operation_mutable_repair_zero(
                thole_registry_v1_Command_add_operations(c, arena), arena),
            epoch);
        struct repair_proposal p = {.request = {.kind = ENGINE_PROPOSE}};
        latch_init(&p.done);
        p.request.shard_id = REGISTRY_SHARD_ID;
        p.request.payload = registry_command_encode(c, arena);
        p.request.deadline_ns = clock_now(executor_clock(a->executor)) + REPAIR_ZERO_NS;
        p.request.done = repair_proposed;
        engine_submit(a->engine, &p.request);
        code = latch_wait(&p.done, st);
        latch_deinit(&p.done);
        upb_Arena_Free(arena);
    } while (code != THOLE_OK && join__pause(a, FORCE_PAUSE_MS)); /* until this replica leads */
    return code;
}

/* If a repair marked this data directory (repair_zero.h), make this replica the only voter of shard
 * zero. */
static enum thole_code force_zero(struct agent *a, struct thole_status *st)
{
    uint64_t epoch;
    enum thole_code code = repair_zero_marked(&a->dir, &epoch, st);
    if (code != THOLE_OK || epoch == 0) {
        return code;
    }
    LOG_WARN(AGENT, "repairing shard zero: this host becomes its only voter epoch=%" PRIu64, epoch);
    struct engine_replica_status s = {0};
    struct thole_status why = {0};
    do { /* NOT_READY until the machine is open */
        struct latch forced;
        latch_init(&forced);
        engine_force(a->engine, REGISTRY_SHARD_ID, epoch, latch_callback, &forced);
        code = latch_wait(&forced, &why);
        latch_deinit(&forced);
        (void)engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s);
        if (s.failed) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                              "shard zero cannot be repaired with this host's replica: %.160s",
                              s.failure);
        }
    } while (code != THOLE_OK && why.reason == THOLE_REASON_NOT_READY &&
             join__pause(a, FORCE_PAUSE_MS));
    bool before = code != THOLE_OK && s.epoch >= epoch;
    if (code != THOLE_OK && !before) {
        if (st != NULL) {
            *st = why;
        }
        return code;
    }
    code = propose_repair_zero(a, epoch, st);
    atomic_store(&a->repairing, false);
    return code == THOLE_OK ? repair_zero_unmark(&a->dir, st) : code;
}

/* Was the replica deleted, as the last step of removing this host? */
static bool has_tombstone(struct agent *a, uint64_t replica_id)
{
    uint64_t *ids = NULL;
    size_t n = engine_tombstones(a->engine, &ids);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        found = found || ids[i] == replica_id;
    }
    free(ids);
    return found;
}

/* Run shard zero's replica: the one that the engine found in the log, or a new one while the host
 * becomes a member. A lost replica must not be created again: it would have forgotten its votes. */
static enum thole_code run_member(struct agent *a, struct identity *i, struct thole_status *st)
{
    struct engine_replica_status s;
    bool there = engine_shard_status(a->engine, REGISTRY_SHARD_ID, &s);
    if (!there && has_tombstone(a, i->zero_replica)) {
        return agent__fail_removed(st);
    }
    if (!there && i->zero_created) {
        return THOLE_FAIL(
            st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
            "%s/log has lost its replica of shard zero: wipe the data directory and join "
            "as a new host",
            a->dir.path);
    }
    enum thole_code code = THOLE_OK;
    ASSERT(!uuid_is_nil(&i->cluster) && i->zero_replica != 0);
    bus_set_cluster(a->bus, &i->cluster);
    if (!i->zero_created) {
        agent__learn_members(a, &i->first);
    }
    if (there && s.replica_id != i->zero_replica) {
        code = remove_old_zero(a, s.replica_id, st);
        there = false;
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (!there) {
        code = start_zero(a, i, st);
    } else {
        code = force_zero(a, st);
    }
    if (code == THOLE_OK && i->zero_seed[0]) {
        code = seed_zero(a, i->zero_seed, st);
    }
    if (code != THOLE_OK) {
        return code;
    }
    if (!join__bootstrap_step(a, "zero-started")) {
        return THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_STOPPED, "stopped by a test");
    }
    if (!i->zero_created) {
        i->zero_created = true;
        i->zero_seed[0] = 0;
        code = datadir_save_identity(&a->dir, i, st);
        if (code != THOLE_OK) {
            return code;
        }
    }
    pthread_mutex_lock(&a->lock);
    a->identity.cluster =
        i->cluster; /* host and name never change: they are read without the lock */
    a->identity.zero_replica = i->zero_replica;
    a->identity.zero_created = i->zero_created;
    a->identity.zero_seed[0] = 0;
    a->identity.first = i->first;
    a->member = true;
    a->waiting_for[0] = 0;
    pthread_mutex_unlock(&a->lock);
    char id[UUID_TEXT_BYTES];
    uuid_format(&i->cluster, id);
    LOG_INFO(AGENT, "became a member cluster=%s zero_replica=%" PRIu64, id, i->zero_replica);
    agent__reconciler_wake(a->reconciler);
    join__addresses_wake(a->peer_addresses);
    agent_signal(a);
    return THOLE_OK;
}

enum thole_code join__bootstrap_become_member(struct agent *a, const struct identity *i,
                                              struct thole_status *st)
{
    struct identity *mine = xmalloc(sizeof *mine);
    *mine = *i;
    ASSERT(!uuid_is_nil(&mine->cluster) && mine->zero_replica != 0 && !mine->zero_created);
    enum thole_code code = datadir_save_identity(&a->dir, mine, st);
    if (code == THOLE_OK && !join__bootstrap_step(a, "identity-saved")) {
        code = THOLE_FAIL(st, THOLE_CANCELLED, THOLE_REASON_STOPPED, "stopped by a test");
    }
    if (code == THOLE_OK) {
        code = run_member(a, mine, st);
    }
    free(mine);
    return code;
}

/* ---- Modes ----------------------------------------------------------------------------------- */

static enum thole_code form_single(struct agent *a, struct thole_status *st)
{
    struct identity *i = xmalloc(sizeof *i);
    *i = a->identity;
    struct member *m = &i->first.members[0];
    m->host = i->host;
    snprintf(m->name, sizeof m->name, "%s", i->name);
    snprintf(m->address, sizeof m->address, "%s", agent_address(a));
    snprintf(m->tags, sizeof m->tags, "%s", a->tags);
    i->first.count = 1;
    i->first.cluster = i->cluster = join__peer_bootstrap_cluster_id(&i->first);
    i->zero_replica = 1;
    enum thole_code code = join__bootstrap_become_member(a, i, st);
    free(i);
    return code;
}

static void *bootstrap_main(void *ctx)
{
    struct agent *a = ctx;
    pthread_setname_np(pthread_self(), "bootstrap");
    (void)log_context_host(agent_name(a));
    if (a->bootstrap == AGENT_BOOTSTRAP_PEERS) {
        join__peer_bootstrap_run(a);
    } else {
        join__run(a);
    }
    return NULL;
}

/* Hosts on other machines cannot reach a host at a loopback address. */
static enum thole_code check_reachable_from(struct agent *a, const char *other,
                                            struct thole_status *st)
{
    if (!address_is_loopback(agent_address(a)) || address_place(other) != ADDRESS_ELSEWHERE) {
        return THOLE_OK;
    }
    return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                      "the host at %.100s cannot reach this host at the loopback address %.100s: "
                      "give --listen (or --advertise) with an address that other machines reach",
                      other, agent_address(a));
}

/* Report a wrong address at once, before any round. */
static enum thole_code check_peer_addresses(struct agent *a, struct thole_status *st)
{
    char *copy = NULL;
    const char *parts[DATADIR_MEMBERS_MAX];
    size_t n = 0;
    enum thole_code code =
        address_list_split(a->addresses, &copy, parts, DATADIR_MEMBERS_MAX, &n, st);
    if (code != THOLE_OK) {
        return code;
    }
    for (size_t i = 0; i < n && code == THOLE_OK; i++) {
        code = check_reachable_from(a, parts[i], st);
    }
    free(copy);
    return code;
}

static enum thole_code start_thread(struct agent *a, struct thole_status *st)
{
    enum thole_code code = a->addresses != NULL ? check_peer_addresses(a, st)
                                                : THOLE_OK; /* NULL: the promise has them */
    if (code != THOLE_OK) {
        return code;
    }
    agent__set_waiting_for(a, "not yet a member of a cluster: contacting the other hosts");
    if (pthread_create(&a->bootstrap_thread, NULL, bootstrap_main, a) != 0) {
        return THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_NONE, "cannot start a thread");
    }
    a->bootstrap_running = true;
    return THOLE_OK;
}

/* Flags for new hosts are ignored on a member. Tags: see reconciler.c. */
static void warn_ignored_flags(const struct agent *a)
{
    const struct member_list *first = &a->identity.first;
    bool alone = first->count == 1;
    char id[UUID_TEXT_BYTES];
    uuid_format(&a->identity.cluster, id);
    if (a->bootstrap == AGENT_BOOTSTRAP_DEV && !alone) {
        LOG_WARN(AGENT,
                 "--dev is ignored: this host is already a member of a cluster; give an empty data "
                 "directory to create another cluster cluster=%s",
                 id);
    }
}

enum thole_code join__bootstrap_start(struct agent *a, struct thole_status *st)
{
    ASSERT(!a->bootstrap_running && !a->member);
    if (!uuid_is_nil(&a->identity.cluster)) {
        warn_ignored_flags(a);
        struct identity *i = xmalloc(sizeof *i);
        *i = a->identity;
        enum thole_code code = THOLE_OK;
        if (a->bootstrap == AGENT_BOOTSTRAP_JOIN && a->addresses != NULL) {
            code = join__check_cluster(a, st);
        }
        if (code == THOLE_OK) {
            code = run_member(a, i, st);
        }
        free(i);
        return code;
    }
    switch (a->bootstrap) {
    case AGENT_BOOTSTRAP_DEV:
        return form_single(a, st);
    case AGENT_BOOTSTRAP_PEERS:
    case AGENT_BOOTSTRAP_JOIN:
        return start_thread(a, st);
    case AGENT_BOOTSTRAP_NONE:
        break;
    }
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_NOT_READY,
                      "the data directory %s is new: give --dev (a cluster of this host alone), "
                      "--peers or --join",
                      a->dir.path);
}

void join__bootstrap_stop(struct agent *a)
{
    if (a->bootstrap_running) {
        pthread_join(a->bootstrap_thread, NULL);
    }
    a->bootstrap_running = false;
}
