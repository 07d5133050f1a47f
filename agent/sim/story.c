/* Expands a seed to a story. */
#include "agent/sim/story.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"

#define STORY_S_MIN 40
#define STORY_S_MAX 160

/* Relative frequency of each kind of step. */
static const uint8_t weights[STEP_KINDS] = {
    [STEP_CRASH] = 10,
    [STEP_POWER_LOSS] = 8,
    [STEP_RESTART] = 6,
    [STEP_MOVE] = 4,
    [STEP_PAUSE] = 6,
    [STEP_ISOLATE] = 5,
    [STEP_CUT] = 5,
    [STEP_CUT_ONE_WAY] = 4,
    [STEP_SLOW_LINK] = 3,
    [STEP_SLOW_DISK] = 4,
    [STEP_CUT_WRITE] = 4,
    [STEP_FAIL_WRITE] = 2,
    [STEP_LOW_SPACE] = 3,
    [STEP_CLOCK] = 2,
    [STEP_WALL] = 2,
    [STEP_FLAGS] = 2,
    [STEP_WIPE] = 3,
    [STEP_OLD_DISK] = 2,
    [STEP_COPY_DISK] = 2,
    [STEP_FLIP_LOG] = 3,
    [STEP_CREATE] = 6,
    [STEP_SCALE] = 8,
    [STEP_DELETE] = 3,
    [STEP_MOVE_REPLICA] = 6,
    [STEP_TRANSFER] = 5,
    [STEP_DRAIN] = 5,
    [STEP_UNDRAIN] = 5,
    [STEP_CORDON] = 2,
    [STEP_UNCORDON] = 2,
    [STEP_DECOMMISSION] = 2,
    [STEP_REBALANCE] = 2,
    [STEP_PAUSE_CONTROLLERS] = 1,
    [STEP_RESUME_CONTROLLERS] = 2,
    [STEP_ADD_REPLICA] = 3,
    [STEP_REMOVE_REPLICA] = 3,
    [STEP_CREATE_POOL] = 1,
    [STEP_SCALE_POOL] = 1,
    [STEP_DELETE_POOL] = 1,
    [STEP_CANCEL] = 2,
    [STEP_SAVE] = 4,
    [STEP_RESTORE] = 3,
    [STEP_REPAIR] = 2,
};

static enum step_kind draw_kind(struct rand *r)
{
    uint32_t total = 0;
    for (int i = 0; i < STEP_KINDS; i++) {
        total += weights[i];
    }
    uint64_t x = rand_below(r, total);
    for (int i = 0; i < STEP_KINDS; i++) {
        if (x < weights[i]) {
            return (enum step_kind)i;
        }
        x -= weights[i];
    }
    return STEP_CRASH;
}

static void draw_step(const struct story *s, struct rand *r, struct step *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->kind = draw_kind(r);
    ret->at_ns = rand_between(r, s->begin_ns, s->end_ns);
    ret->host = (int)rand_below(r, (uint64_t)s->hosts);
    ret->other =
        s->hosts > 1 ? (ret->host + 1 + (int)rand_below(r, (uint64_t)s->hosts - 1)) % s->hosts : 0;
    ret->through = (int)rand_below(r, (uint64_t)s->hosts);
    ret->shard = (int)rand_below(r, STORY_SHARDS);
    ret->amount = (uint32_t)rand_below(r, 1000);
    ret->request_id = rand_u64(r);
    ret->twice = rand_below(r, 10) == 0;
    /* Mostly seconds, now and then long enough for a host to be called dead. */
    uint64_t ms = rand_below(r, 4) == 0 ? rand_between(r, 5000, 30000) : rand_between(r, 50, 5000);
    ret->for_ns = ms * NS_PER_MS;
}

static void sort(struct story *s)
{
    for (size_t i = 1; i < s->count; i++) {
        struct step p = s->steps[i];
        size_t k = i;
        for (; k > 0 && s->steps[k - 1].at_ns > p.at_ns; k--) {
            s->steps[k] = s->steps[k - 1];
        }
        s->steps[k] = p;
    }
}

