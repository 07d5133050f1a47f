/* The state machine interface: what a user implements, and what the built-in machines implement.
 *
 * A machine type is registered once per host; the engine opens one machine per replica. For each
 * machine, `apply`, `view_acquire`, `restore`, `flush` and `close` are called one at a time
 * (possibly from different threads, never concurrently, with full memory ordering between calls).
 * `query`, `save` and `view_release` run beside them, on any thread, on a view. A type without
 * views (view_acquire NULL) is instead guarded by a reader-writer lock that the engine holds:
 * `query` and `save` then get view == NULL and never run beside apply or restore.
 *
 * Determinism: `apply` must depend on nothing but the machine's state and the entry: no clock, no
 * randomness, no addresses, no locale. Every replica must reach the same state and results.
 *
 * Failure: a machine that returns anything but THOLE_OK from apply, restore or flush is stopped on
 * this host alone and shown as Failed; the host and the other replicas go on. An invalid command
 * is not a failure: give it a result that says so.
 *
 * Buffers: everything passed in is borrowed for the duration of the call. */
#ifndef THOLE_MACHINE_H
#define THOLE_MACHINE_H

#include <thole/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thole_slice {
    const void *data;
    size_t size;
};

/* Where results, query answers and snapshots are written. */
struct thole_sink {
    /* Append bytes. RESOURCE_EXHAUSTED past the sink's limit, UNAVAILABLE when a stream was cut;
     * the machine then returns the same code at once. */
    enum thole_code (*write)(struct thole_sink *s, const void *data, size_t size);
};
/* Where a snapshot is read from. Returns the number of bytes read, less than `size` only at the end
 * (0: it was reached before), or -1 on failure. The rest may still be on its way: a read may take
 * long. */
struct thole_source {
    int64_t (*read)(struct thole_source *s, void *data, size_t size);
};

/* A small record of the engine's own that a persistent machine stores atomically with its data
 * and hands back at open. Keys are at most 32 bytes. value.data == NULL deletes the key. */
struct thole_meta {
    struct thole_slice key;
    struct thole_slice value;
};

struct thole_entry {
    uint64_t index; /* strictly increasing, with gaps (entries that are not for the machine) */
    struct thole_slice command;
    struct thole_sink *result; /* at most 2 MiB; what is written goes to the proposer */
    uint64_t
        code; /* set by apply, in/out, 0 at first: a number for the proposer beside the result */
};

struct thole_apply {
    struct thole_entry *entries; /* may be empty: then only the metadata changes */
    size_t entry_count;
    uint64_t applied_index; /* after this batch */
    const struct thole_meta *meta;
    size_t meta_count;
    /* Events for watchers of the shard, in order; NULL when nobody watches. */
    struct thole_watch_sink *watch;
};

/* Reports a change to watchers: key and event are the machine's own bytes. */
struct thole_watch_sink {
    void (*event)(struct thole_watch_sink *s, uint64_t index, struct thole_slice key,
                  struct thole_slice event);
};

struct thole_machine_env {
    uint32_t size;    /* sizeof(struct thole_machine_env) of the engine */
    uint32_t version; /* of the machine type that this shard is on */
    uint64_t shard_id;
    uint64_t replica_id;
    uint64_t generation;       /* of this replica's data; a restore goes into a new one */
    struct thole_slice config; /* the shard's opaque machine configuration */
    const char *directory;     /* for a machine with flush: its own files (created); else NULL */
    void *state_db;            /* built-in machines: the host's struct state_db */
    void *type_ctx;            /* from the registered type */
    /* A persistent machine calls this during open for each metadata record it holds. */
    void (*meta)(void *meta_ctx, struct thole_slice key, struct thole_slice value);
    void *meta_ctx;
};

#define THOLE_MACHINE_PERSISTENT 1u /* keeps data and metadata across restarts; has flush */

struct thole_machine_type {
    uint32_t size;    /* sizeof(struct thole_machine_type): lets the struct grow */
    uint32_t version; /* highest version of the type that this host can run */
    const char *name; /* lower case letters, digits and dashes; at most 64 */
    uint32_t flags;
    void *type_ctx;

    enum thole_code (*open)(const struct thole_machine_env *env, void **ret_machine,
                            struct thole_status *st);
    void (*close)(void *machine);
    enum thole_code (*apply)(void *machine, struct thole_apply *batch, struct thole_status *st);
    /* Answer from the view. A bad query is INVALID_ARGUMENT and goes to the caller. */
    enum thole_code (*query)(void *machine, const void *view, struct thole_slice query,
                             struct thole_sink *answer, struct thole_status *st);
    /* O(1): a consistent view of the state after the last apply. Optional (see above). */
    enum thole_code (*view_acquire)(void *machine, void **ret_view, struct thole_status *st);
    void (*view_release)(void *machine, void *view);
    /* Write the whole state; a write may take long, as the snapshot may leave while it is made. The
     * engine adds its own sections (applied index, sessions, membership) and checksums; persistent
     * machines do not write metadata here. */
    enum thole_code (*save)(void *machine, const void *view, struct thole_sink *out,
                            struct thole_status *st);
    /* Replace the state, into env.generation of a machine that was opened empty. For a persistent
     * type `meta` must be stored with it and all of it be durable on return. */
    enum thole_code (*restore)(void *machine, struct thole_source *in,
                               const struct thole_meta *meta, size_t meta_count,
                               struct thole_status *st);
    /* Persistent: make everything applied so far durable. NULL for built-in machines that share
     * the host's state database, which the engine flushes. */
    enum thole_code (*flush)(void *machine, struct thole_status *st);
    /* Persistent: delete a replica's (generation's) data; the machine is not open. */
    enum thole_code (*destroy)(const struct thole_machine_env *env, struct thole_status *st);
};

#ifdef __cplusplus
}
#endif
#endif
