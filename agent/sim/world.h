/* A simulated cluster of whole hosts. The product's own code, from the agent down, runs for several
 * hosts in one process and one thread, in virtual time.
 *
 * The product does not know about the simulator. The linker replaces each host's interface to the
 * outside: the bus (sim_*.c), threads and clocks (fiber.c), workers (life.c), the disk (sim_log.c)
 * and random numbers. A seed determines everything: the same seed gives the same run to the
 * byte. */
#ifndef AGENT_SIM_WORLD_H
#define AGENT_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/core/agent.h"
#include "base/clock.h"
#include "base/rand.h"
#include "base/worker_internal.h"
#include "shards/sim/skewed_clock.h"
#include "shards/store/store.h"

#define WORLD_HOSTS_MAX 7
/* One machine more, for the copy of a host's disk. It is no host of the story. */
#define WORLD_COPY WORLD_HOSTS_MAX
#define WORLD_MACHINES_MAX (WORLD_HOSTS_MAX + 1)
#define WORLD_WORKERS_MAX 96 /* limit per host */
#define WORLD_ADDRESS_BYTES 128
#define WORLD_START_NS (1000 * NS_PER_S)

struct life;
struct world_host;

/* ---- Time and events (world.c) --------------------------------------------------------------- */

typedef void (*world_fn)(void *ctx);

/* Call fn(ctx) at that time. With a life: inside that life, and only if it has not ended. */
void world__at(uint64_t at_ns, struct life *life, world_fn fn, void *ctx);
uint64_t world__now_ns(void);
/* Draw a random duration in [lo, hi]. */
uint64_t world__draw_ns(uint64_t lo, uint64_t hi);
struct rand *world__rand(void);
/* Run events until `until_ns`, or until `stop` returns true. `stop` is called after each event; it
 * may be NULL. */
void world__run(uint64_t until_ns, bool (*stop)(void *ctx), void *ctx);
/* Record a failure, which ends the run. Only the first one is kept. */
void world__fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool world__failed(void);
const char *world__failure(void);
void world__trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool world__traces(void);
/* Mix an event into the digest of the run. Equal runs have equal digests. */
void world__mix(uint64_t a, uint64_t b);
uint64_t world__fingerprint(void);
/* Number of events so far, for measurements. */
uint64_t world__events(void);

void world__begin(uint64_t seed, bool trace);

/* ---- Lives of hosts (life.c) ----------------------------------------------------------------- */

/* The kind of a worker determines how long its messages wait. */
enum work_kind { WORK_FAST, WORK_WRITER, WORK_SLOW };

struct work_slot {
    struct life *life;
    struct worker *worker; /* NULL: the worker was released */
    enum work_kind kind;
    uint64_t ready_ns;    /* when its next message may be handled; world time */
    uint64_t deadline_ns; /* world time */
    uint64_t event_ns;    /* time of its earliest scheduled event */
};

/* A host from its start to its end. After a crash none of its code runs any more; its memory stays
 * allocated until the process ends. */
struct life {
    struct world_host *host;
    bool ended;
    struct agent *agent; /* set while the host runs */
    struct bus *bus;
    struct work_slot *slots[WORLD_WORKERS_MAX];
    size_t slot_count;
};

struct life *life__new(struct world_host *host);
/* The life whose code runs now, or NULL. */
extern struct life *life__now;
struct life *life__enter(struct life *life); /* returns the previous life, for life__leave */
void life__leave(struct life *before);
/* The deadlines of its workers come at other times now. */
void life__clock_changed(struct life *life);

/* ---- Threads (fiber.c) ----------------------------------------------------------------------- */

struct fiber;
/* Run fn(ctx) as a thread of the life. It may block. */
void fiber__start(struct life *life, const char *name, world_fn fn, void *ctx);
struct fiber *fiber__here(void); /* NULL: not in a fiber */
/* Wait until fiber__wake or that world time (CLOCK_NEVER: no timeout). Returns true if woken. */
bool fiber__wait(uint64_t until_ns);
void fiber__wake(struct fiber *f);

/* ---- Disk (sim_log.c) ------------------------------------------------------------------------ */

