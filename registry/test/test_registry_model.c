/* Random commands against a naive model: arrays and loops instead of trees. After each command the
 * codes and the rows must agree, and so must a mirror fed by registry_changes_since. A snapshot
 * must restore to the same bytes, and held views must not change. */
#include "base/rand.h"
#include "registry/test/registry_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define HOSTS 8
#define NAMES 5
#define REPLICAS 4096
#define SHARDS 512

enum model_phase { NEW = 0, RUNNING = 3, OUT = 4, GONE = 5, FAILED = 6 };

struct model {
    struct {
        bool known, removed, tombstone;
        int32_t state;
        uint64_t incarnation;
    } hosts[HOSTS];
    struct {
        bool exists, deleting, formed, placed;
        int name; /* -1: zero */
        uint32_t voters;
    } shards[SHARDS];
    struct {
        bool exists, initial, user, remove;
        uint64_t shard, host;
        int32_t role, phase;
    } replicas[REPLICAS];
    uint64_t next_shard, next_replica;
};

static int find_shard(const struct model *m, int name)
{
    for (uint64_t i = 1; i < m->next_shard; i++) {
        if (m->shards[i].exists && m->shards[i].name == name) {
            return (int)i;
        }
    }
    return -1;
}

static bool occupied(const struct model *m, uint64_t shard, uint64_t host)
{
    for (uint64_t i = 1; i < m->next_replica; i++) {
        if (m->replicas[i].exists && m->replicas[i].shard == shard && m->replicas[i].host == host &&
            !(m->replicas[i].remove && m->replicas[i].phase == OUT)) {
            return true;
        }
    }
    return false;
}

static void add_replica(struct model *m, uint64_t shard, uint64_t host, int32_t role, bool user,
                        bool initial)
{
    uint64_t id = m->next_replica++;
    assert_true(id < REPLICAS);
    m->replicas[id].exists = true;
    m->replicas[id].shard = shard;
    m->replicas[id].host = host;
    m->replicas[id].role = role;
    m->replicas[id].user = user;
    m->replicas[id].initial = initial;
}

static void settle(struct model *m)
{
    for (uint64_t s = 0; s < m->next_shard; s++) {
        bool any = false;
        for (uint64_t i = 1; i < m->next_replica; i++) {
            any |= m->replicas[i].exists && m->replicas[i].shard == s;
        }
        if (m->shards[s].exists && m->shards[s].deleting && !any) {
            m->shards[s].exists = false;
        }
    }
    for (uint64_t h = 0; h < HOSTS; h++) {
        bool any = false;
        for (uint64_t i = 1; i < m->next_replica; i++) {
            any |= m->replicas[i].exists && m->replicas[i].host == h;
        }
        if (m->hosts[h].known && m->hosts[h].removed && !any) {
            m->hosts[h].tombstone = true;
        }
    }
}

static enum thole_code model_admit(struct model *m, uint64_t h, uint64_t incarnation)
{
    if (!m->hosts[h].known) {
        m->hosts[h].known = true;
        m->hosts[h].state = thole_v1_HOST_STATE_ACTIVE;
    } else if (m->hosts[h].removed) {
        return THOLE_FAILED_PRECONDITION;
    } else if (incarnation < m->hosts[h].incarnation) {
        return THOLE_ABORTED;
    }
    m->hosts[h].incarnation = incarnation;
    if (!occupied(m, 0, h)) {
        add_replica(m, 0, h, thole_v1_REPLICA_ROLE_NON_VOTING, false, false);
    }
    return THOLE_OK;
}

static enum thole_code model_delete_host(struct model *m, uint64_t h)
{
    bool another = false;
    if (!m->hosts[h].known || m->hosts[h].tombstone) {
        return THOLE_NOT_FOUND;
    }
    if (m->hosts[h].removed) {
        return THOLE_OK;
    }
    for (uint64_t i = 0; i < HOSTS; i++) {
        another |= i != h && m->hosts[i].known && !m->hosts[i].removed;
    }
    if (!another) {
        return THOLE_FAILED_PRECONDITION;
    }
    m->hosts[h].removed = true;
    for (uint64_t i = 1; i < m->next_replica; i++) {
        if (m->replicas[i].exists && m->replicas[i].host == h) {
            bool drop = m->replicas[i].remove &&
                        (m->replicas[i].phase == OUT || m->shards[m->replicas[i].shard].deleting);
            m->replicas[i].exists = !drop;
            m->replicas[i].user = false;
        }
    }
    settle(m);
    return THOLE_OK;
}

