#include "integration/test/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <bsd/string.h>
#include <upb/upb.h>
#include <cmocka.h>

#include "base/buf.h"
#include "bus/bus.h"
#include "proto/decode.h"
#include "shards/store/store.h"
#include "thole/v1/control.upb.h"
#include "thole/v1/operations.upb.h"
#include "thole/v1/resources.upb.h"

#define IDS_MAX 65536
#define ROWS_MAX 1000 /* one page */
#define CALL_TIMEOUT_MS 3000

/* Every replica id ever seen, by hash: repairs skip millions of ids. Hosts by id, because names are
 * reused. */
static struct seen {
    uint64_t id, shard;
    char host[40];
} seen[IDS_MAX];

static struct seen_row {
    uint64_t id;
    char shard[64], host[16];
    bool run, running;
} rows[ROWS_MAX];
static size_t row_count;
static bool operations_open;

/* ---- Faults ---------------------------------------------------------------------------------- */

int fault_rounds(void)
{
    const char *text = getenv("THOLE_OPERATION_FAULTS");
    return text != NULL ? atoi(text) : 5;
}

void fault_seed(const char *test)
{
    const char *text = getenv("THOLE_SEED");
    unsigned seed = text != NULL ? (unsigned)strtoul(text, NULL, 10) : (unsigned)now_ms() % 1000000;
    printf("%s: THOLE_SEED=%u\n", test, seed);
    srand(seed);
}

int fault_random(int below)
{
    return rand() % below;
}

struct fault fault_plan(struct cluster *c, int aside)
{
    struct fault f = {.via = fault_random(4)};
    while (f.via == aside) {
        f.via = fault_random(4);
    }
    f.leader = leader_of(c, f.via, "zero");
    while (f.via == f.leader || f.via == aside) {
        f.via = (f.via + 1) % 4;
    }
    cluster_wait_ready(c, f.via, 30000);
    return f;
}

void fault_strike(struct cluster *c, const struct fault *f, long ms)
{
    /* This sleep sets the instant of the fault; it waits for nothing. */
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
    if (host_running(c, f->leader)) {
        host_kill(c, f->leader);
        host_restart(c, f->leader);
    }
}

int operation_of(const char *text)
{
    const char *at = strstr(text, "operations/");
    assert_non_null(at);
    return (int)strtol(at + strlen("operations/"), NULL, 10);
}

/* ---- What is there --------------------------------------------------------------------------- */

/* Calls one host; false if the call fails. The reply is not decoded yet. */
static bool call(struct cluster *c, int i, const char *path, const char *request, size_t size,
                 struct buf **ret)
{
    struct bus_channel *channel = NULL;
    struct thole_status st;
    bool ok = bus_channel_new(c->hosts[i].address, &channel, &st) == THOLE_OK &&
              bus_channel_call(channel, path, slice_of(request, size), CALL_TIMEOUT_MS, ret, &st) ==
                  THOLE_OK;
    bus_channel_free(channel);
    return ok;
}

static void text_of(char *ret, size_t size, upb_StringView text)
{
    snprintf(ret, size, "%.*s", (int)text.size, text.size > 0 ? text.data : "");
}

static struct seen *seen_of(uint64_t id)
{
    size_t at = id % IDS_MAX;
    for (size_t n = 0; seen[at].id != 0 && seen[at].id != id; n++) {
        assert_true(n < IDS_MAX);
        at = (at + 1) % IDS_MAX;
    }
    return &seen[at];
}

static void note(const thole_v1_Replica *r)
{
    uint64_t id = thole_v1_Replica_id(r);
    char host[40];
    assert_true(id > 0);
    text_of(host, sizeof host, thole_v1_Replica_host_id(r));
    struct seen *s = seen_of(id);
    if (s->host[0] && (s->shard != thole_v1_Replica_shard_id(r) || strcmp(s->host, host) != 0)) {
        fail_msg("replica id %d was of shard %d on %s, and is now of %d on %s", (int)id,
                 (int)s->shard, s->host, (int)thole_v1_Replica_shard_id(r), host);
    }
    s->id = id;
    s->shard = thole_v1_Replica_shard_id(r);
    strlcpy(s->host, host, sizeof s->host);
}

static bool read_rows(struct cluster *c, int via)
{
    upb_Arena *arena = upb_Arena_New();
    struct buf *reply = NULL;
    size_t size = 0, count = 0;
    thole_v1_ListReplicasRequest *q = thole_v1_ListReplicasRequest_new(arena);
    thole_v1_ListReplicasRequest_set_page_size(q, ROWS_MAX);
    char *bytes = thole_v1_ListReplicasRequest_serialize(q, arena, &size);
    bool ok = call(c, via, "/thole.v1.Replicas/ListReplicas", bytes, size, &reply);
    if (ok) {
        const thole_v1_ListReplicasResponse *r =
            PROTO_DECODE(thole_v1_ListReplicasResponse, slice_of(reply->data, reply->size), arena);
        const thole_v1_Replica *const *all = thole_v1_ListReplicasResponse_replicas(r, &count);
        assert_int_equal(thole_v1_ListReplicasResponse_next_page_token(r).size, 0);
        for (row_count = 0; row_count < count; row_count++) {
            const thole_v1_Replica *row = all[row_count];
            struct seen_row *to = &rows[row_count];
            note(row);
            to->id = thole_v1_Replica_id(row);
            text_of(to->shard, sizeof to->shard, thole_v1_Replica_shard(row));
            text_of(to->host, sizeof to->host, thole_v1_Replica_host(row));
            to->run = thole_v1_Replica_desired(row) == thole_v1_REPLICA_DESIRED_RUN;
            to->running = thole_v1_Replica_phase(row) == thole_v1_REPLICA_PHASE_RUNNING;
        }
        buf_unref(reply);
    }
    upb_Arena_Free(arena);
    return ok;
}

