/* Hosts in this process for tests. See agent_fixture.h. */
#include "agent/core/test/agent_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/latch.h"
#include "base/log.h"

#include <cmocka.h>

static uint16_t free_port(int *ret_fd)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &size), 0);
    *ret_fd = fd;
    return ntohs(sa.sin_port);
}

struct fixture *fixture_new(int n)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    int fds[FIXTURE_HOSTS_MAX];
    size_t used = 0;
    const char *level = getenv("THOLE_TEST_LOG");
    log_configure_text(level != NULL ? level : "error");
    snprintf(f->dir, sizeof f->dir, "/tmp/thole-agent.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    for (int i = 0; i < FIXTURE_HOSTS_MAX; i++) {
        f->ports[i] = free_port(&fds[i]);
    }
    for (int i = 0; i < FIXTURE_HOSTS_MAX; i++) {
        close(fds[i]);
    }
    for (int i = 0; i < n; i++) {
        used += (size_t)snprintf(f->peers + used, sizeof f->peers - used, "%s127.0.0.1:%u",
                                 i > 0 ? "," : "", (unsigned)f->ports[i]);
    }
    return f;
}

void fixture_free(struct fixture *f)
{
    for (int i = 0; i < FIXTURE_HOSTS_MAX; i++) {
        fixture_stop(f, i);
    }
    assert_int_equal(file_remove_tree(f->dir, NULL), THOLE_OK);
    free(f);
}

const char *fixture_address(struct fixture *f, int i)
{
    static _Thread_local char text[4][32];
    static _Thread_local unsigned next;
    char *to = text[next++ % 4];
    snprintf(to, 32, "127.0.0.1:%u", (unsigned)f->ports[i]);
    return to;
}

char *fixture_dir(struct fixture *f, int i)
{
    return xasprintf("%s/h%d", f->dir, i + 1);
}

/* Strings of options are needed only during agent_new: leaked into one array per fixture call. */
struct agent_options fixture_options(struct fixture *f, int i, enum agent_bootstrap how)
{
    static char dirs[FIXTURE_HOSTS_MAX][160], names[FIXTURE_HOSTS_MAX][16];
    static char listens[FIXTURE_HOSTS_MAX][32];
    snprintf(dirs[i], sizeof dirs[i], "%s/h%d", f->dir, i + 1);
    snprintf(names[i], sizeof names[i], "h%d", i + 1);
    snprintf(listens[i], sizeof listens[i], "127.0.0.1:%u", (unsigned)f->ports[i]);
    return (struct agent_options){
        .data_dir = dirs[i],
        .name = names[i],
        .listen = listens[i],
        .bootstrap = how,
        .addresses = f->peers,
        .election_timeout_ms = 200,
        .heartbeat_ms = 40,
        .loop_count = 1,
        .applier_count = 1,
    };
}

enum thole_code fixture_start(struct fixture *f, int i, const struct agent_options *o,
                              struct thole_status *st)
{
    assert_null(f->agents[i]);
    return agent_new(o, &f->agents[i], st);
}

void fixture_start_ok(struct fixture *f, int i, enum agent_bootstrap how)
{
    struct thole_status st = {0};
    struct agent_options o = fixture_options(f, i, how);
    if (fixture_start(f, i, &o, &st) != THOLE_OK) {
        fail_msg("host %d does not start: %s", i + 1, st.message);
    }
}

void fixture_stop(struct fixture *f, int i)
{
    if (f->agents[i] == NULL) {
        return;
    }
    agent_stop(f->agents[i]);
    agent_free(f->agents[i]);
    f->agents[i] = NULL;
}

static bool ready(struct agent *a, void *ctx)
{
    return agent_is_ready(a, ctx, 200);
}

bool fixture_ready(struct fixture *f, int i, uint32_t timeout_ms)
{
    char why[200] = "";
    return agent_wait(f->agents[i], clock_now(&clock_system) + timeout_ms * NS_PER_MS, ready, why);
}