static enum thole_code model_create(struct model *m, int name, uint32_t voters)
{
    if (find_shard(m, name) >= 0) {
        return THOLE_ALREADY_EXISTS;
    }
    uint64_t id = m->next_shard++;
    assert_true(id < SHARDS);
    m->shards[id].exists = true;
    m->shards[id].name = name;
    m->shards[id].voters = voters;
    return THOLE_OK;
}

static enum thole_code model_delete_shard(struct model *m, int name)
{
    int id = find_shard(m, name);
    if (id < 0) {
        return THOLE_NOT_FOUND;
    }
    m->shards[id].deleting = true;
    for (uint64_t i = 1; i < m->next_replica; i++) {
        if (m->replicas[i].exists && m->replicas[i].shard == (uint64_t)id) {
            m->replicas[i].remove = true;
            m->replicas[i].exists = !m->hosts[m->replicas[i].host].removed;
        }
    }
    settle(m);
    return THOLE_OK;
}

static enum thole_code model_place(struct model *m, uint64_t shard, uint64_t host, int32_t role)
{
    if (shard >= m->next_shard || !m->shards[shard].exists) {
        return THOLE_NOT_FOUND;
    }
    if (m->shards[shard].deleting) {
        return THOLE_FAILED_PRECONDITION;
    }
    if (!m->hosts[host].known || m->hosts[host].removed) {
        return THOLE_NOT_FOUND;
    }
    if (shard != 0 && m->hosts[host].state != thole_v1_HOST_STATE_ACTIVE) {
        return THOLE_FAILED_PRECONDITION;
    }
    if (occupied(m, shard, host)) {
        return THOLE_ALREADY_EXISTS;
    }
    bool initial = !m->shards[shard].placed;
    if (initial && role != thole_v1_REPLICA_ROLE_VOTER) {
        return THOLE_INVALID_ARGUMENT;
    }
    add_replica(m, shard, host, role, false, initial);
    m->shards[shard].placed = true;
    return THOLE_OK;
}

static enum thole_code model_create_replica(struct model *m, int name, uint64_t host, int32_t role)
{
    int shard = find_shard(m, name);
    if (shard < 0 || !m->hosts[host].known || m->hosts[host].tombstone) {
        return THOLE_NOT_FOUND;
    }
    if (m->shards[shard].deleting || !m->shards[shard].placed || m->hosts[host].removed ||
        m->hosts[host].state == thole_v1_HOST_STATE_DRAINING) {
        return THOLE_FAILED_PRECONDITION;
    }
    if (occupied(m, (uint64_t)shard, host)) {
        return THOLE_ALREADY_EXISTS;
    }
    add_replica(m, (uint64_t)shard, host, role, true, false);
    return THOLE_OK;
}

static bool last_voter(const struct model *m, uint64_t id)
{
    for (uint64_t i = 1; i < m->next_replica; i++) {
        if (i != id && m->replicas[i].exists && m->replicas[i].shard == m->replicas[id].shard &&
            !m->replicas[i].remove && m->replicas[i].role == thole_v1_REPLICA_ROLE_VOTER) {
            return false;
        }
    }
    return true;
}

static enum thole_code model_remove(struct model *m, uint64_t id)
{
    if (id >= m->next_replica || !m->replicas[id].exists) {
        return THOLE_NOT_FOUND;
    }
    uint64_t shard = m->replicas[id].shard;
    if (m->replicas[id].remove) {
        return THOLE_OK;
    }
    if ((shard == 0 && !m->hosts[m->replicas[id].host].removed &&
         m->replicas[id].phase != FAILED) ||
        (m->replicas[id].initial && !m->shards[shard].formed) ||
        (m->replicas[id].role == thole_v1_REPLICA_ROLE_VOTER && last_voter(m, id))) {
        return THOLE_FAILED_PRECONDITION;
    }
    m->replicas[id].remove = true;
    return THOLE_OK;
}

