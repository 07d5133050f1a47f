/* Hosts with work that belongs where a shard leads: one of them does it, and when that one dies or
 * hands over, another goes on.
 *
 *   cc leader.c $(pkg-config --cflags --libs thole) -pthread -o leader
 *   ./leader data1 h1 127.0.0.1:7400
 *   ./leader data2 h2 127.0.0.1:7401 127.0.0.1:7400
 *   ./leader data3 h3 127.0.0.1:7402 127.0.0.1:7400
 *
 * The work here is a step every tenth of a second. For a moment a former leader may still work
 * beside the new one, so each step carries the term, and the machine refuses steps of lower terms
 * than it has seen. A step whose outcome is unknown may count: a program that minds puts a
 * request_id into its proposals. The query "" answers with steps, term and refused steps. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>
#include <time.h>

#define STEP_NS 100000000L
#define REFUSED 1

/* ---- The machine: counts steps ------------------------------------------------------------- */

struct steps {
    uint64_t count, term, refused;
};

static enum thole_code steps_open(const struct thole_machine_env *env, void **ret,
                                  struct thole_status *st)
{
    (void)env;
    *ret = calloc(1, sizeof(struct steps));
    return *ret != NULL ? THOLE_OK
                        : THOLE_FAIL(st, THOLE_RESOURCE_EXHAUSTED, THOLE_REASON_NONE, "no memory");
}

static enum thole_code steps_apply(void *machine, struct thole_apply *batch,
                                   struct thole_status *st)
{
    struct steps *m = machine;
    (void)st;
    for (size_t i = 0; i < batch->entry_count; i++) {
        struct thole_entry *e = thole_apply_entry(batch, i);
        uint64_t term = 0;
        if (e->command.size == sizeof term) { /* all hosts here have one byte order */
            memcpy(&term, e->command.data, sizeof term);
        }
        if (term == 0 || term < m->term) {
            m->refused++;
            e->code = REFUSED;
        } else {
            m->term = term;
            m->count++;
        }
    }
    return THOLE_OK;
}

static enum thole_code steps_query(void *machine, const void *view, struct thole_slice query,
                                   struct thole_sink *answer, struct thole_status *st)
{
    const struct steps *m = machine;
    char out[80];
    (void)view, (void)query, (void)st;
    int n = snprintf(out, sizeof out, "%" PRIu64 " %" PRIu64 " %" PRIu64, m->count, m->term,
                     m->refused);
    return answer->write(answer, out, (size_t)n);
}

static enum thole_code steps_save(void *machine, const void *view, struct thole_save *to,
                                  struct thole_status *st)
{
    (void)view, (void)st;
    return to->out->write(to->out, machine, sizeof(struct steps));
}

static enum thole_code steps_restore(void *machine, struct thole_restore *from,
                                     struct thole_status *st)
{
    size_t have = 0;
    for (int64_t n; have < sizeof(struct steps); have += (size_t)n) {
        n = from->in->read(from->in, (char *)machine + have, sizeof(struct steps) - have);
        if (n <= 0) {
            return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "the snapshot is cut");
        }
    }
    return THOLE_OK;
}

static const struct thole_machine_type steps_type = {
    .size = sizeof steps_type,
    .version = 1,
    .name = "steps",
    .open = steps_open,
    .close = free,
    .apply = steps_apply,
    .query = steps_query,
    .save = steps_save,
    .restore = steps_restore,
};

/* ---- The work ------------------------------------------------------------------------------ */

struct work {
    struct thole *t;
    struct thole_shard *shard;
    const char *name; /* of this host */
    uint64_t term;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
};

/* True once the work should end. */
static bool pause_until_next(struct work *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += STEP_NS;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&w->lock);
    for (int rc = 0; !w->stop && rc == 0;) {
        rc = pthread_cond_timedwait(&w->wake, &w->lock, &until);
    }
    bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return stop;
}

static void *steps(void *ctx)
{
    struct work *w = ctx;
    const struct thole_op op = {.kind = THOLE_PROPOSE,
                                .shard = w->shard,
                                .payload = {&w->term, sizeof w->term},
                                .timeout_ms = 1000};
    do {
        struct thole_answer answer = {0};
        struct thole_status st;
        if (thole_call(w->t, &op, &answer, &st) != THOLE_OK) {
            fprintf(stderr, "%s: a step fails: %s\n", w->name, st.message);
        } else if (answer.value == REFUSED) {
            fprintf(stderr, "%s: another host leads\n", w->name); /* `stop` is about to be called */
        }
        free(answer.data);
    } while (!pause_until_next(w));
    return NULL;
}

static void start(void *ctx, uint64_t term)
{
    struct work *w = ctx;
    printf("%s starts in term %" PRIu64 "\n", w->name, term);
    w->term = term;
    w->stop = false;
    if (pthread_create(&w->thread, NULL, steps, w) != 0) {
        abort();
    }
}

static void stop(void *ctx, uint64_t term)
{
    struct work *w = ctx;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    printf("%s stopped in term %" PRIu64 "\n", w->name, term);
}

/* ---- The program --------------------------------------------------------------------------- */

static int fail(const char *what, const struct thole_status *st)
{
    fprintf(stderr, "%s: %s (%s)\n", what, st->message, thole_reason_name(st->reason));
    return 1;
}

/* Until a signal. */
static int run(struct thole *t, struct work *w, const sigset_t *signals)
{
    const struct thole_shard_spec spec = {
        .size = sizeof spec, .name = "steps", .type = "steps", .voters = 3};
    const struct thole_leader_work hooks = {
        .size = sizeof hooks, .ctx = w, .start = start, .stop = stop};
    struct thole_status st;
    uint64_t id = 0;
    int got;
    if (thole_wait_ready(t, 30000, &st) != THOLE_OK ||
        thole_shard_apply(t, &spec, 10000, &st) != THOLE_OK ||
        thole_shard_open(t, spec.name, &w->shard, &st) != THOLE_OK ||
        thole_on_lead(t, w->shard, &hooks, &id, &st) != THOLE_OK) {
        return fail("beginning", &st);
    }
    printf("%s at %s\n", w->name, thole_address(t));
    (void)sigwait(signals, &got);
    thole_off_lead(t, id);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: leader DATA_DIRECTORY NAME LISTEN_ADDRESS [ADDRESS_TO_JOIN]\n");
        return 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before there are threads */
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct thole_options options = THOLE_OPTIONS_INIT;
    options.data_dir = argv[1];
    options.name = argv[2];
    options.listen = argv[3];
    options.bootstrap = argc > 4 ? THOLE_BOOTSTRAP_JOIN : THOLE_BOOTSTRAP_DEV;
    options.addresses = argc > 4 ? argv[4] : NULL;

    struct work w = {
        .name = argv[2], .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    struct thole_status st;
    int rc = 0;
    if (thole_new(&options, &w.t, &st) != THOLE_OK ||
        thole_register(w.t, &steps_type, &st) != THOLE_OK || thole_start(w.t, &st) != THOLE_OK) {
        rc = fail("starting", &st);
    } else {
        rc = run(w.t, &w, &signals);
    }
    thole_close(w.t);
    thole_shard_release(w.shard);
    return rc;
}
