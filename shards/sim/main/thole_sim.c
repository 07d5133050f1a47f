/* thole-sim: runs seeds, repeats one, shrinks a failure, and measures. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "shards/sim/sim.h"

#define EXIT_CRASHED 3

static char replay[512]; /* of the run under way */
static int output = -1;  /* a file for what the engines log, read only after a crash */
static int out = STDERR_FILENO;

static void tell(const char *text, size_t size)
{
    ssize_t n = write(out, text, size);
    (void)n;
}

static void on_signal(int number)
{
    (void)number;
    tell("replay: ", 8);
    tell(replay, strlen(replay));
    tell("\n", 1);
    _exit(EXIT_CRASHED);
}

/* The end of the output: a failed assertion, for example. */
static void show_output(void)
{
    char text[4096];
    if (lseek(output, -(off_t)sizeof text, SEEK_END) < 0) {
        (void)lseek(output, 0, SEEK_SET);
    }
    ssize_t n = read(output, text, sizeof text);
    tell(text, n > 0 ? (size_t)n : 0);
}

/* Failing replicas and disks are normal here, and so are their log lines. So all work is done in a
 * child whose stderr goes to a file, which is shown if the child crashes. */
static void hush(void)
{
    FILE *f = tmpfile();
    if (f == NULL) {
        return;
    }
    output = fileno(f);
    out = dup(STDERR_FILENO);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(output, STDERR_FILENO);
    }
    if (child <= 0) {
        return;
    }
    int status = 0;
    pid_t ended;
    do {
        ended = waitpid(child, &status, 0);
    } while (ended < 0 && errno == EINTR);
    bool crashed = !WIFEXITED(status) || WEXITSTATUS(status) > 2;
    if (crashed) {
        show_output();
    }
    exit(crashed ? 1 : WEXITSTATUS(status));
}

static void forget_output(void)
{
    if (output >= 0 && ftruncate(output, 0) == 0) {
        (void)lseek(output, 0, SEEK_SET);
    }
}

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool report(const struct sim_options *o, const struct sim_report *r)
{
    if (!r->failed) {
        return true;
    }
    char what[512];
    sim_describe(o, what, sizeof what);
    (void)printf("seed %" PRIu64 " FAILED at %" PRIu64 " ms: %s\n  %s\nreplay: %s\n", o->seed,
                 r->at_ns / 1000000, r->why, what, replay);
    (void)fflush(stdout);
    return false;
}

static bool run_one(const struct sim_options *o, struct sim_report *ret)
{
    forget_output();
    sim_replay_line(o, replay, sizeof replay);
    sim_run(o, ret);
    return report(o, ret);
}

struct command {
    struct sim_options o;
    uint64_t count;
    double seconds; /* start no further seed after that long; 0: no limit */
    bool trace, minimize, forked, verbose, bench, log;
    const char *canary;
};

struct totals {
    struct sim_report r;
    uint64_t failed, virtual_ns;
};

static void add(struct totals *to, const struct sim_report *r)
{
    to->virtual_ns += r->at_ns;
    to->r.turns += r->turns;
    to->r.proposals += r->proposals;
    to->r.reads += r->reads;
    to->r.unknown += r->unknown;
    to->r.crashes += r->crashes;
    to->r.elections += r->elections;
    to->r.snapshots += r->snapshots;
    to->r.changes += r->changes;
    to->r.flips += r->flips;
    to->r.sleeps += r->sleeps;
    to->r.ticks += r->ticks;
    to->r.forces += r->forces;
    to->r.inconclusive += r->inconclusive;
}