static enum thole_code model_role(struct model *m, uint64_t id, int32_t role)
{
    if (id >= m->next_replica || !m->replicas[id].exists) {
        return THOLE_NOT_FOUND;
    }
    if (m->replicas[id].remove) {
        return THOLE_FAILED_PRECONDITION;
    }
    if (m->replicas[id].role == role) {
        return THOLE_OK;
    }
    if ((m->replicas[id].initial && !m->shards[m->replicas[id].shard].formed) ||
        (role != thole_v1_REPLICA_ROLE_VOTER && last_voter(m, id))) {
        return THOLE_FAILED_PRECONDITION;
    }
    m->replicas[id].role = role;
    if (m->replicas[id].phase == RUNNING) {
        m->replicas[id].phase = thole_v1_REPLICA_PHASE_CATCHING_UP;
    }
    return THOLE_OK;
}

static enum thole_code model_observe(struct model *m, uint64_t id, int32_t phase)
{
    if (id >= m->next_replica) {
        return THOLE_NOT_FOUND;
    }
    if (!m->replicas[id].exists) {
        return THOLE_OK;
    }
    if (phase == GONE) {
        if (!m->replicas[id].remove ||
            (m->replicas[id].phase != OUT && !m->shards[m->replicas[id].shard].deleting)) {
            return THOLE_FAILED_PRECONDITION;
        }
        m->replicas[id].exists = false;
    } else if (phase == OUT) {
        if (!m->replicas[id].remove) {
            return THOLE_FAILED_PRECONDITION;
        }
        m->replicas[id].phase = OUT;
        m->replicas[id].exists = !m->hosts[m->replicas[id].host].removed;
    } else if (m->replicas[id].phase != OUT) {
        m->replicas[id].phase = phase;
    }
    settle(m);
    return THOLE_OK;
}

/* Whether a host may be removed is not modelled: test_registry_host_removal.c. */
static bool is_needed(const struct fixture *f)
{
    static const char text[] = "needs this host";
    upb_StringView m = thole_registry_v1_Result_message(f->result);
    return m.size > 0 && memmem(m.data, m.size, text, sizeof text - 1) != NULL;
}

/* Apply one random command to both sides. */
static void step(struct fixture *f, struct model *m, struct rand *rng)
{
    static const char *const names[NAMES] = {"a", "b", "c", "d.e", "f-0"};
    static const int32_t phases[] = {1, 2, 3, 3, 3, 4, 4, 5, 5, 6};
    uint64_t host = rand_below(rng, HOSTS);
    int name = (int)rand_below(rng, NAMES);
    uint64_t shard = rand_below(rng, m->next_shard + 1);
    uint64_t recent = m->next_replica > 24 ? m->next_replica - 24 : 0;
    uint64_t replica = rand_between(rng, recent, m->next_replica);
    int32_t role = (int32_t)rand_between(rng, 1, 2);
    uint64_t code;
    uint64_t want;
    switch (rand_below(rng, 20)) {
    case 0: {
        uint64_t incarnation = rand_between(rng, 1, 4);
        want = model_admit(m, host, incarnation);
        code = do_admit(f, host, incarnation);
        break;
    }
    case 1: {
        int32_t state = (int32_t)rand_between(rng, 1, 3);
        want = !m->hosts[host].known || m->hosts[host].tombstone ? THOLE_NOT_FOUND
               : m->hosts[host].removed                          ? THOLE_FAILED_PRECONDITION
                                                                 : THOLE_OK;
        if (want == THOLE_OK) {
            m->hosts[host].state = state;
        }
        code = do_host_state(f, host, state);
        break;
    }
    case 2:
        if (!rand_chance(rng, 0.1)) {
            return;
        }
        do_liveness(f, host, thole_v1_HOST_LIVENESS_DEAD);
        code = do_delete_host(f, host);
        want = is_needed(f) ? code : model_delete_host(m, host);
        break;
    case 3:
    case 4:
        want = model_create(m, name, 3);
        code = do_create_shard(f, names[name], 3, 0);
        break;
    case 5:
        want = model_delete_shard(m, name);
        code = do_delete_shard(f, names[name]);
        break;
    case 6:
    case 7:
    case 8:
        want = model_place(m, shard, host, role);
        code = do_place_one(f, shard, host, role);
        break;
    case 9:
        want = model_create_replica(m, name, host, role);
        code = do_create_replica(f, names[name], host, role);
        break;
    case 10:
    case 11:
        want = model_remove(m, replica);
        code = do_remove_replica(f, replica);
        break;
    case 12:
        want = model_role(m, replica, role);
        code = do_set_role(f, replica, role);
        break;
    case 13:
        want = shard < m->next_shard ? THOLE_OK : THOLE_NOT_FOUND;
        if (want == THOLE_OK) {
            m->shards[shard].formed = true;
        }
        code = do_formed(f, shard, 1, 1);
        break;
    case 14: {
        uint32_t voters = (uint32_t)rand_between(rng, 1, 5);
        int id = find_shard(m, name);
        want = id < 0                   ? THOLE_NOT_FOUND
               : m->shards[id].deleting ? THOLE_FAILED_PRECONDITION
                                        : THOLE_OK;
        if (want == THOLE_OK) {
            m->shards[id].voters = voters;
        }
        code = do_update_shard(f, names[name], voters, 0, "");
        break;
    }
    default: {
        int32_t phase = phases[rand_below(rng, sizeof phases / sizeof phases[0])];
        want = model_observe(m, replica, phase);
        code = do_observe(f, replica, phase, 7);
        break;
    }
    }
    assert_int_equal(code, want);
}