void fixture_wait_ready(struct fixture *f, int i)
{
    char why[200] = "";
    if (!fixture_ready(f, i, 20000)) {
        agent_is_ready(f->agents[i], why, sizeof why);
        fail_msg("host %d is not ready: %s", i + 1, why);
    }
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void command_done(void *ctx, const struct thole_status *st,
                         const thole_registry_v1_Result *result)
{
    (void)result;
    latch_open(ctx, st);
}

enum thole_code fixture_create_shard(struct fixture *f, int i, const char *name, const char *type,
                                     uint32_t voters, struct thole_status *st)
{
    struct latch done;
    latch_init(&done);
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = registry_command_new("user", 1, arena);
    thole_registry_v1_Operation *op = thole_registry_v1_Command_add_operations(c, arena);
    thole_registry_v1_CreateShard *create =
        thole_registry_v1_Operation_mutable_create_shard(op, arena);
    thole_v1_ShardSpec *spec = thole_registry_v1_CreateShard_mutable_spec(create, arena);
    thole_registry_v1_CreateShard_set_name(create, upb_StringView_FromString(name));
    thole_v1_ShardSpec_set_type(spec, upb_StringView_FromString(type));
    thole_v1_ShardSpec_set_voters(spec, voters);
    agent_command(f->agents[i], registry_command_encode(c, arena),
                  clock_now(&clock_system) + 10 * NS_PER_S, command_done, &done);
    upb_Arena_Free(arena);
    enum thole_code code = latch_wait(&done, st);
    latch_deinit(&done);
    return code;
}

struct shard_wait {
    const char *name;
    uint32_t replicas;
};

static bool shard_runs(struct agent *a, void *ctx)
{
    struct registry_shard_buf shard_buf;
    struct registry_replica_buf replica_buf;
    const struct shard_wait *w = ctx;
    uint32_t running = 0;
    const thole_v1_Replica *r;
    struct registry_view *v = registry_view_acquire(agent_registry(a));
    const thole_v1_Shard *s = registry_shard_by_name(v, slice_str(w->name), &shard_buf);
    const thole_v1_ShardStatus *st = s != NULL ? thole_v1_Shard_status(s) : NULL;
    for (uint64_t after = 0;
         s != NULL &&
         (r = registry_next_replica_of_shard(v, thole_v1_Shard_id(s), after, &replica_buf)) != NULL;
         after = thole_v1_Replica_id(r)) {
        running += thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING;
    }
    bool ok = st != NULL && thole_v1_ShardStatus_formed(st) && running >= w->replicas;
    registry_view_release(v);
    return ok;
}

void fixture_wait_shard(struct fixture *f, int i, const char *name, uint32_t replicas)
{
    struct shard_wait w = {name, replicas};
    if (!agent_wait(f->agents[i], clock_now(&clock_system) + 20 * NS_PER_S, shard_runs, &w)) {
        fail_msg("shard %s does not get %u running replicas", name, (unsigned)replicas);
    }
}

struct resolution {
    struct latch done;
    uint64_t id;
};

static void resolved(void *ctx, const struct thole_status *st, uint64_t id)
{
    struct resolution *r = ctx;
    r->id = id;
    latch_open(&r->done, st);
}

uint64_t fixture_shard_id(struct fixture *f, int i, const char *name)
{
    struct resolution r = {.id = 0};
    struct thole_status st = {0};
    latch_init(&r.done);
    agent_resolve(f->agents[i], slice_str(name), 0, clock_now(&clock_system) + 10 * NS_PER_S,
                  resolved, &r);
    if (latch_wait(&r.done, &st) != THOLE_OK) {
        fail_msg("shard %s: %s", name, st.message);
    }
    latch_deinit(&r.done);
    return r.id;
}

static void request_done(struct router_request *r)
{
    latch_open(r->ctx, NULL);
}

enum thole_code fixture_request(struct fixture *f, int i, enum router_kind kind, uint64_t shard_id,
                                const void *payload, size_t size, struct router_request *ret)
{
    struct latch done;
    latch_init(&done);
    struct buf *b = buf_copy(payload, size);
    memset(ret, 0, sizeof *ret);
    ret->kind = kind;
    ret->shard_id = shard_id;
    ret->payload = (struct bufslice){.owner = b, .bytes = slice_of(b->data, b->size)};
    ret->deadline_ns = clock_now(&clock_system) + 10 * NS_PER_S;
    ret->done = request_done;
    ret->ctx = &done;
    agent_route(f->agents[i], ret);
    (void)latch_wait(&done, NULL);
    latch_deinit(&done);
    return ret->status.code;
}

void fixture_pause_ms(uint32_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000},
              NULL);
}