static int run_seeds(struct command c)
{
    struct sim_options o = c.o;
    struct totals all = {0};
    uint64_t seeds = 0;
    double begin = seconds();
    for (; seeds < c.count && (c.seconds == 0 || seconds() - begin < c.seconds);
         seeds++, o.seed++) {
        struct sim_report r;
        double before = seconds();
        forget_output();
        sim_replay_line(&o, replay, sizeof replay);
        if (c.forked) {
            sim_run_forked(&o, &r);
        } else {
            sim_run(&o, &r);
        }
        if (c.verbose) {
            (void)printf(
                "seed %" PRIu64 ": %.2f s, %" PRIu64 " turns, %" PRIu64 " commands, %" PRIu64
                " reads, %" PRIu64 " elections, hash %016" PRIx64 "\n",
                o.seed, seconds() - before, r.turns, r.proposals, r.reads, r.elections, r.hash);
        }
        all.failed += !report(&o, &r);
        add(&all, &r);
    }
    if (o.trace !=
        NULL) { /* the same to the byte every time: without what the clock on the wall says */
        return all.failed ? 1 : 0;
    }
    (void)printf("%" PRIu64 " seeds, %" PRIu64 " failed; %.1f virtual hours in %.1f s; %" PRIu64
                 " turns, %" PRIu64 " operations (%" PRIu64 " of unknown outcome), %" PRIu64
                 " crashes, %" PRIu64 " elections, %" PRIu64 " snapshots installed, %" PRIu64
                 " membership changes, %" PRIu64 " damages, %" PRIu64 " times asleep, %" PRIu64
                 " TICKs applied, %" PRIu64 " forced, %" PRIu64 " inconclusive histories\n",
                 seeds, all.failed, (double)all.virtual_ns / 3.6e12, seconds() - begin, all.r.turns,
                 all.r.proposals + all.r.reads, all.r.unknown, all.r.crashes, all.r.elections,
                 all.r.snapshots, all.r.changes, all.r.flips, all.r.sleeps, all.r.ticks,
                 all.r.forces, all.r.inconclusive);
    return all.failed ? 1 : 0;
}

/* Leave out faults, groups, hosts and time that the failure does not need. */
static int minimize(struct sim_options o)
{
    struct sim_report r;
    sim_run_forked(&o, &r);
    if (!r.failed) {
        (void)printf("seed %" PRIu64 " does not fail\n", o.seed);
        return 1;
    }
    for (int i = 0; sim_fault_name(i) != NULL; i++) {
        struct sim_options fewer = o;
        fewer.without |= UINT32_C(1) << i;
        sim_run_forked(&fewer, &r);
        if (r.failed) {
            o = fewer;
        }
    }
    struct sim_options smaller = o;
    smaller.groups = 1;
    sim_run_forked(&smaller, &r);
    o = r.failed ? smaller : o;
    smaller = o;
    smaller.hosts = 3;
    sim_run_forked(&smaller, &r);
    o = r.failed ? smaller : o;
    for (uint64_t low = 0, high = o.ticks; low < high;) {
        struct sim_options shorter = o;
        shorter.ticks = low + (high - low) / 2;
        sim_run_forked(&shorter, &r);
        if (r.failed) {
            high = o.ticks = shorter.ticks;
        } else {
            low = shorter.ticks + 1;
        }
    }
    sim_run_forked(&o, &r);
    sim_replay_line(&o, replay, sizeof replay);
    (void)report(&o, &r);
    return 0;
}

static int canaries(struct sim_options o, const char *only, uint64_t budget)
{
    int missed = 0;
    uint64_t first = o.seed;
    for (int i = 0; sim_canary_name(i) != NULL; i++) {
        struct sim_report r = {0};
        double begin = seconds();
        o.canary = sim_canary_name(i);
        if (strcmp(only, "all") != 0 && strcmp(only, o.canary) != 0) {
            continue;
        }
        (void)sim_canary_set(o.canary);
        o.force = strncmp(o.canary, "force_", 6) == 0;
        for (o.seed = first; o.seed < first + budget && !r.failed; o.seed++) {
            sim_run_forked(&o, &r);
        }
        o.seed--;
        sim_replay_line(&o, replay, sizeof replay);
        (void)printf("%-24s %s after %" PRIu64 " seeds, %.1f s: %s\n  %s\n", o.canary,
                     r.failed ? "found" : "NOT FOUND", o.seed - first + 1, seconds() - begin,
                     r.failed ? r.why : "", replay);
        (void)fflush(stdout);
        missed += !r.failed;
    }
    return missed ? 1 : 0;
}

static int bench(void)
{
    struct sim_report r;
    struct sim_options o = {.seed = 1, .ticks = 200000, .bench = true};
    double begin = seconds();
    if (!run_one(&o, &r)) {
        return 1;
    }
    double took = seconds() - begin;
    (void)printf(
        "no faults, 1 group, 3 hosts: %.0f cluster-ticks/s (%.0f commands/s, %.0f turns/s)\n",
        (double)o.ticks / took, (double)r.proposals / took, (double)r.turns / took);
    uint64_t ticks = 0;
    begin = seconds();
    for (o = (struct sim_options){.seed = 1, .ticks = SIM_TICKS_DEFAULT, .groups = 20};
         o.seed <= 10; o.seed++) {
        if (!run_one(&o, &r)) {
            return 1;
        }
        ticks += r.at_ns / 1000000 / SIM_TICK_MS;
    }
    took = seconds() - begin;
    (void)printf("faults, 20 groups, 10 seeds: %.0f cluster-ticks/s, %.0f group-ticks/s\n",
                 (double)ticks / took, (double)ticks * 20 / took);
    return 0;
}

