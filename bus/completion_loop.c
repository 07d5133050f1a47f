/* A completion queue and its thread, with deferred tasks and timers on the same thread.
 *
 * gRPC's C API has no public alarm. To wake the sleeping thread, an empty batch is started on a
 * call that exists only for this (the bell). Timers bound how long the thread sleeps. */
#include <dlfcn.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <string.h>

#include "base/process.h"
#include "bus/bus_internal.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define TAG_RELEASE(p) __tsan_release(p)
#define TAG_ACQUIRE(p) __tsan_acquire(p)
#else
#define TAG_RELEASE(p) ((void)(p))
#define TAG_ACQUIRE(p) ((void)(p))
#endif

/* gRPC's own log lines are about single connections, and the bus logs what matters of them. But the
 * last line before gRPC aborts the process must be printed. */
static void grpc_log(gpr_log_func_args *args)
{
    if (strncmp(args->message, "assertion failed", 16) == 0) {
        LOG_ERROR(BUS, "grpc: %s file=%s line=%d", args->message, args->file, args->line);
    }
    LOG_DEBUG(BUS, "grpc: %s file=%s line=%d", args->message, args->file, args->line);
}

/* Debian's abseil is built with deadlock detection, so gRPC maintains a graph of all its locks at
 * every lock. There is no C function to switch it off; without the symbol nothing changes. Affects
 * the whole process. */
static void stop_deadlock_search(void)
{
    union {
        void *symbol;
        void (*set_mode)(int mode);
    } f = {dlsym(RTLD_DEFAULT,
                 "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE")};
    if (f.symbol != NULL) {
        f.set_mode(0); /* absl::OnDeadlockCycle::kIgnore */
    }
}

void bus__grpc_init(void)
{
    if (process_is_own()) {
        stop_deadlock_search();
    }
    grpc_init();
    gpr_set_log_function(grpc_log);
}

void bus__grpc_shutdown(void)
{
    grpc_shutdown_blocking();
}