void story__draw(uint64_t seed, struct story *ret)
{
    static const uint8_t sizes[] = {1, 3, 3, 3, 3, 4, 5, 5, 6, 7};
    static const enum agent_bootstrap ways[] = {AGENT_BOOTSTRAP_PEERS, AGENT_BOOTSTRAP_JOIN,
                                                AGENT_BOOTSTRAP_JOIN};
    struct rand r;
    rand_seed(&r, seed * UINT64_C(0xd1342543de82ef95) + 7);
    memset(ret, 0, sizeof *ret);
    ret->seed = seed;
    ret->hosts = sizes[rand_below(&r, sizeof sizes)];
    ret->formed_by =
        ret->hosts == 1 ? AGENT_BOOTSTRAP_DEV : ways[rand_below(&r, sizeof ways / sizeof ways[0])];
    ret->zones = rand_below(&r, 3) == 0;
    ret->election_timeout_ms = rand_below(&r, 4) == 0 ? 1000 : 0;
    ret->names = rand_below(&r, 4) == 0;
    ret->compact_log_bytes = rand_below(&r, 3) == 0 ? 4096 : 0;
    ret->begin_ns = WORLD_START_NS + rand_between(&r, 100, 3000) * NS_PER_MS;
    ret->end_ns = ret->begin_ns + rand_between(&r, STORY_S_MIN, STORY_S_MAX) * NS_PER_S;
    ret->count = 10 + rand_below(&r, 60);
    ASSERT(ret->count <= STORY_STEPS_MAX);
    for (size_t i = 0; i < ret->count; i++) {
        draw_step(ret, &r, &ret->steps[i]);
    }
    for (int i = 0; i < STORY_SHARDS / 2; i++) { /* start with shards for later steps to act on */
        ret->steps[i].kind = STEP_CREATE;
        ret->steps[i].shard = i;
        ret->steps[i].at_ns = ret->begin_ns;
    }
    sort(ret);
}

/* ---- Description in English ------------------------------------------------------------------ */

/* Placeholders: H the host, O the other host, S the shard, T the duration, V voters, N shards of a
 * pool, F fast or slow. A description of a verb ends with the host that receives the call. */
static const char *const words[STEP_KINDS] = {
    [STEP_CRASH] = "$H's process is killed, and comes back after $T",
    [STEP_POWER_LOSS] = "$H loses power for $T",
    [STEP_RESTART] = "$H is stopped gracefully, and started after $T",
    [STEP_MOVE] = "$H is stopped, and started after $T at another address",
    [STEP_PAUSE] = "$H hangs for $T",
    [STEP_ISOLATE] = "$H is cut off from all for $T",
    [STEP_CUT] = "$H and $O do not reach each other for $T",
    [STEP_CUT_ONE_WAY] = "what $H sends to $O is lost for $T",
    [STEP_SLOW_LINK] = "what $H sends to $O is slow for $T",
    [STEP_SLOW_DISK] = "a write of $H hangs for $T",
    [STEP_CUT_WRITE] = "$H dies in its next write, and comes back after $T",
    [STEP_FAIL_WRITE] = "the disk of $H refuses a write",
    [STEP_LOW_SPACE] = "$H is out of space for $T",
    [STEP_CLOCK] = "the clock of $H runs $F",
    [STEP_WALL] = "the wall clock of $H jumps",
    [STEP_FLAGS] = "$H is stopped gracefully, and started after $T with other flags",
    [STEP_WIPE] = "$H loses its disk, and comes back after $T with an empty one",
    [STEP_OLD_DISK] = "$H is killed, and runs for $T on a backup of its disk",
    [STEP_COPY_DISK] = "a copy of the disk of $H runs elsewhere for $T",
    [STEP_FLIP_LOG] = "$H is killed, its log records of $Z are damaged, and it comes back after $T",
    [STEP_CREATE] = "shard $S is created",
    [STEP_SCALE] = "shard $S is given $V voters",
    [STEP_DELETE] = "shard $S is deleted",
    [STEP_MOVE_REPLICA] = "shard $S is moved from $H to $O",
    [STEP_TRANSFER] = "leadership of $S is handed to $H",
    [STEP_DRAIN] = "$H is drained",
    [STEP_UNDRAIN] = "$H is undrained",
    [STEP_CORDON] = "$H is cordoned",
    [STEP_UNCORDON] = "$H is uncordoned",
    [STEP_DECOMMISSION] = "$H is decommissioned",
    [STEP_REBALANCE] = "a rebalance is asked for",
    [STEP_PAUSE_CONTROLLERS] = "controllers are paused",
    [STEP_RESUME_CONTROLLERS] = "controllers are resumed",
    [STEP_ADD_REPLICA] = "a replica of $S is created on $H",
    [STEP_REMOVE_REPLICA] = "the replica of $S on $H is deleted",
    [STEP_CREATE_POOL] = "pool p of $N shards is created",
    [STEP_SCALE_POOL] = "pool p is scaled to $N shards",
    [STEP_DELETE_POOL] = "pool p is deleted",
    [STEP_CANCEL] = "the newest operation is cancelled",
    [STEP_SAVE] = "$Z is saved to a file",
    [STEP_RESTORE] = "a file is restored as shard $S",
    [STEP_REPAIR] = "a repair of shard $S is planned, and run if it is possible",
};