static void compare(const struct registry_view *v, const struct model *m)
{
    struct registry_replica_buf replica_buf;
    struct registry_shard_buf shard_buf;
    assert_int_equal(registry_next_replica_id(v), m->next_replica);
    for (uint64_t i = 1; i < m->next_replica; i++) {
        const thole_v1_Replica *r = registry_replica(v, i, &replica_buf);
        assert_int_equal(r != NULL, m->replicas[i].exists);
        if (r != NULL) {
            bool remove = thole_v1_Replica_desired(r) == thole_v1_REPLICA_DESIRED_REMOVE;
            assert_int_equal(remove, m->replicas[i].remove);
            assert_int_equal(thole_v1_Replica_phase(r), m->replicas[i].phase);
            assert_int_equal(thole_v1_Replica_role(r), m->replicas[i].role);
            assert_int_equal(thole_v1_Replica_shard_id(r), m->replicas[i].shard);
            assert_int_equal(thole_v1_Replica_initial(r), m->replicas[i].initial);
            assert_int_equal(thole_v1_Replica_owner(r) == thole_v1_REPLICA_OWNER_USER,
                             m->replicas[i].user);
        }
    }
    for (uint64_t i = 0; i < m->next_shard; i++) {
        const thole_v1_Shard *s = registry_shard(v, i, &shard_buf);
        assert_int_equal(s != NULL, m->shards[i].exists);
        if (s != NULL) {
            assert_int_equal(thole_v1_Shard_deleting(s), m->shards[i].deleting);
            assert_int_equal(thole_v1_ShardSpec_voters(thole_v1_Shard_spec(s)),
                             m->shards[i].voters);
        }
    }
    for (uint64_t i = 0; i < HOSTS; i++) {
        struct uuid id = test_uuid(i);
        const thole_v1_Host *h = registry_host(v, &id);
        assert_int_equal(h != NULL, m->hosts[i].known);
        if (h != NULL) {
            int32_t state = m->hosts[i].removed ? thole_v1_HOST_STATE_REMOVED : m->hosts[i].state;
            assert_int_equal(thole_v1_HostSpec_state(thole_v1_Host_spec(h)), state);
            assert_int_equal(thole_v1_Host_name(h).size == 0, m->hosts[i].tombstone);
        }
    }
}

/* ---- A watcher's mirror ---------------------------------------------------------------------- */

#define MIRROR_ROWS 8192
struct mirror {
    uint64_t revision;
    struct {
        char name[64];
        uint64_t revision;
    } rows[MIRROR_ROWS];
    size_t count, events;
};

static void mirror_set(struct mirror *m, const char *name, uint64_t revision)
{
    size_t i = 0;
    while (i < m->count && strcmp(m->rows[i].name, name) != 0) {
        i++;
    }
    if (revision == 0) {
        if (i < m->count) {
            m->rows[i] = m->rows[--m->count];
        }
        return;
    }
    assert_true(i < MIRROR_ROWS);
    m->count = i == m->count ? i + 1 : m->count;
    snprintf(m->rows[i].name, sizeof m->rows[i].name, "%s", name);
    m->rows[i].revision = revision;
}

static void on_host(void *ctx, const thole_v1_Host *row)
{
    char name[64];
    upb_StringView n = thole_v1_Host_name(row);
    snprintf(name, sizeof name, "hosts/%.*s", (int)n.size, n.data);
    mirror_set(ctx, name, thole_v1_Host_revision(row));
}

