/* Plays a story from its beginning until the cluster must have recovered. */
#include "agent/sim/play.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"

#define SUPERVISE_NS (100 * NS_PER_MS)
#define RESTART_NS NS_PER_S /* delay until a supervisor restarts a failed daemon */
#define SETTLE_NS (240 * NS_PER_S)
#define STEADY_NS (3 * NS_PER_S)
#define QUIET_NS (40 * NS_PER_S)
#define MEND_NS (20 * NS_PER_S)     /* the operator looks for what is lost this often */
#define GIVE_UP_NS (100 * NS_PER_S) /* from then on, shards that cannot be repaired are deleted */

struct play play;

void host_name_of(int n, char ret[16])
{
    memcpy(ret, world__host(n)->name, 16);
}

void shard_name_of(int n, char ret[16])
{
    snprintf(ret, 16, "s%d", n);
}

/* ---- Starting and restarting hosts ----------------------------------------------------------- */

/* List the current addresses of all hosts but one: of the founding hosts, or of the hosts to
 * contact for a join. */
static void all_addresses(char *ret, size_t size, int but)
{
    size_t used = 0;
    ret[0] = '\0';
    for (int i = 0; i < world__host_count() && used < size; i++) {
        if (i != but) {
            used +=
                (size_t)snprintf(ret + used, size - used, "%s%s", used > 0 ? "," : "",
                                 world__host(i)->advertise[0] != '\0' ? world__host(i)->advertise
                                                                      : world__host(i)->address);
        }
    }
}

/* Variations of the flags of one start. */
static void vary(struct host_start *o, uint32_t flags, bool member)
{
    static const char *const other_tags[] = {"zone=b", "rack=r1"};
    if (flags % 2 == 1) {
        o->tags = other_tags;
        o->tag_count = flags / 2 % 3;
    }
    if (flags / 8 % 2 == 1) {
        o->election_timeout_ms = o->election_timeout_ms == 0 ? 1000 : 0;
    }
    if (flags / 16 % 3 == 1 && member) { /* a member ignores how clusters are formed */
        o->bootstrap = AGENT_BOOTSTRAP_NONE;
        free((void *)(uintptr_t)o->addresses);
        o->addresses = NULL;
    } else if (flags / 16 % 3 == 2 && member) {
        o->bootstrap = AGENT_BOOTSTRAP_DEV;
        free((void *)(uintptr_t)o->addresses);
        o->addresses = NULL;
    }
}

static void start_host(int n)
{
    static const char *const zones[] = {"zone=a", "zone=b", "zone=c"};
    char addresses[512];
    const struct story *s = play.story;
    struct wanted *want = &play.wanted[n];
    struct world_host *h = world__host(n);
    bool first = n == 0 && s->formed_by == AGENT_BOOTSTRAP_JOIN && !want->joins;
    enum agent_bootstrap how = want->joins ? AGENT_BOOTSTRAP_JOIN : s->formed_by;
    all_addresses(addresses, sizeof addresses, how == AGENT_BOOTSTRAP_PEERS ? -1 : n);
    struct host_start o = {
        .bootstrap = first ? AGENT_BOOTSTRAP_DEV : how,
        .addresses = first || how == AGENT_BOOTSTRAP_DEV ? NULL : strdup(addresses),
        .tags = &zones[n % 3],
        .tag_count = s->zones ? 1 : 0,
        .election_timeout_ms = s->election_timeout_ms,
        .compact_log_bytes = s->compact_log_bytes,
    };
    vary(&o, want->flags, play.formed && want->admitted);
    want->flags = 0;
    if (want->keeps_images && want->admitted) {
        want->image = disk__image(h);
    }
    want->admitted = false;
    host__start(h, &o);
}

/* A copy of a host's disk, which somebody starts again and again. */
static void supervise_copy(void)
{
    struct world_host *copy = world__host(WORLD_COPY);
    if (world__now_ns() >= play.copy_until_ns) {
        return;
    }
    if (copy->failure.code != THOLE_OK && copy->life != NULL && copy->life->agent != NULL) {
        host__stop(copy);
    } else if (copy->life == NULL) {
        char addresses[512];
        all_addresses(addresses, sizeof addresses, -1);
        const struct host_start o = {.bootstrap = AGENT_BOOTSTRAP_JOIN,
                                     .addresses = strdup(addresses),
                                     .election_timeout_ms = play.story->election_timeout_ms,
                                     .compact_log_bytes = play.story->compact_log_bytes};
        host__start(copy, &o);
    }
}

static void note_ready(void)
{
    bool all = true;
    for (int n = 0; n < world__host_count(); n++) {
        bool ready = host__ready(world__host(n));
        play.wanted[n].admitted = play.wanted[n].admitted || ready;
        all = all && ready;
    }
    play.formed = play.formed || all;
}