static void put_word(struct bytes *out, const struct step *p, char word)
{
    switch (word) {
    case 'H':
        bytes_printf(out, "h%d", p->host + 1);
        break;
    case 'O':
        bytes_printf(out, "h%d", p->other + 1);
        break;
    case 'S':
        bytes_printf(out, "s%d", p->shard);
        break;
    case 'Z':
        if (story__is_of_zero(p)) {
            bytes_printf(out, "shard zero");
        } else {
            put_word(out, p, 'S');
        }
        break;
    case 'T':
        bytes_printf(out, "%.1f s", (double)p->for_ns / 1e9);
        break;
    case 'V':
        bytes_printf(out, "%u", (unsigned)story__voters(p));
        break;
    case 'N':
        bytes_printf(out, "%u", (unsigned)story__pool_shards(p));
        break;
    case 'F':
        bytes_printf(out, "%s", p->amount % 2 != 0 ? "fast" : "slow");
        break;
    default:
        ASSERT(false && "no such word");
    }
}

void story__describe(const struct step *p, char *ret, size_t size)
{
    struct bytes out = {0};
    for (const char *c = words[p->kind]; *c != '\0'; c++) {
        if (*c == '$') {
            put_word(&out, p, *++c);
        } else {
            bytes_printf(&out, "%c", *c);
        }
    }
    if (p->kind >= STEP_FAULTS) {
        bytes_printf(&out, ", through h%d%s", p->through + 1, p->twice ? ", twice" : "");
    }
    snprintf(ret, size, "%.*s", (int)out.size, (const char *)out.data);
    bytes_deinit(&out);
}

bool story__is_of_zero(const struct step *p)
{
    return p->amount % 4 == 0;
}

/* An odd number, at most 7, and sometimes more than there are hosts. */
uint32_t story__voters(const struct step *p)
{
    return p->amount % 4 * 2 + 1;
}

uint32_t story__pool_shards(const struct step *p)
{
    return p->amount % 6 + 1;
}

void story__print(const struct story *s)
{
    char text[160];
    printf(
        "seed %" PRIu64 ": %d hosts, formed by %s%s%s%s%s\n", s->seed, s->hosts,
        s->formed_by == AGENT_BOOTSTRAP_DEV     ? "--dev"
        : s->formed_by == AGENT_BOOTSTRAP_PEERS ? "--peers"
                                                : "--join",
        s->zones ? ", in zones" : "", s->election_timeout_ms != 0 ? ", election timeout 1 s" : "",
        s->names ? ", known by names" : "", s->compact_log_bytes != 0 ? ", with short logs" : "");
    for (size_t i = 0; i < s->count; i++) {
        if (!s->steps[i].left_out) {
            story__describe(&s->steps[i], text, sizeof text);
            printf("  %8.3f s  %s\n", (double)(s->steps[i].at_ns - WORLD_START_NS) / 1e9, text);
        }
    }
}