struct sim_log;
struct sim_log *sim_log__new(struct world_host *host);
/* Cut the next write: only a part of its updates reaches the disk, and the host crashes. */
void sim_log__crash_in_write(struct sim_log *log);
void sim_log__fail_write(struct sim_log *log);
struct log_store *sim_log__copy(const struct sim_log *log); /* NULL: an empty one */
struct log_store *sim_log__copy_of(struct log_store *memory);
void sim_log__replace(struct sim_log *log, struct log_store *memory);
/* The records of the host's replica of that shard are found damaged at its next start. Returns the
 * replica; 0: there is none. */
uint64_t sim_log__damage(struct sim_log *log, uint64_t shard_id);

/* The content of a disk (disks.c). An image is never freed. */
struct disk_image;
struct disk_image *disk__image(const struct world_host *h);
/* Only while the host is down. NULL: an empty disk. */
void disk__put(struct world_host *h, const struct disk_image *image);

/* ---- Network (sim_links.c) ------------------------------------------------------------------- */

struct world_link { /* one direction between two hosts */
    bool cut;
    uint64_t delay_min_ns, delay_max_ns;
};
struct world_link *world__link(int from, int to);
void world__cut(int from, int to, bool cut);
/* A host's life crashed. `silent` (a power loss, not a dead process): its peers get no notice. */
void sim_bus__crashed(struct life *life, bool silent);
void sim_bus__stopped(struct life *life); /* ... stopped by itself */

/* A client's unary call to a host. `done` is called once; st->code UNAVAILABLE: no answer came. */
typedef void (*world_reply_fn)(void *ctx, const struct thole_status *st, struct slice reply);
void world__call(int host, const char *path, struct slice request, uint64_t timeout_ns,
                 world_reply_fn done, void *ctx);
/* A client's streaming call: `message` is called for each message, in order, then `done` once, with
 * an empty reply. UNAVAILABLE: the host died. */
typedef void (*world_message_fn)(void *ctx, struct slice message);
struct client_call;
struct client_call *world__stream(int host, const char *path, struct slice request,
                                  world_message_fn message, world_reply_fn done, void *ctx);
/* The client reads nothing until then. */
void world__stream_slow(struct client_call *c, uint64_t until_ns);

/* ---- Hosts (whole_host.c) -------------------------------------------------------------------- */

struct world_host {
    int n;          /* from 0 */
    char name[16];  /* h1, h2, ...; with another disk h1-2 */
    uint32_t disks; /* number of new disks that it has been given */
    char dir[128];
    char address[WORLD_ADDRESS_BYTES]; /* its listen address in this life, or in the next one */
    /* The address that it gives to others; empty: its listen address. Names are resolved by
     * world__resolve. */
    char advertise[WORLD_ADDRESS_BYTES];
    char resolved[WORLD_ADDRESS_BYTES]; /* where its name leads */
    struct uuid id;                     /* nil until its first start */
    struct life *life;                  /* NULL: down */
    bool stopping;
    struct sim_log *log;
    struct skewed_clock clock;
    int64_t wall_ms; /* offset of its wall clock */
    uint64_t paused_until_ns, disk_stalled_until_ns;
    uint64_t free_bytes;
    uint64_t starts;
    struct thole_status failure; /* why the last start failed, or why the host ended by itself */
};

struct world_host *world__host(int n); /* n counts from 0 */
int world__host_count(void);           /* those of the story */
/* The address behind a name. Other addresses are returned as they are. */
const char *world__resolve(const char *address);
uint64_t host__clock_ns(const struct world_host *h);
uint64_t host__world_ns(const struct world_host *h, uint64_t clock_ns); /* inverse of the above */
void host__set_rate(struct world_host *h, uint64_t rate_ppm);

void host__init(struct world_host *h, int n, const char *root);
/* Options that one start of a host is given. */
struct host_start {
    enum agent_bootstrap bootstrap;
    const char *addresses;
    const char *const *tags;
    size_t tag_count;
    uint32_t election_timeout_ms, heartbeat_ms;
    uint64_t compact_log_bytes;
};
void host__start(struct world_host *h, const struct host_start *o);
void host__stop(struct world_host *h); /* graceful; takes a while */
void host__crash(struct world_host *h, bool silent);
bool host__ready(struct world_host *h);
/* Machine types that every host runs in addition to the built-in ones. */
const struct thole_machine_type *const *host__types(size_t *ret_count);

#endif
