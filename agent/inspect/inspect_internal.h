/* Shared by the files of this room. */
#ifndef AGENT_INSPECT_INSPECT_INTERNAL_H
#define AGENT_INSPECT_INSPECT_INTERNAL_H

#include "agent/inspect/inspect.h"
#include "base/map.h"
#include "shards/store/inspect.h"

struct log_finding {
    bool problem;
    uint64_t replica_id; /* 0: of no single one */
    char object[64], what[256];
    const char *advice;
};

struct inspect {
    struct datadir dir;
    struct identity identity;
    struct thole_status identity_why; /* OK: it was read */
    struct log_store *log;            /* NULL: not readable, `log_why` says why */
    struct thole_status log_why;
    struct inspect_replica *replicas;
    size_t replica_count;
    struct map by_id; /* replica id -> struct inspect_replica */
    uint64_t log_records;
    struct log_finding *findings;
    size_t finding_count;
    struct state_db *state; /* NULL: not open */
    struct thole_status state_why;
    bool state_tried;
};

/* The state database; NULL: there is none, or it cannot be opened (`state_why`). */
struct state_db *inspect__state(struct inspect *i);
void inspect__find(inspect_finding_fn each, void *ctx, bool problem, const char *object,
                   const char *advice, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

extern const char inspect__advice_disk_lost[], inspect__advice_replica[];

#endif
