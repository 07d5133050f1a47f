#include "agent/sim/known_stories.h"

#include <string.h>

#include "base/assert.h"

#define AT(ms) (WORLD_START_NS + UINT64_C(ms) * NS_PER_MS)
#define FOR(ms) (UINT64_C(ms) * NS_PER_MS)
#define END_MS 120000

struct known_story {
    const char *name, *canary;
    int hosts;
    enum agent_bootstrap formed_by;
    bool names;
    uint32_t election_timeout_ms;
    const struct step *steps;
    size_t count;
};

/* ---- What `amount` means to the verbs -------------------------------------------------------- */

#define ONE_VOTER_NEW 3 /* of STEP_CREATE */
#define THREE_VOTERS_NEW 1
#define SEVEN_VOTERS 3 /* of STEP_SCALE */
#define OF_ZERO 0      /* of STEP_FLIP_LOG */
#define OF_SHARD 1

/* ---- The stories ----------------------------------------------------------------------------- */

/* A host is removed while it votes in shard zero, and restarts before that vote is taken. It ended
 * at once, and its vote was missing when another host failed. */
static const struct step removed_restarts[] = {
    {.at_ns = AT(21392), .kind = STEP_CRASH, .host = 3, .for_ns = FOR(23300)},
    {.at_ns = AT(23183), .kind = STEP_DECOMMISSION, .host = 1},
    {.at_ns = AT(30619), .kind = STEP_POWER_LOSS, .host = 1, .for_ns = FOR(4300)},
    {.at_ns = AT(34500), .kind = STEP_CUT_ONE_WAY, .host = 0, .other = 2, .for_ns = FOR(27500)},
    {.at_ns = AT(56501), .kind = STEP_FLIP_LOG, .host = 2, .amount = OF_ZERO, .for_ns = FOR(2400)},
};

/* A shard's only voter fails while its host lives. */
static const struct step only_voter_fails[] = {
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 0, .amount = ONE_VOTER_NEW},
    {.at_ns = AT(20000), .kind = STEP_FLIP_LOG, .host = 0, .amount = OF_SHARD},
    {.at_ns = AT(30000), .kind = STEP_FLIP_LOG, .host = 1, .amount = OF_SHARD},
    {.at_ns = AT(40000), .kind = STEP_FLIP_LOG, .host = 2, .amount = OF_SHARD},
};

/* A host's disk hangs, so it does not learn that shards are deleted of which it has no replica. */
static const struct step disk_hangs[] = {
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 0, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 1, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 2, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(10000), .kind = STEP_SLOW_DISK, .host = 4, .for_ns = FOR(40000)},
    {.at_ns = AT(18000), .kind = STEP_DELETE, .shard = 0},
    {.at_ns = AT(18000), .kind = STEP_DELETE, .shard = 1},
    {.at_ns = AT(18000), .kind = STEP_DELETE, .shard = 2},
};

/* The only host starts without space, and its disk hangs while the space returns. It was not ready
 * for ever. */
static const struct step disk_hangs_alone[] = {
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 0, .amount = ONE_VOTER_NEW},
    {.at_ns = AT(20000), .kind = STEP_LOW_SPACE, .host = 0, .for_ns = FOR(25000)},
    {.at_ns = AT(22000), .kind = STEP_CRASH, .host = 0, .for_ns = FOR(3000)},
    {.at_ns = AT(24000), .kind = STEP_SLOW_DISK, .host = 0, .for_ns = FOR(40000)},
};

/* A replica fails on a host whose wall clock is 22 hours ahead. It was rebuilt 22 hours later. */
static const struct step clock_ahead[] = {
    {.at_ns = AT(3000), .kind = STEP_CREATE, .shard = 0, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(10000), .kind = STEP_WALL, .host = 2, .for_ns = 166400000},
    {.at_ns = AT(15000), .kind = STEP_FLIP_LOG, .host = 2, .amount = OF_SHARD},
};

/* A shard is given more voters than there are hosts while a replica of it moves for balance. The
 * move was counted for ever, and the rebalance never ended. */
static const struct step scaled_while_moving[] = {
    {.at_ns = AT(2803), .kind = STEP_CREATE, .shard = 0, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(2900), .kind = STEP_CREATE, .shard = 1, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(2950), .kind = STEP_CREATE, .shard = 2, .amount = THREE_VOTERS_NEW},
    {.at_ns = AT(30000), .kind = STEP_WIPE, .host = 2, .for_ns = FOR(700)},
    {.at_ns = AT(30600), .kind = STEP_REBALANCE},
    {.at_ns = AT(32600), .kind = STEP_SCALE, .shard = 0, .amount = SEVEN_VOTERS},
    {.at_ns = AT(32700), .kind = STEP_SCALE, .shard = 1, .amount = SEVEN_VOTERS},
    {.at_ns = AT(32800), .kind = STEP_SCALE, .shard = 2, .amount = SEVEN_VOTERS},
};

#define STEPS(s) (s), sizeof(s) / sizeof(s)[0]
#define PEERS AGENT_BOOTSTRAP_PEERS
#define JOIN AGENT_BOOTSTRAP_JOIN

static const struct known_story all[] = {
    {"removed_restarts", "removed_ends_early", 4, PEERS, false, 0, STEPS(removed_restarts)},
    {"only_voter_fails", "failed_voter_counts", 3, JOIN, false, 0, STEPS(only_voter_fails)},
    {"disk_hangs", "stalled_host_vouches", 5, JOIN, false, 0, STEPS(disk_hangs)},
    {"disk_hangs_alone", "stall_never_ends", 1, AGENT_BOOTSTRAP_DEV, false, 0,
     STEPS(disk_hangs_alone)},
    {"clock_ahead", "pause_by_wall_clock", 3, JOIN, false, 0, STEPS(clock_ahead)},
    {"scaled_while_moving", "move_never_ends", 5, JOIN, false, 0, STEPS(scaled_while_moving)},
};

const char *known_story_name(int i)
{
    return (size_t)i < sizeof all / sizeof all[0] ? all[i].name : NULL;
}

const char *known_story_canary(int i)
{
    return all[i].canary;
}

void known_story_draw(int i, uint64_t seed, struct story *ret)
{
    const struct known_story *k = &all[i];
    memset(ret, 0, sizeof *ret);
    ret->seed = seed;
    ret->hosts = k->hosts;
    ret->formed_by = k->formed_by;
    ret->names = k->names;
    ret->election_timeout_ms = k->election_timeout_ms;
    ret->begin_ns = WORLD_START_NS;
    ret->end_ns = AT(END_MS);
    ASSERT(k->count <= STORY_STEPS_MAX);
    memcpy(ret->steps, k->steps, k->count * sizeof k->steps[0]);
    ret->count = k->count;
    for (size_t step = 0; step < ret->count; step++) {
        ret->steps[step].request_id = step + 1;
    }
}