static const char usage[] =
    "usage: thole-sim [options]\n"
    "  --seed N        the first seed (1); 0: from the clock\n"
    "  --seeds COUNT   how many (1)\n"
    "  --seconds S     start no further seed after that long\n"
    "  --ticks M       ticks of 10 ms with faults, before the last phase (8000)\n"
    "  --trace         print every event\n"
    "  --without LIST  faults to leave out, comma separated, or: all\n"
    "  --hosts N, --groups N  instead of what the seed says\n"
    "  --force         one group that loses its quorum and is forced, again and again\n"
    "  --minimize      shrink a failing seed\n"
    "  --canary NAME   switch an injected bug on; with --seeds: until found; or: all\n"
    "  --forked        each seed in its own process: go on after a failed assertion\n"
    "  --verbose       a line per seed\n"
    "  --bench         measure\n"
    "  --log LEVELS    show the engines' log lines\n";

static bool parse(int argc, char **argv, struct command *c)
{
    static const struct option options[] = {
        {"seed", 1, NULL, 's'},    {"seeds", 1, NULL, 'n'},
        {"ticks", 1, NULL, 't'},   {"trace", 0, NULL, 'T'},
        {"without", 1, NULL, 'w'}, {"hosts", 1, NULL, 'H'},
        {"groups", 1, NULL, 'g'},  {"minimize", 0, NULL, 'm'},
        {"canary", 1, NULL, 'c'},  {"forked", 0, NULL, 'f'},
        {"verbose", 0, NULL, 'v'}, {"bench", 0, NULL, 'b'},
        {"log", 1, NULL, 'l'},     {"seconds", 1, NULL, 'S'},
        {"force", 0, NULL, 'F'},   {0},
    };
    int option;
    bool ok = true;
    while (ok && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            c->o.seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            c->count = strtoull(optarg, NULL, 10);
            break;
        case 't':
            c->o.ticks = strtoull(optarg, NULL, 10);
            break;
        case 'T':
            c->trace = true;
            break;
        case 'w':
            ok = sim_fault_parse(optarg, &c->o.without);
            break;
        case 'H':
            c->o.hosts = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'g':
            c->o.groups = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'F':
            c->o.force = true;
            break;
        case 'm':
            c->minimize = true;
            break;
        case 'c':
            c->canary = optarg;
            break;
        case 'f':
            c->forked = true;
            break;
        case 'v':
            c->verbose = true;
            break;
        case 'b':
            c->bench = true;
            break;
        case 'l':
            ok = c->log = log_configure_text(optarg);
            break;
        case 'S':
            c->seconds = strtod(optarg, NULL);
            break;
        default:
            ok = false;
        }
    }
    return ok && optind == argc && c->o.hosts <= SIM_HOSTS_MAX && c->o.groups <= SIM_GROUPS_MAX;
}

int main(int argc, char **argv)
{
    struct command c = {.o = {.seed = 1, .ticks = SIM_TICKS_DEFAULT}};
    if (!parse(argc, argv, &c)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    if (c.canary != NULL && strcmp(c.canary, "all") != 0 &&
        !sim_canary_choose(c.canary, sim_canary_name)) {
        return 2;
    }
    if (!c.log) {
        hush();
    }
    (void)signal(SIGABRT, on_signal);
    (void)signal(SIGSEGV, on_signal);
    if (c.o.seed == 0) {
        c.o.seed = (uint64_t)time(NULL) * 100000;
    }
    c.o.trace = c.trace ? stdout : NULL;
    if (c.bench) {
        return bench();
    }
    if (c.minimize) {
        c.o.canary = c.canary;
        return minimize(c.o);
    }
    if (c.canary != NULL && c.count > 0) {
        return canaries(c.o, c.canary, c.count);
    }
    c.o.canary = c.canary;
    c.count = c.count ? c.count : c.seconds > 0 ? UINT64_MAX : 1;
    return run_seeds(c);
}
