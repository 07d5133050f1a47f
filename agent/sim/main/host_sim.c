/* thole-host-sim: runs stories of a simulated cluster of whole hosts, repeats a story, and shrinks
 * a failing one. Each story runs in a child process, so that a failed assertion in the tested code
 * counts as a finding, too. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/sim/known_stories.h"
#include "agent/sim/play.h"
#include "base/log.h"
#include "shards/sim/sim.h"

static struct play_report *shared; /* written by the child */
static uint64_t wall_s_max = 120;  /* limit for one story: a longer one counts as hung */

static void run_child(const struct story *s, bool trace)
{
    (void)alarm((unsigned)wall_s_max);
    if (trace) { /* one stream with the log lines, in order */
        (void)setvbuf(stdout, NULL, _IOLBF, 0);
    } else {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(null, STDERR_FILENO);
    }
    struct play_report r;
    play__run(s, trace, &r);
    *shared = r;
    fflush(stdout);
    _exit(0);
}

static bool run(const struct story *s, bool trace, struct play_report *ret)
{
    int status = 0;
    memset(shared, 0, sizeof *shared);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        run_child(s, trace);
    }
    pid_t ended;
    do {
        ended = waitpid(child, &status, 0);
    } while (ended < 0 && errno == EINTR);
    *ret = *shared;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        ret->failed = true;
        snprintf(ret->failure, sizeof ret->failure, "the process died of signal %d%s",
                 WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                 WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hangs" : "");
    }
    return !ret->failed;
}

/* Do two failures have the same text, apart from numbers? */
static bool fails_alike(const char *a, const char *b)
{
    for (;; a++, b++) {
        a += strspn(a, "0123456789");
        b += strspn(b, "0123456789");
        if (*a != *b || *a == '\0') {
            return *a == *b;
        }
    }
}

/* Remove the steps that the failure does not need: first halves, then single steps. */
static void minimize(struct story *s, const char *failure, bool trace)
{
    struct play_report r;
    for (size_t part = s->count / 2; part > 0; part /= 2) {
        for (size_t from = 0; from < s->count; from += part) {
            struct story smaller = *s;
            bool any = false;
            for (size_t i = from; i < from + part && i < s->count; i++) {
                any = any || !smaller.steps[i].left_out;
                smaller.steps[i].left_out = true;
            }
            if (any && !run(&smaller, false, &r) && fails_alike(r.failure, failure)) {
                *s = smaller;
            }
        }
    }
    (void)run(s, trace, &r);
    story__print(s);
    printf("then: %s\n", r.failure);
}

static double cpu_s(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_CHILDREN, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

struct options {
    uint64_t seed, seeds, seconds;
    bool trace, minimize, story, replay;
    const char *canary, *known;
};

static bool parse(int argc, char **argv, struct options *ret)
{
    static const struct option known[] = {
        {"seed", required_argument, NULL, 's'},    {"seeds", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 't'}, {"trace", no_argument, NULL, 'v'},
        {"minimize", no_argument, NULL, 'm'},      {"story", no_argument, NULL, 'p'},
        {"canary", required_argument, NULL, 'c'},  {"replay", no_argument, NULL, 'r'},
        {"known", required_argument, NULL, 'k'},   {NULL, 0, NULL, 0},
    };
    *ret = (struct options){.seed = 1, .seeds = 1};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) >= 0;) {
        switch (c) {
        case 's':
            ret->seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            ret->seeds = strtoull(optarg, NULL, 10);
            break;
        case 't':
            ret->seconds = strtoull(optarg, NULL, 10);
            break;
        case 'v':
            ret->trace = true;
            break;
        case 'm':
            ret->minimize = true;
            break;
        case 'p':
            ret->story = true;
            break;
        case 'r':
            ret->replay = true;
            break;
        case 'c':
            ret->canary = optarg;
            break;
        case 'k':
            ret->known = optarg;
            break;
        default:
            fprintf(stderr, "usage: thole-host-sim [--seed N] [--seeds N | --seconds N] [--trace] "
                            "[--minimize] [--replay] [--story] [--canary NAME|all] "
                            "[--known NAME|all]\n");
            return false;
        }
    }
    if (ret->seconds > 0 && ret->seed == 0) {
        ret->seed = (uint64_t)time(NULL) * 100000;
    }
    return optind == argc;
}

static void add(struct play_report *to, const struct play_report *r)
{
    to->virtual_ms += r->virtual_ms;
    to->verbs += r->verbs;
    to->verbs_ok += r->verbs_ok;
    to->operations += r->operations;
    to->operations_ok += r->operations_ok;
}

/* ---- Injected bugs --------------------------------------------------------------------------- */

/* Some bugs have a story of their own (play_known). */
static bool has_known_story(const char *canary)
{
    int i = 0;
    while (known_story_name(i) != NULL && strcmp(known_story_canary(i), canary) != 0) {
        i++;
    }
    return known_story_name(i) != NULL;
}