gpr_timespec bus__deadline(uint32_t timeout_ms)
{
    if (timeout_ms == 0) {
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    }
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

void bus__tag_release(struct bus_tag *tag)
{
    ASSERT(tag->magic == BUS_TAG_MAGIC);
    TAG_RELEASE(tag);
}

void bus__start(grpc_call *call, const grpc_op *ops, size_t n, struct bus_tag *tag)
{
    bus__tag_release(tag);
    grpc_call_error e = grpc_call_start_batch(call, ops, n, tag, NULL);
    if (e != GRPC_CALL_OK) {
        LOG_ERROR(BUS, "gRPC refused a batch error=\"%s\"", grpc_call_error_to_string(e));
        ASSERT(e == GRPC_CALL_OK);
    }
}

#define STOP_MS_MAX 30000 /* tags return at once when their calls were cancelled */

grpc_call *bus__call_new(grpc_channel *channel, struct bus_loop *l, const char *path,
                         gpr_timespec deadline)
{
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, l->cq,
                                               method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    return call;
}

static uint64_t now_ms(const struct bus_loop *l)
{
    return clock_now(l->clock) / NS_PER_MS;
}

/* The loop that this thread runs. Other threads may ask while a loop stops, so neither the loop's
 * own fields nor the id of a joined thread could answer. */
static _Thread_local const struct bus_loop *loop_here;

bool bus__loop_here(const struct bus_loop *l)
{
    return loop_here == l;
}

/* The mutex is held. */
static void ring(struct bus_loop *l)
{
    if (!l->sleeping || l->rung) {
        return;
    }
    l->rung = true;
    bus__start(l->bell_call, NULL, 0, &l->bell);
}

static void rang(struct bus_tag *tag, bool ok)
{
    struct bus_loop *l = CONTAINER_OF(tag, struct bus_loop, bell);
    (void)ok;
    pthread_mutex_lock(&l->mutex);
    ASSERT(l->rung);
    l->rung = false;
    pthread_mutex_unlock(&l->mutex);
}

void bus__loop_init(struct bus_loop *l, const struct clock *clock)
{
    *l = (struct bus_loop){.clock = clock, .wake_ms = UINT64_MAX};
    l->tasks_tail = &l->tasks;
    pthread_mutex_init(&l->mutex, NULL);
    clock_cond_init(&l->changed);
    l->wheel = wheel_new(now_ms(l));
    l->cq = grpc_completion_queue_create_for_next(NULL);
    l->bell = bus_tag_of(rang);
    l->bell_channel = grpc_lame_client_channel_create("bell", GRPC_STATUS_UNAVAILABLE, "bell");
    l->bell_call = grpc_channel_create_call(l->bell_channel, NULL, 0, l->cq,
                                            grpc_slice_from_static_string("/bell"), NULL,
                                            gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

void bus__loop_set_token(struct bus_loop *l, const char *token)
{
    ASSERT(l->credential_count == 0);
    char *value = xasprintf("Bearer %s", token);
    l->credential = (grpc_metadata){.key = grpc_slice_from_static_string("authorization"),
                                    .value = grpc_slice_from_copied_string(value)};
    l->credential_count = 1;
    free(value);
}

grpc_op bus__send_headers(struct bus_loop *l)
{
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    op.data.send_initial_metadata.count = l->credential_count;
    op.data.send_initial_metadata.metadata = l->credential_count > 0 ? &l->credential : NULL;
    return op;
}

static void run_tasks(struct bus_loop *l)
{
    pthread_mutex_lock(&l->mutex);
    struct bus_task *t = l->tasks;
    l->tasks = NULL;
    l->tasks_tail = &l->tasks;
    pthread_mutex_unlock(&l->mutex);
    while (t != NULL) {
        struct bus_task *next = t->next;
        cork_begin();
        t->fn(t);
        cork_end();
        t = next;
    }
}

/* Fire due timers; returns the time of the next one. */
static uint64_t run_timers(struct bus_loop *l)
{
    uint64_t now = now_ms(l);
    for (;;) {
        pthread_mutex_lock(&l->mutex);
        struct wheel_timer *w = wheel_expire(l->wheel, now);
        uint64_t next = w != NULL ? 0 : wheel_next(l->wheel);
        if (w == NULL) {
            l->wake_ms = next;
        }
        pthread_mutex_unlock(&l->mutex);
        if (w == NULL) {
            return next;
        }
        struct bus_timer *t = CONTAINER_OF(w, struct bus_timer, wheel);
        t->fn(t);
    }
}

/* How long to wait; false: run the posted tasks first. */
static bool fall_asleep(struct bus_loop *l, gpr_timespec *ret)
{
    pthread_mutex_lock(&l->mutex);
    bool sleep = l->tasks == NULL;
    uint64_t wake = l->wake_ms;
    l->sleeping = sleep;
    pthread_mutex_unlock(&l->mutex);
    if (!sleep) {
        return false;
    }
    *ret = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (wake != UINT64_MAX) {
        uint64_t now = now_ms(l);
        int64_t left = wake > now ? (int64_t)(wake - now) : 0;
        *ret = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(left, GPR_TIMESPAN));
    }
    return true;
}

static void *loop_main(void *arg)
{
    struct bus_loop *l = arg;
    loop_here = l;
    (void)log_context_host(l->log_host);
    for (;;) {
        run_tasks(l);
        pthread_mutex_lock(&l->mutex);
        bool due = l->wake_ms != UINT64_MAX && now_ms(l) >= l->wake_ms;
        pthread_mutex_unlock(&l->mutex);
        if (due) {
            run_timers(l);
        }
        gpr_timespec until;
        if (!fall_asleep(l, &until)) {
            continue;
        }
        grpc_event ev = grpc_completion_queue_next(l->cq, until, NULL);
        pthread_mutex_lock(&l->mutex);
        l->sleeping = false;
        pthread_mutex_unlock(&l->mutex);
        if (ev.type == GRPC_QUEUE_SHUTDOWN) {
            return NULL;
        }
        if (ev.type != GRPC_OP_COMPLETE) {
            continue;
        }
        struct bus_tag *tag = ev.tag;
        TAG_ACQUIRE(tag);
        ASSERT(tag->magic == BUS_TAG_MAGIC);
        cork_begin(); /* one message may have a thousand requests */
        tag->fn(tag, ev.success != 0);
        cork_end();
    }
}

void bus__loop_run(struct bus_loop *l, const char *name, const char *host)
{
    l->log_host = host;
    int e = pthread_create(&l->thread, NULL, loop_main, l);
    ASSERT(e == 0);
    l->threaded = true;
    pthread_setname_np(l->thread, name);
}

void bus__loop_live(struct bus_loop *l, int change)
{
    pthread_mutex_lock(&l->mutex);
    ASSERT(change > 0 || l->live >= (size_t)-change);
    l->live += (size_t)change;
    if (l->live == 0) {
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->mutex);
}

bool bus__loop_enter(struct bus_loop *l)
{
    pthread_mutex_lock(&l->mutex);
    bool open = !l->closed;
    l->live += open;
    pthread_mutex_unlock(&l->mutex);
    return open;
}

bool bus__loop_wait(struct bus_loop *l, bool (*ready)(struct bus_loop *l), uint32_t timeout_ms)
{
    uint64_t deadline_ns = clock_now(&clock_system) + timeout_ms * NS_PER_MS;
    pthread_mutex_lock(&l->mutex);
    while (!ready(l) && clock_cond_wait(&l->changed, &l->mutex, deadline_ns)) {
    }
    bool is = ready(l);
    pthread_mutex_unlock(&l->mutex);
    return is;
}

static bool idle(struct bus_loop *l)
{
    return l->live == 0;
}

void bus__loop_stop(struct bus_loop *l)
{
    ASSERT(!bus__loop_here(l));
    pthread_mutex_lock(&l->mutex);
    l->closed = l->cancels = true;
    bus__unary_cancel_all(l);
    pthread_mutex_unlock(&l->mutex);
    if (!bus__loop_wait(l, idle, STOP_MS_MAX)) {
        LOG_ERROR(BUS, "calls do not end left=%zu; stopping without them", l->live);
    }
    grpc_completion_queue_shutdown(l->cq);
    if (l->threaded) {
        pthread_join(l->thread, NULL);
    } else {
        while (grpc_completion_queue_next(l->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
               GRPC_QUEUE_SHUTDOWN) {
        }
    }
    l->threaded = false;
    run_tasks(l);
}

void bus__loop_deinit(struct bus_loop *l)
{
    ASSERT(!l->threaded && l->tasks == NULL);
    if (l->credential_count > 0) {
        grpc_slice_unref(l->credential.value);
    }
    grpc_call_unref(l->bell_call);
    grpc_channel_destroy(l->bell_channel);
    grpc_completion_queue_destroy(l->cq);
    wheel_free(l->wheel);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
}

void bus__loop_post(struct bus_loop *l, struct bus_task *t)
{
    ASSERT(t->fn != NULL);
    t->next = NULL;
    pthread_mutex_lock(&l->mutex);
    bool closed = l->closed;
    if (!closed) {
        *l->tasks_tail = t;
        l->tasks_tail = &t->next;
        ring(l);
    }
    pthread_mutex_unlock(&l->mutex);
    if (closed) {
        t->fn(t);
    }
}

void bus__loop_arm(struct bus_loop *l, struct bus_timer *t, uint32_t after_ms)
{
    ASSERT(t->fn != NULL);
    pthread_mutex_lock(&l->mutex);
    uint64_t due = now_ms(l) + after_ms;
    if (!l->closed) {
        wheel_arm(l->wheel, &t->wheel, due);
        if (due < l->wake_ms) {
            l->wake_ms = due;
            ring(l);
        }
    }
    pthread_mutex_unlock(&l->mutex);
}

void bus__loop_cancel(struct bus_loop *l, struct bus_timer *t)
{
    pthread_mutex_lock(&l->mutex);
    wheel_cancel(l->wheel, &t->wheel);
    pthread_mutex_unlock(&l->mutex);
}