static void supervise(void *ctx)
{
    (void)ctx;
    for (int n = 0; n < world__host_count(); n++) {
        struct world_host *h = world__host(n);
        struct wanted *want = &play.wanted[n];
        if (h->failure.code != THOLE_OK && h->failure.reason == THOLE_REASON_REMOVED) {
            want->out = true;
        }
        if (h->failure.code != THOLE_OK && h->life != NULL && h->life->agent != NULL &&
            !h->stopping) {
            uint64_t until = world__now_ns() + RESTART_NS;
            want->down_until_ns = until > want->down_until_ns ? until : want->down_until_ns;
            host__stop(h);
        }
        if (h->life == NULL && !want->out && world__now_ns() >= want->down_until_ns) {
            start_host(n);
            want->down_until_ns = world__now_ns() + RESTART_NS;
        }
    }
    supervise_copy();
    note_ready();
    world__at(world__now_ns() + SUPERVISE_NS, NULL, supervise, NULL);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void do_step(void *ctx)
{
    const struct step *p = ctx;
    if (play.calm) {
        return;
    }
    if (p->kind < STEP_FAULTS) {
        char text[160];
        story__describe(p, text, sizeof text);
        world__trace("--- %s", text);
        checks__note_fault();
        faults__do(p);
    } else if (p->kind >= STEP_SAVE) {
        data_verbs__do(p);
    } else {
        verbs__do(p);
    }
}

static void plan_steps(const struct story *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (!s->steps[i].left_out) {
            world__at(s->steps[i].at_ns, NULL, do_step, (void *)(uintptr_t)&s->steps[i]);
            play.wanted[s->steps[i].host].keeps_images |=
                s->steps[i].kind == STEP_OLD_DISK || s->steps[i].kind == STEP_COPY_DISK;
        }
    }
}

/* ---- The last phase -------------------------------------------------------------------------- */

/* One change of rows may follow from another, so it must stay settled for a while. */
static bool settled(void *ctx)
{
    (void)ctx;
    static uint64_t looked_ns, unsettled_ns;
    char why[256];
    if (world__now_ns() < looked_ns + 100 * NS_PER_MS) {
        return false;
    }
    looked_ns = world__now_ns();
    bool ok = checks__settled(why, sizeof why) && unsettled_ns != 0;
    unsettled_ns = ok ? unsettled_ns : world__now_ns();
    return world__now_ns() - unsettled_ns > STEADY_NS;
}

static bool probed(void *ctx)
{
    (void)ctx;
    return clients__probed();
}

static uint64_t calm_from_ns;

bool play__calm_for(uint64_t ns)
{
    return play.calm && world__now_ns() >= calm_from_ns + ns;
}

static void mend(void *ctx)
{
    (void)ctx;
    for (int n = 0; n < world__host_count() && !play.settled; n++) {
        if (host__ready(world__host(n)) && !play.wanted[n].out) {
            data_verbs__mend(n, world__now_ns() > calm_from_ns + GIVE_UP_NS);
            break;
        }
    }
    world__at(world__now_ns() + MEND_NS, NULL, mend, NULL);
}

static void last_phase(void)
{
    char why[256] = "";
    calm_from_ns = world__now_ns();
    world__at(world__now_ns() + MEND_NS, NULL, mend, NULL);
    world__trace("--- faults end");
    play.calm = true;
    checks__note_fault();
    faults__end_all();
    uint64_t end = world__now_ns() + SETTLE_NS;
    for (int tries = 0; tries < 3; tries++) { /* at least one attempt should reach a running host */
        world__run(world__now_ns() + 10 * NS_PER_S, NULL, NULL);
        for (int n = 0; n < world__host_count(); n++) {
            if (host__ready(world__host(n))) {
                verbs__resume_controllers(n);
                break;
            }
        }
    }
    world__run(end, settled, NULL);
    if (!world__failed() && !checks__settled(why, sizeof why)) {
        world__fail("%.0f s after the last fault %s", (double)SETTLE_NS / 1e9, why);
    }
    play.settled = true;
    clients__stop();
    clients__probe();
    world__run(world__now_ns() + 30 * NS_PER_S, probed, NULL);
    if (!world__failed() && !clients__probed()) {
        world__fail("a shard that is ready takes no write, or answers no read");
    }
    world__run(world__now_ns() + QUIET_NS, NULL, NULL);
    uint64_t revision = checks__revision();
    world__run(world__now_ns() + QUIET_NS, NULL, NULL);
    if (!world__failed() && checks__revision() != revision) {
        world__fail("shard zero is still written when nothing changes: revision %" PRIu64
                    ", and %.0f s later %" PRIu64,
                    revision, (double)QUIET_NS / 1e9, checks__revision());
    }
    clients__check_end();
}

void play__run(const struct story *s, bool trace, struct play_report *ret)
{
    char root[] = "/dev/shm/thole-host-sim.XXXXXX";
    struct thole_status st = {0};
    memset(&play, 0, sizeof play);
    memset(ret, 0, sizeof *ret);
    play.story = s;
    if (mkdtemp(root) == NULL) {
        perror("mkdtemp");
        abort();
    }
    world__begin(s->seed, trace);
    for (int n = 0; n < s->hosts; n++) {
        host__init(world__host(n), n, root);
        if (s->names) {
            snprintf(world__host(n)->advertise, WORLD_ADDRESS_BYTES, "m%d.sim:7400", n + 1);
        }
    }
    host__init(world__host(WORLD_COPY), WORLD_COPY, root);
    supervise(NULL);
    checks__start();
    claims__start();
    clients__start();
    plan_steps(s);
    world__run(s->end_ns, NULL, NULL);
    if (!world__failed()) {
        last_phase();
    }
    ret->failed = world__failed();
    if (ret->failed) {
        checks__trace_state();
    }
    snprintf(ret->failure, sizeof ret->failure, "%s", world__failure());
    ret->fingerprint = world__fingerprint();
    ret->events = world__events();
    ret->virtual_ms =
        (world__now_ns() - WORLD_START_NS) / NS_PER_MS * (uint64_t)world__host_count();
    ret->verbs = play.verbs;
    ret->verbs_ok = play.verbs_ok;
    ret->operations = play.operations;
    ret->operations_ok = play.operations_ok;
    if (file_remove_tree(root, &st) != THOLE_OK) {
        fprintf(stderr, "%s\n", st.message);
    }
}