static void on_shard(void *ctx, const thole_v1_Shard *row)
{
    char name[64];
    upb_StringView n = thole_v1_Shard_name(row);
    snprintf(name, sizeof name, "shards/%.*s", (int)n.size, n.data);
    mirror_set(ctx, name, thole_v1_Shard_revision(row));
}

static void on_replica(void *ctx, const thole_v1_Replica *row)
{
    char name[64];
    upb_StringView n = thole_v1_Replica_shard(row);
    snprintf(name, sizeof name, "shards/%.*s/replicas/%" PRIu64, (int)n.size, n.data,
             thole_v1_Replica_id(row));
    mirror_set(ctx, name, thole_v1_Replica_revision(row));
}

static void on_event(void *ctx, const thole_v1_Event *row)
{
    struct mirror *m = ctx;
    assert_true(thole_v1_Event_revision(row) > m->revision);
    m->events++;
}

static void on_gone(void *ctx, const char *name)
{
    mirror_set(ctx, name, 0);
}

static const struct registry_changes *mirror_changes(struct mirror *m)
{
    static struct registry_changes c;
    c = (struct registry_changes){m,    on_host, on_shard, on_replica, NULL,
                                  NULL, NULL,    NULL,     on_event,   on_gone};
    return &c;
}

static void mirror_check(const struct mirror *m, const struct registry_view *v)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    struct mirror *full = calloc(1, sizeof *full);
    struct slice name = {0};
    const thole_v1_Host *h = NULL;
    while ((h = registry_next_host(v, name)) != NULL) {
        name = registry_str(thole_v1_Host_name(h));
        on_host(full, h);
    }
    name = (struct slice){0};
    const thole_v1_Shard *s = NULL;
    while ((s = registry_next_shard(v, name, &shard_buf)) != NULL) {
        name = registry_str(thole_v1_Shard_name(s));
        on_shard(full, s);
    }
    const thole_v1_Replica *r = NULL;
    uint64_t id = 0;
    while ((r = registry_next_replica(v, id, &replica_buf)) != NULL) {
        id = thole_v1_Replica_id(r);
        on_replica(full, r);
    }
    assert_int_equal(full->count, m->count);
    for (size_t i = 0; i < full->count; i++) {
        size_t j = 0;
        while (j < m->count && strcmp(full->rows[i].name, m->rows[j].name) != 0) {
            j++;
        }
        assert_true(j < m->count);
        assert_int_equal(full->rows[i].revision, m->rows[j].revision);
    }
    free(full);
}

/* ---- The runs -------------------------------------------------------------------------------- */

static void check_round_trip(struct fixture *f)
{
    struct bytes saved = {0};
    struct bytes again = {0};
    struct thole_status st;
    fixture_save(f, &saved);
    struct fixture other;
    fixture_init(&other);
    assert_int_equal(fixture_restore(&other, bytes_slice(&saved), &st), THOLE_OK);
    fixture_save(&other, &again);
    assert_true(slice_equal(bytes_slice(&saved), bytes_slice(&again)));
    struct registry_view *v = registry_view_acquire(other.r);
    check_invariants(v);
    registry_view_release(v);
    fixture_deinit(&other);
    bytes_deinit(&saved);
    bytes_deinit(&again);
}

