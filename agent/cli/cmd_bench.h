/* `thole bench`: shared by its modes. */
#ifndef AGENT_CLI_CMD_BENCH_H
#define AGENT_CLI_CMD_BENCH_H

#include <stdatomic.h>

#include "agent/cli/cli.h"
#include "base/metrics.h"

#define BENCH_SHARDS_MAX 4096
#define BENCH_IN_FLIGHT_MAX 65536

enum bench_phase { BENCH_WARMUP, BENCH_MEASURE, BENCH_END };

struct bench {
    struct cli *c;
    char **shards;
    size_t shard_count;
    char **endpoints;
    size_t endpoint_count;
    uint32_t voters; /* of created shards */
    uint32_t in_flight, payload_bytes, read_share, seconds, warmup;
    struct histogram latency; /* ns; of operations that began and ended during the measurement */
    _Atomic uint64_t proposals, queries, failed;
    _Atomic int phase;
    _Atomic uint32_t outstanding;
    _Atomic bool said; /* the first failure was reported */
};

/* One operation ended. */
void bench_record(struct bench *b, bool query, uint64_t begin_ns, const struct thole_status *st);
/* Is the nth operation a query? Spread evenly. */
bool bench_is_query(const struct bench *b, uint64_t n);

/* A mode: start keeps `in_flight` operations going until the phase is BENCH_END; `tick` is called
 * every 10 ms by the main thread; stop returns when none is outstanding, and frees. */
struct bench_mode {
    void *(*start)(struct bench *b, struct thole_status *st); /* NULL: failed */
    void (*tick)(void *mode);
    void (*stop)(void *mode);
};
extern const struct bench_mode bench_unary, bench_async;

#endif
