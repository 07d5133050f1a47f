/* A simulated cluster of whole hosts: the product's own code from the agent down, of several hosts
 * in one process and one thread, in virtual time.
 *
 * Nothing of the product knows of it. What a host takes from outside is replaced when the program
 * is linked: the bus (sim_*.c), threads and clocks (fiber.c), workers (life.c), the disk
 * (sim_log.c) and random numbers. A seed expands to everything, and the same seed gives
 * the same run to the byte. */
#ifndef AGENT_SIM_WORLD_H
#define AGENT_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/core/agent.h"
#include "base/clock.h"
#include "base/rand.h"
#include "base/worker_internal.h"
#include "shards/store/store.h"

#define WORLD_HOSTS_MAX 7
#define WORLD_WORKERS_MAX 96 /* of one host */
#define WORLD_ADDRESS_BYTES 128
#define WORLD_START_NS (1000 * NS_PER_S)

struct life;
struct world_host;

/* ---- Time and events (world.c) --------------------------------------------------------------- */

typedef void (*world_fn)(void *ctx);

/* Calls fn(ctx) at that time. Of a life: within it, and not at all once it has ended. */
void world__at(uint64_t at_ns, struct life *life, world_fn fn, void *ctx);
uint64_t world__now_ns(void);
/* A random duration in [lo, hi]. */
uint64_t world__draw_ns(uint64_t lo, uint64_t hi);
struct rand *world__rand(void);
/* Run events until `until_ns`, or until `stop` says so (asked after each event; may be NULL). */
void world__run(uint64_t until_ns, bool (*stop)(void *ctx), void *ctx);
/* The first failure is kept, and ends the run. */
void world__fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool world__failed(void);
const char *world__failure(void);
void world__trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool world__traces(void);
/* What happened, as one number: equal for equal runs. */
void world__mix(uint64_t a, uint64_t b);
uint64_t world__fingerprint(void);
/* Events so far, for measurements. */
uint64_t world__events(void);

void world__begin(uint64_t seed, bool trace);
void world__end(void);

/* ---- Lives of hosts (life.c) ----------------------------------------------------------------- */

/* What a message waits for depends on what its worker does. */
enum work_kind { WORK_FAST, WORK_WRITER, WORK_SLOW };

struct work_slot {
    struct life *life;
    struct worker *worker; /* NULL: released */
    enum work_kind kind;
    uint64_t ready_ns;    /* a message waits, and may be handled then; world time */
    uint64_t deadline_ns; /* world time */
    uint64_t event_ns;    /* of the earliest event under way for it */
};

/* From a start of a host to its end. After a crash nothing of it runs any more; its memory stays
 * until the process ends. */
struct life {
    struct world_host *host;
    bool ended;
    struct agent *agent; /* while it runs */
    struct bus *bus;
    struct work_slot *slots[WORLD_WORKERS_MAX];
    size_t slot_count;
};

struct life *life__new(struct world_host *host);
/* The one whose code runs now; NULL: nobody's. */
extern struct life *life__now;
struct life *life__enter(struct life *life); /* returns the one before, for life__leave */
void life__leave(struct life *before);

/* ---- Threads (fiber.c) ----------------------------------------------------------------------- */

struct fiber;
/* Runs fn(ctx) as a thread of the life: it may block. */
void fiber__start(struct life *life, const char *name, world_fn fn, void *ctx);
struct fiber *fiber__here(void); /* NULL: no thread */
/* Until fiber__wake, or that time (world time; CLOCK_NEVER: none). True: woken. */
bool fiber__wait(uint64_t until_ns);
void fiber__wake(struct fiber *f);

/* ---- Disk (sim_log.c) ------------------------------------------------------------------------ */

struct sim_log;
struct sim_log *sim_log__new(struct world_host *host);
/* The next write is cut: a part of its updates is on the disk, and the host crashes. */
void sim_log__crash_in_write(struct sim_log *log);
void sim_log__fail_write(struct sim_log *log);

/* ---- Network (sim_links.c) ---------------------------------------------------------------------
 * */

struct world_link { /* of one direction between two hosts */
    bool cut;
    uint64_t delay_min_ns, delay_max_ns;
};
struct world_link *world__link(int from, int to);
void world__cut(int from, int to, bool cut);
/* What a name means: "host3.test" -> an address without port; NULL: it is gone. */
void world__name(const char *name, const char *address);
/* The host's life ended by a crash: `silent` (power, not process): peers get no word of it. */
void sim_bus__crashed(struct life *life, bool silent);

/* A client's unary call at a host. `done` comes once; st->code UNAVAILABLE: nobody answered. */
typedef void (*world_reply_fn)(void *ctx, const struct thole_status *st, struct slice reply);
void world__call(int host, const char *path, struct slice request, uint64_t timeout_ns,
                 world_reply_fn done, void *ctx);
/* A stream: `message` for each, then `done` once with an empty reply. */
typedef void (*world_message_fn)(void *ctx, struct slice message);
void world__stream(int host, const char *path, struct slice request, world_message_fn message,
                   world_reply_fn done, void *ctx);

/* ---- Hosts (whole_host.c) -------------------------------------------------------------------- */

struct world_host {
    int n; /* named h1, h2, ... */
    char name[16];
    char dir[128];
    char address[WORLD_ADDRESS_BYTES]; /* where it listens, in this life or the next */
    struct uuid id;                    /* nil until its first start */
    struct life *life;                 /* NULL: down */
    bool starting, stopping;
    struct sim_log *log;
    uint64_t clock_base_ns, base_ns; /* its clock at world time base_ns */
    uint64_t rate_ppm;
    int64_t wall_ms; /* how far its wall clock is off */
    uint64_t paused_until_ns, disk_stalled_until_ns;
    uint64_t free_bytes;
    uint64_t starts;
    struct thole_status failure; /* of the last start, or what ended the host by itself */
    bool wants_restart;          /* it said so, as tholed would do within its process */
};

struct world_options {
    uint64_t seed;
    bool trace;
    int hosts;
};

struct world_host *world__host(int n); /* from 0 */
int world__host_count(void);
uint64_t host__clock_ns(const struct world_host *h);
uint64_t host__world_ns(const struct world_host *h, uint64_t clock_ns); /* when it will show that */
void host__set_rate(struct world_host *h, uint64_t rate_ppm);

void host__init(struct world_host *h, int n, const char *root);
/* Begins; `o` says what is given at this start. */
struct host_start {
    enum agent_bootstrap bootstrap;
    const char *addresses;
    const char *const *tags;
    size_t tag_count;
    uint32_t election_timeout_ms, heartbeat_ms;
};
void host__start(struct world_host *h, const struct host_start *o);
void host__stop(struct world_host *h); /* gracefully; takes a while */
void host__crash(struct world_host *h, bool silent);
bool host__ready(struct world_host *h);
/* Machine types that every host runs beside the built-in ones. */
const struct thole_machine_type *const *host__types(size_t *ret_count);

#endif