static void run(uint64_t seed, size_t steps)
{
    struct fixture f;
    struct rand rng;
    struct model *m = calloc(1, sizeof *m);
    struct mirror *mirror = calloc(1, sizeof *mirror);
    struct registry_view *held[8] = {NULL};
    struct bytes digests[8] = {{0}};
    struct thole_status st;
    fixture_init(&f);
    rand_seed(&rng, seed);
    m->next_shard = 1;
    m->next_replica = 1;
    m->shards[0].exists = true;
    m->shards[0].placed = true;
    m->shards[0].name = -1;
    m->shards[0].voters = 3;
    assert_int_equal(do_bootstrap(&f, 3), THOLE_OK);
    for (uint64_t i = 0; i < 3; i++) {
        m->hosts[i].known = true;
        m->hosts[i].state = thole_v1_HOST_STATE_ACTIVE;
        m->hosts[i].incarnation = 1;
        add_replica(m, 0, i, thole_v1_REPLICA_ROLE_VOTER, false, true);
    }
    for (size_t i = 0; i < steps && m->next_shard < SHARDS - 1 && m->next_replica < REPLICAS - 1;
         i++) {
        step(&f, m, &rng);
        struct registry_view *v = registry_view_acquire(f.r);
        compare(v, m);
        if (i % 16 == 0) {
            check_invariants(v);
        }
        if (rand_chance(&rng, 0.2)) {
            assert_int_equal(
                registry_changes_since(v, mirror->revision, mirror_changes(mirror), &st), THOLE_OK);
            mirror->revision = registry_view_revision(v);
            mirror_check(mirror, v);
        }
        size_t slot = rand_below(&rng, 8);
        if (i % 32 == 0) {
            if (held[slot] != NULL) {
                struct bytes now = {0};
                view_digest(held[slot], &now);
                assert_true(slice_equal(bytes_slice(&now), bytes_slice(&digests[slot])));
                bytes_deinit(&now);
                registry_view_release(held[slot]);
            }
            held[slot] = registry_view_ref(v);
            bytes_clear(&digests[slot]);
            view_digest(v, &digests[slot]);
        }
        registry_view_release(v);
        if (i % 128 == 0) {
            check_round_trip(&f);
        }
    }
    for (size_t i = 0; i < 8; i++) {
        registry_view_release(held[i]);
        bytes_deinit(&digests[i]);
    }
    free(m);
    free(mirror);
    fixture_deinit(&f);
}

static void test_model_random_commands_agree(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        run(seed, 1500);
    }
}

static void test_changes_since_compacted_is_refused(void **state)
{
    struct registry_event_buf event_buf;
    (void)state;
    struct fixture f;
    struct thole_status st;
    fixture_init(&f);
    do_bootstrap(&f, 3);
    for (int i = 0; i < 17000; i++) {
        int32_t phase = i % 2 == 0 ? thole_v1_REPLICA_PHASE_RUNNING : thole_v1_REPLICA_PHASE_FAILED;
        assert_int_equal(do_observe(&f, 2, phase, 0), THOLE_OK);
    }
    struct mirror *mirror = calloc(1, sizeof *mirror);
    struct registry_view *v = registry_view_acquire(f.r);
    assert_int_equal(registry_changes_since(v, 5, mirror_changes(mirror), &st), THOLE_OUT_OF_RANGE);
    assert_int_equal(st.reason, THOLE_REASON_COMPACTED);
    mirror->revision = registry_view_revision(v) - 50;
    assert_int_equal(registry_changes_since(v, mirror->revision, mirror_changes(mirror), &st),
                     THOLE_OK);
    assert_int_equal(mirror->count, 3); /* the replica, and the failures in its shard and host */
    assert_int_equal(mirror->events, 50);
    size_t events = 0;
    uint64_t it = 0;
    while (registry_next_event(v, 0, &it, &event_buf) != NULL) {
        events++;
    }
    assert_int_equal(events, LIMIT_EVENTS);
    assert_int_equal(registry_oldest_event(v), registry_view_revision(v) - LIMIT_EVENTS + 1);
    registry_view_release(v);
    check_round_trip(&f);
    free(mirror);
    fixture_deinit(&f);
}

static void test_restore_damaged_snapshot_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    struct fixture other;
    struct bytes saved = {0};
    struct rand rng;
    rand_seed(&rng, 7);
    fixture_init(&f);
    fixture_init(&other);
    do_bootstrap(&f, 3);
    do_create_shard(&f, "a", 3, 0);
    do_place(&f, 1, 0, 3);
    fixture_save(&f, &saved);
    struct thole_status st;
    for (size_t cut = 0; cut < saved.size; cut += 3) {
        (void)fixture_restore(&other, slice_of(saved.data, cut), &st);
    }
    assert_int_not_equal(fixture_restore(&other, slice_of(saved.data, saved.size - 1), &st),
                         THOLE_OK);
    for (int i = 0; i < 2000; i++) {
        size_t at = rand_below(&rng, saved.size);
        uint8_t before = saved.data[at];
        saved.data[at] ^= (uint8_t)rand_between(&rng, 1, 255);
        (void)fixture_restore(&other, bytes_slice(&saved), &st);
        saved.data[at] = before;
    }
    bytes_deinit(&saved);
    fixture_deinit(&f);
    fixture_deinit(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_random_commands_agree),
        cmocka_unit_test(test_changes_since_compacted_is_refused),
        cmocka_unit_test(test_restore_damaged_snapshot_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