static bool read_operations(struct cluster *c, int via)
{
    upb_Arena *arena = upb_Arena_New();
    struct buf *reply = NULL;
    size_t size = 0, count = 0;
    thole_v1_ListOperationsRequest *q = thole_v1_ListOperationsRequest_new(arena);
    thole_v1_ListOperationsRequest_set_page_size(q, ROWS_MAX);
    char *bytes = thole_v1_ListOperationsRequest_serialize(q, arena, &size);
    bool ok = call(c, via, "/thole.v1.Operations/ListOperations", bytes, size, &reply);
    operations_open = false;
    if (ok) {
        const thole_v1_ListOperationsResponse *r = PROTO_DECODE(
            thole_v1_ListOperationsResponse, slice_of(reply->data, reply->size), arena);
        const thole_v1_Operation *const *all =
            thole_v1_ListOperationsResponse_operations(r, &count);
        for (size_t i = 0; i < count; i++) {
            operations_open |= thole_v1_Operation_kind(all[i]) != thole_v1_OPERATION_KIND_PAUSE &&
                               thole_v1_Operation_state(all[i]) < thole_v1_OPERATION_STATE_DONE;
        }
        buf_unref(reply);
    }
    upb_Arena_Free(arena);
    return ok;
}

static const struct seen_row *row_of(uint64_t id)
{
    for (size_t i = 0; i < row_count; i++) {
        if (rows[i].id == id) {
            return &rows[i];
        }
    }
    return NULL;
}

static size_t wanted_on(const char *host)
{
    size_t count = 0;
    for (size_t i = 0; i < row_count; i++) {
        count += rows[i].run && strcmp(rows[i].host, host) == 0;
    }
    return count;
}

/* Does the host run exactly the replicas that the rows name? */
static bool host_agrees(struct cluster *c, int i)
{
    upb_Arena *arena = upb_Arena_New();
    struct buf *reply = NULL;
    size_t count = 0;
    bool agrees = call(c, i, "/thole.v1.Cluster/Status", "", 0, &reply);
    if (agrees) {
        const thole_v1_StatusResponse *r =
            PROTO_DECODE(thole_v1_StatusResponse, slice_of(reply->data, reply->size), arena);
        const thole_v1_LocalReplica *const *local = thole_v1_StatusResponse_replicas(r, &count);
        for (size_t k = 0; k < count; k++) {
            const struct seen_row *row = row_of(thole_v1_LocalReplica_replica_id(local[k]));
            agrees &= row != NULL && row->run && strcmp(row->host, c->hosts[i].name) == 0;
        }
        agrees &= count == wanted_on(c->hosts[i].name);
        buf_unref(reply);
    }
    upb_Arena_Free(arena);
    return agrees;
}

static bool all_agree(void *ctx)
{
    struct expect *e = ctx;
    if (!read_operations(e->c, e->via) || operations_open || !read_rows(e->c, e->via)) {
        return false;
    }
    for (size_t i = 0; i < row_count; i++) {
        if (!rows[i].run || !rows[i].running) {
            return false;
        }
    }
    for (int i = 0; i < HOSTS_MAX; i++) {
        if (e->c->hosts[i].pid && !host_agrees(e->c, i)) {
            return false;
        }
    }
    return true;
}

void control_agree(struct cluster *c, int via)
{
    eventually(60000, "hosts run what the rows say", all_agree,
               &(struct expect){.c = c, .via = via});
}

void control_note(struct cluster *c, int via)
{
    (void)read_rows(c, via);
}

bool control_has(struct cluster *c, int host, const char *shard)
{
    for (size_t i = 0; i < row_count; i++) {
        if (strcmp(rows[i].shard, shard) == 0 && strcmp(rows[i].host, c->hosts[host].name) == 0) {
            return true;
        }
    }
    return false;
}

void control_reset(void)
{
    memset(seen, 0, sizeof seen);
    row_count = 0;
}

/* ---- Disks ----------------------------------------------------------------------------------- */

static void check_disk(const struct host *h)
{
    char path[300];
    struct log_store *log = NULL;
    struct thole_status st;
    size_t it = 0, count = 0;
    const struct store_replica *r;
    snprintf(path, sizeof path, "%s/log", h->data_dir);
    const struct log_store_options o = {.path = path};
    if (log_store_open(&o, &log, &st) != THOLE_OK) {
        fail_msg("%s: %s", path, st.message);
    }
    while ((r = log->ops->next(log, &it)) != NULL) {
        const struct seen_row *row = row_of(r->replica_id);
        if (r->removed) {
            continue;
        }
        if (row == NULL || strcmp(row->host, h->name) != 0) {
            fail_msg("replica %d of shard %d is an orphan on the disk of %s", (int)r->replica_id,
                     (int)r->shard_id, h->name);
        }
        count++;
    }
    log->ops->close(log);
    assert_int_equal(count, wanted_on(h->name));
}

/* Balance is paused: otherwise it could begin another move between the last look at the rows and
 * the end of the hosts. */
void control_check_disks(struct cluster *c)
{
    bool ran[HOSTS_MAX];
    int via = 0;
    while (c->hosts[via].pid == 0) {
        via++;
    }
    cli_ok(c, via, "pause balance");
    control_agree(c, via);
    for (int i = 0; i < HOSTS_MAX; i++) {
        ran[i] = c->hosts[i].pid != 0;
        if (ran[i]) {
            host_kill(c, i);
        }
    }
    for (int i = 0; i < HOSTS_MAX; i++) {
        if (ran[i]) {
            check_disk(&c->hosts[i]);
        }
    }
}