/* Each injected bug must be found within that number of stories. */
static bool find_canaries(const char *only, uint64_t seeds)
{
    static struct story s;
    uint64_t missed = 0, tried = 0;
    for (int i = 0; sim_canary_of_hosts(i) != NULL; i++) {
        const char *name = sim_canary_of_hosts(i);
        struct play_report r = {0};
        uint64_t n = 0;
        if (strcmp(only, "all") == 0 ? has_known_story(name) : strcmp(only, name) != 0) {
            continue;
        }
        (void)sim_canary_set(name);
        for (; n < seeds && !r.failed; n++) {
            story__draw(1 + n, &s);
            (void)run(&s, false, &r);
        }
        tried++;
        missed += !r.failed;
        if (r.failed) {
            printf("%-24s found after %" PRIu64 " seeds, by seed %" PRIu64 ": %s\n", name, n,
                   s.seed, r.failure);
        } else {
            printf("%-24s NOT FOUND in %" PRIu64 " seeds\n", name, n);
        }
        fflush(stdout);
    }
    printf("%" PRIu64 " canaries, %" PRIu64 " not found; %.1f s of processor\n", tried, missed,
           cpu_s());
    return tried > 0 && missed == 0;
}

/* ---- Stories that failed once ---------------------------------------------------------------- */

/* Play the story with each seed. With its injected bug it must fail with one of them, without it
 * with none. */
static bool play_known(int i, const struct options *o)
{
    static struct story s;
    struct play_report r = {0};
    const char *canary = known_story_canary(i);
    bool ok = true, found = false;
    (void)sim_canary_set(NULL);
    for (uint64_t n = 0; n < o->seeds && ok; n++) {
        known_story_draw(i, o->seed + n, &s);
        ok = run(&s, o->trace, &r);
    }
    if (!ok) {
        printf("%-20s seed %" PRIu64 ": %s\n", known_story_name(i), s.seed, r.failure);
        return false;
    }
    (void)sim_canary_set(canary);
    for (uint64_t n = 0; n < o->seeds && !found; n++) {
        known_story_draw(i, o->seed + n, &s);
        found = !run(&s, o->trace, &r);
    }
    printf("%-20s ok; with %s %s\n", known_story_name(i), canary,
           found ? r.failure : "IT IS OK, TOO");
    return found;
}

static bool play_all_known(const struct options *o)
{
    int played = 0, failed = 0;
    for (int i = 0; known_story_name(i) != NULL; i++) {
        if (strcmp(o->known, "all") == 0 || strcmp(o->known, known_story_name(i)) == 0) {
            played++;
            failed += !play_known(i, o);
        }
    }
    printf("%d known stories, %d failed; %.1f s of processor\n", played, failed, cpu_s());
    return played > 0 && failed == 0;
}

/* Returns whether the story succeeded. */
static bool run_one(const struct options *o, uint64_t seed, bool alone, struct play_report *sum)
{
    static struct story s;
    struct play_report r;
    story__draw(seed, &s);
    if (o->story) {
        story__print(&s);
        return true;
    }
    bool ok = run(&s, o->trace && !o->minimize, &r);
    add(sum, &r);
    if (ok && o->replay) {
        uint64_t first = r.fingerprint;
        ok = run(&s, o->trace, &r) && r.fingerprint == first;
        snprintf(r.failure, sizeof r.failure, "two runs of the story differ");
    }
    if (ok && alone) {
        printf("seed %" PRIu64 ": ok, fingerprint %016" PRIx64 ", %" PRIu64 " events\n", seed,
               r.fingerprint, r.events);
    }
    if (!ok) {
        printf("seed %" PRIu64 ": %s\n  replay: thole-host-sim --seed %" PRIu64 " --trace\n", seed,
               r.failure, seed);
        if (o->minimize) {
            char failure[sizeof r.failure];
            snprintf(failure, sizeof failure, "%s", r.failure);
            minimize(&s, failure, o->trace);
        }
    }
    return ok;
}

int main(int argc, char **argv)
{
    struct options o;
    struct play_report sum = {0};
    uint64_t failed = 0, ran = 0;
    if (!parse(argc, argv, &o)) {
        return 2;
    }
    if (o.canary != NULL && strcmp(o.canary, "all") != 0 &&
        !sim_canary_choose(o.canary, sim_canary_of_hosts)) {
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    log_configure(o.trace ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, false);
    if (o.known != NULL) {
        return play_all_known(&o) ? 0 : 1;
    }
    bool one_story = o.seeds == 1 || o.story || o.minimize;
    if (o.canary != NULL && (strcmp(o.canary, "all") == 0 || !one_story)) {
        return find_canaries(o.canary, o.seeds) ? 0 : 1;
    }
    time_t until = time(NULL) + (time_t)o.seconds;
    bool alone = o.seeds == 1 && o.seconds == 0;
    for (; o.seconds > 0 ? time(NULL) < until : ran < o.seeds; ran++) {
        failed += !run_one(&o, o.seed + ran, alone, &sum);
        if (o.canary != NULL && failed > 0) {
            ran++;
            break;
        }
    }
    if (o.story) {
        return 0;
    }
    printf("%" PRIu64 " stories, %" PRIu64 " failed; %.1f virtual host-hours, %.0f virtual "
           "host-seconds per second of processor; verbs %" PRIu64 " (%" PRIu64
           " OK), operations of clients %" PRIu64 " (%" PRIu64 " OK)\n",
           ran, failed, (double)sum.virtual_ms / 3.6e6, (double)sum.virtual_ms / 1e3 / cpu_s(),
           sum.verbs, sum.verbs_ok, sum.operations, sum.operations_ok);
    return (failed > 0) == (o.canary != NULL) ? 0 : 1;
}
