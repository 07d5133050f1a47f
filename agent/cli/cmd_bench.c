/* `thole bench`: creates shards, loads them, measures, reports. */
#include "agent/cli/cmd_bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cmd_wait.h"
#include "base/clock.h"
#include "bus/bus.h"
#include "proto/decode.h"

#define HOSTS_MAX 64

void bench_record(struct bench *b, bool query, uint64_t begin_ns, const struct thole_status *st)
{
    if (atomic_load_explicit(&b->phase, memory_order_relaxed) != BENCH_MEASURE) {
        return;
    }
    if (st->code != THOLE_OK) {
        atomic_fetch_add_explicit(&b->failed, 1, memory_order_relaxed);
        if (!atomic_exchange(&b->said, true)) {
            cli__note("the first failure: %s (%s)", st->message, thole_reason_name(st->reason));
        }
        return;
    }
    histogram_record(&b->latency, clock_now(&clock_system) - begin_ns);
    atomic_fetch_add_explicit(query ? &b->queries : &b->proposals, 1, memory_order_relaxed);
}

bool bench_is_query(const struct bench *b, uint64_t n)
{
    return (n + 1) * b->read_share / 100 != n * b->read_share / 100;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static void split(const char *text, char ***ret, size_t *ret_count)
{
    char *copy = xstrdup(text), *save = NULL;
    for (char *word = strtok_r(copy, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
        *ret = xrealloc(*ret, (*ret_count + 1) * sizeof **ret);
        (*ret)[(*ret_count)++] = xstrdup(word);
    }
    free(copy);
}

static int name_shards(struct bench *b)
{
    const char *text = cli_text(b->c, OPT_SHARDS);
    uint64_t count = 0;
    if (!options_parse_number(text, &count)) {
        split(text, &b->shards, &b->shard_count);
    } else if (count <= BENCH_SHARDS_MAX) {
        b->shards = xcalloc(count + 1, sizeof *b->shards);
        for (; b->shard_count < count; b->shard_count++) {
            b->shards[b->shard_count] = xasprintf("bench-%zu", b->shard_count);
        }
    }
    return b->shard_count > 0 && b->shard_count <= BENCH_SHARDS_MAX
               ? CLI_OK
               : cli__say_usage(b->c, "--shards: must be 1 to %d shards", BENCH_SHARDS_MAX);
}

static enum thole_code create_shard(struct bench *b, const char *name, struct thole_status *st)
{
    struct cli *c = b->c;
    const thole_v1_Shard *reply = NULL;
    thole_v1_CreateShardRequest *request = thole_v1_CreateShardRequest_new(c->arena);
    thole_v1_Shard *shard = thole_v1_CreateShardRequest_mutable_shard(request, c->arena);
    thole_v1_ShardSpec *spec = thole_v1_Shard_mutable_spec(shard, c->arena);
    thole_v1_Shard_set_name(shard, cli__sv(name));
    thole_v1_ShardSpec_set_type(spec, cli__sv("noop"));
    thole_v1_ShardSpec_set_voters(spec, b->voters);
    return CLI_CALL(c, Shards, CreateShard, request, &reply, Shard, st);
}

/* Shards of an earlier run that are being deleted must be gone before they can be created again. */
static int await_deletions(struct bench *b)
{
    struct wait_item *items = xcalloc(b->shard_count, sizeof *items);
    size_t n = 0;
    int result = CLI_OK;
    for (size_t i = 0; result == CLI_OK && i < b->shard_count; i++) {
        struct thole_status st;
        const thole_v1_Shard *row = NULL;
        enum thole_code code = rows_get_shard(b->c, b->shards[i], false, &row, &st);
        if (code != THOLE_OK && code != THOLE_NOT_FOUND) {
            result = cli__say_status(b->shards[i], &st);
        } else if (code == THOLE_OK && thole_v1_Shard_deleting(row)) {
            items[n++] = (struct wait_item){
                .kind = ROWS_SHARDS, .what = WAIT_DELETED, .name = b->shards[i], .quiet = true};
        }
    }
    if (result == CLI_OK) {
        result = wait_all(b->c, items, n, wait_timeout_ms(b->c));
    }
    free(items);
    return result;
}

static int ensure_shards(struct bench *b)
{
    struct cli *c = b->c;
    struct thole_status st;
    int result = await_deletions(b);
    struct wait_item *items = xcalloc(b->shard_count, sizeof *items);
    for (size_t i = 0; result == CLI_OK && i < b->shard_count; i++) {
        enum thole_code code = create_shard(b, b->shards[i], &st);
        if (code != THOLE_OK && code != THOLE_ALREADY_EXISTS) {
            result = cli__say_status(b->shards[i], &st);
        }
        items[i] = (struct wait_item){
            .kind = ROWS_SHARDS, .what = WAIT_READY, .name = b->shards[i], .quiet = true};
    }
    if (result == CLI_OK) {
        result = wait_all(c, items, b->shard_count, wait_timeout_ms(c));
    }
    free(items);
    return result;
}

static void delete_shards(struct bench *b)
{
    for (size_t i = 0; i < b->shard_count; i++) {
        struct thole_status st;
        const thole_v1_DeleteShardResponse *reply = NULL;
        thole_v1_DeleteShardRequest *request = thole_v1_DeleteShardRequest_new(b->c->arena);
        thole_v1_DeleteShardRequest_set_name(request, cli__sv(b->shards[i]));
        thole_v1_DeleteShardRequest_set_allow_missing(request, true);
        if (CLI_CALL(b->c, Shards, DeleteShard, request, &reply, DeleteShardResponse, &st)) {
            cli__say_status(b->shards[i], &st);
        }
    }
}

/* ---- CPU ------------------------------------------------------------------------------------- */

struct cpu {
    size_t hosts;
    char names[HOSTS_MAX][40];
    double seconds[HOSTS_MAX];
    double self;
};

static double self_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Asks each host for its CPU time. Hosts that do not answer are left out. */
static void take_cpu(struct cli *c, const struct rows *hosts, struct cpu *ret)
{
    *ret = (struct cpu){0};
    for (size_t i = 0; i < hosts->count && ret->hosts < HOSTS_MAX; i++) {
        const thole_v1_HostStatus *status = thole_v1_Host_status(hosts->items[i]);
        struct bus_channel *channel = NULL;
        struct buf *b = NULL;
        struct thole_status st;
        if (status == NULL) {
            continue;
        }
        char *address = xasprintf("%.*s", CLI_SV(thole_v1_HostStatus_address(status)));
        if (cli__open_channel(c, address, &channel, &st) == THOLE_OK &&
            bus_channel_call(channel, "/thole.v1.Cluster/Status", slice_of(NULL, 0), 1000, &b,
                             &st) == THOLE_OK) {
            const thole_v1_StatusResponse *reply =
                PROTO_DECODE(thole_v1_StatusResponse, slice_of(b->data, b->size), c->arena);
            size_t at = ret->hosts++;
            snprintf(ret->names[at], sizeof ret->names[at], "%.*s",
                     CLI_SV(thole_v1_Host_name(hosts->items[i])));
            ret->seconds[at] = reply != NULL ? thole_v1_StatusResponse_cpu_seconds(reply) : 0;
            buf_unref(b);
        }
        bus_channel_free(channel);
        free(address);
    }
    ret->self = self_cpu();
}

/* ---- Report ---------------------------------------------------------------------------------- */

static double used(const struct cpu *before, const struct cpu *after, size_t host)
{
    for (size_t i = 0; i < before->hosts; i++) {
        if (strcmp(before->names[i], after->names[host]) == 0) {
            return after->seconds[host] - before->seconds[i];
        }
    }
    return 0;
}

static void report(struct bench *b, double seconds, const struct cpu *before,
                   const struct cpu *after)
{
    uint64_t proposals = atomic_load(&b->proposals), queries = atomic_load(&b->queries);
    uint64_t failed = atomic_load(&b->failed);
    double millions = (double)(proposals + queries) / 1e6;
    const double shares[] = {50, 99, 99.9};
    double ms[3];
    for (size_t i = 0; i < 3; i++) {
        ms[i] = (double)histogram_percentile(&b->latency, shares[i]) / 1e6;
    }
    millions = millions > 0 ? millions : 1;
    if (cli__format(b->c) == FORMAT_JSON) {
        printf("{\"mode\":\"%s\",\"shards\":%zu,\"inFlight\":%" PRIu32 ",\"payloadBytes\":%" PRIu32
               ",\"readShare\":%" PRIu32 ",\"seconds\":%.3f,\"proposalsPerSecond\":%.0f,"
               "\"queriesPerSecond\":%.0f,\"failed\":%" PRIu64
               ",\"latencyMs\":{\"p50\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f},"
               "\"cpuSecondsPerMillion\":{",
               cli_text(b->c, OPT_MODE), b->shard_count, b->in_flight, b->payload_bytes,
               b->read_share, seconds, (double)proposals / seconds, (double)queries / seconds,
               failed, ms[0], ms[1], ms[2], (double)histogram_percentile(&b->latency, 100) / 1e6);
        for (size_t i = 0; i < after->hosts; i++) {
            printf("\"%s\":%.3f,", after->names[i], used(before, after, i) / millions);
        }
        printf("\"(bench)\":%.3f}}\n", (after->self - before->self) / millions);
        return;
    }
    printf("mode        %s, %zu shards, %" PRIu32 " in flight, %" PRIu32 " bytes, %.1f s\n",
           cli_text(b->c, OPT_MODE), b->shard_count, b->in_flight, b->payload_bytes, seconds);
    printf("proposals   %.0f /s\n", (double)proposals / seconds);
    if (b->read_share > 0) {
        printf("queries     %.0f /s\n", (double)queries / seconds);
    }
    printf("failed      %" PRIu64 "\n", failed);
    printf("latency     p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms\n", ms[0], ms[1], ms[2]);
    printf("cpu         seconds per million:");
    for (size_t i = 0; i < after->hosts; i++) {
        printf(" %s %.2f,", after->names[i], used(before, after, i) / millions);
    }
    printf(" bench %.2f\n", (after->self - before->self) / millions);
}

/* ---- The run --------------------------------------------------------------------------------- */

static void run_for(const struct bench_mode *mode, void *state, uint32_t seconds)
{
    uint64_t end = clock_now(&clock_system) + seconds * NS_PER_S;
    while (clock_now(&clock_system) < end) {
        cli__pause_ms(10);
        mode->tick(state);
    }
}

static int measure(struct bench *b, const struct bench_mode *mode, const struct rows *hosts)
{
    struct thole_status st;
    struct cpu *before = xcalloc(2, sizeof *before), *after = before + 1;
    void *state = mode->start(b, &st);
    if (state == NULL) {
        free(before);
        return cli__say_status("cannot start", &st);
    }
    run_for(mode, state, b->warmup);
    take_cpu(b->c, hosts, before);
    uint64_t begin = clock_now(&clock_system);
    atomic_store(&b->phase, BENCH_MEASURE);
    run_for(mode, state, b->seconds);
    atomic_store(&b->phase, BENCH_END);
    double seconds = (double)(clock_now(&clock_system) - begin) / 1e9;
    take_cpu(b->c, hosts, after);
    mode->stop(state);
    report(b, seconds, before, after);
    free(before);
    return atomic_load(&b->proposals) + atomic_load(&b->queries) > 0
               ? CLI_OK
               : cli__say_failed("no operation succeeded");
}

static void read_options(struct bench *b)
{
    b->in_flight = (uint32_t)cli_number(b->c, OPT_IN_FLIGHT);
    b->payload_bytes = (uint32_t)cli_number(b->c, OPT_PAYLOAD);
    b->read_share = (uint32_t)cli_number(b->c, OPT_READ_SHARE);
    b->seconds = (uint32_t)cli_number(b->c, OPT_SECONDS);
    b->warmup = (uint32_t)cli_number(b->c, OPT_WARMUP);
}

int cli__command_bench(struct cli *c)
{
    struct bench *b = xcalloc(1, sizeof *b);
    struct rows hosts = {0};
    struct thole_status st;
    b->c = c;
    split(cli_text(c, OPT_ENDPOINTS), &b->endpoints, &b->endpoint_count);
    read_options(b);
    int result = name_shards(b);
    const struct rows_query q = {.kind = ROWS_HOSTS};
    if (result == CLI_OK && rows_list(c, &q, &hosts, &st) != THOLE_OK) {
        result = cli__say_status("cannot list hosts", &st);
    }
    if (result == CLI_OK) {
        b->voters = cli_given(c, OPT_VOTERS) ? (uint32_t)cli_number(c, OPT_VOTERS)
                    : hosts.count < 3        ? 1
                                             : 3;
        result = ensure_shards(b);
    }
    if (result == CLI_OK) {
        bool unary = strcmp(cli_text(c, OPT_MODE), "unary") == 0;
        result = measure(b, unary ? &bench_unary : &bench_async, &hosts);
        if (cli_flag(c, OPT_CLEANUP)) {
            delete_shards(b);
        }
    }
    rows_deinit(&hosts);
    for (size_t i = 0; i < b->shard_count; i++) {
        free(b->shards[i]);
    }
    for (size_t i = 0; i < b->endpoint_count; i++) {
        free(b->endpoints[i]);
    }
    free(b->shards);
    free(b->endpoints);
    free(b);
    return result == CLI_OK ? cli__flush() : result;
}
