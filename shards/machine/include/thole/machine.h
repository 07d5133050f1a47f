/* The state machine interface, which users and the built-in machines implement.
 * shards/machine/counter is a commented example.
 *
 * Life cycle: a machine type is registered once per host. The engine opens one machine for each
 * replica of a shard of that type, and closes it when the replica stops. An installed snapshot is
 * restored into a second machine of the same replica, with the next generation, which then replaces
 * the first.
 *
 * Threads: `apply`, `view_acquire`, `restore`, `flush` and `close` of a machine are called one at a
 * time, possibly on different threads, with full memory ordering between calls. `query`, `save` and
 * `view_release` run concurrently with them and with each other, on any thread, on a view. A type
 * without views (view_acquire NULL) is guarded by a reader-writer lock of the engine instead: its
 * `query` and `save` get view == NULL, and never run concurrently with apply or flush.
 *
 * Determinism: the effect and results of `apply` must depend on the machine's state and the entries
 * alone: no clock, randomness, addresses or locale. Batches may be cut differently on each replica.
 *
 * Errors: if apply, restore or flush returns anything but THOLE_OK, the replica stops on this host
 * and is shown as Failed; the host and the other replicas go on. An invalid command is not an
 * error: give it a result that says so. With an error, fill `st` with the same code; otherwise
 * leave it alone.
 *
 * Ownership: arguments are borrowed for the duration of the call, with all that they point to. What
 * `open` and `view_acquire` return belongs to the engine until `close` and `view_release`. */
#ifndef THOLE_MACHINE_H
#define THOLE_MACHINE_H

#include <thole/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes. `data` may be NULL if size is 0. */
struct thole_slice {
    const void *data;
    size_t size;
};

/* The destination of a result, a query's answer or a snapshot. */
struct thole_sink {
    /* Append `size` bytes, which are copied. RESOURCE_EXHAUSTED beyond the sink's limit,
     * UNAVAILABLE if a stream broke off: return the same code at once. A write to a snapshot may
     * block. */
    enum thole_code (*write)(struct thole_sink *s, const void *data, size_t size);
};
/* The source of a snapshot. */
struct thole_source {
    /* Returns the number of bytes read: less than `size` only at the end, 0 after it. -1: the
     * source failed; return any error, the engine reports the source's own. May block, since the
     * snapshot may still be arriving. */
    int64_t (*read)(struct thole_source *s, void *data, size_t size);
};

/* A record of the engine that a persistent machine stores atomically with its data, and reports at
 * open. Keys have at most 32 bytes. value.data == NULL deletes the key. */
struct thole_meta {
    struct thole_slice key;
    struct thole_slice value;
};

struct thole_entry {
    uint64_t index; /* log index: strictly increasing, with gaps (entries of the engine) */
    struct thole_slice command;
    struct thole_sink *result; /* for the proposer; at most 2 MiB */
    uint64_t code;             /* out, 0 at first: a number for the proposer, beside the result */
};

struct thole_apply {
    struct thole_entry *entries; /* in log order; may be empty: then only metadata changes */
    size_t entry_count;
    uint64_t applied_index; /* after this batch; at least the last entry's index */
    /* The records to store in the same write as the data of the batch; NULL for machines that are
     * not persistent. A persistent machine must call it in each apply, when the results and codes
     * of all entries are final: the answers are among the records, so that a proposal which is
     * repeated after a crash gets its first answer. The records are valid until apply returns. */
    const struct thole_meta *(*metadata)(struct thole_apply *batch, size_t *ret_count);
    /* Receives events for watchers of the shard, in order, once the changes are visible to queries.
     * NULL if there are no watchers. */
    struct thole_watch_sink *watch;
};

/* Reports a change to watchers. `key` and `event` are bytes that only the machine defines. `index`
 * is the index of the entry that made the change. */
struct thole_watch_sink {
    void (*event)(struct thole_watch_sink *s, uint64_t index, struct thole_slice key,
                  struct thole_slice event);
};

struct thole_machine_env {
    uint32_t size;    /* sizeof(struct thole_machine_env) of the engine */
    uint32_t version; /* of the machine type that this shard is on */
    uint64_t shard_id;
    uint64_t replica_id;
    uint64_t generation;       /* of the replica's data; each installed snapshot has a new one */
    struct thole_slice config; /* the shard's opaque machine configuration */
    const char *directory;     /* a persistent type with flush: for its files, exists; else NULL */
    void *state_db;            /* built-in machines: the host's struct state_db */
    void *type_ctx;            /* from the registered type */
    /* A persistent machine calls this during open for each metadata record it holds. */
    void (*meta)(void *meta_ctx, struct thole_slice key, struct thole_slice value);
    void *meta_ctx;
};

#define THOLE_MACHINE_PERSISTENT 1u /* keeps data and metadata across restarts */

struct thole_machine_type {
    uint32_t size;    /* sizeof(struct thole_machine_type): lets the struct grow */
    uint32_t version; /* highest version of the type that this host can run */
    const char *name; /* lower case letters, digits and dashes; at most 64 */
    uint32_t flags;
    void *type_ctx;

    /* Open the data of env->generation, or start empty. `env` is borrowed, but state_db lives as
     * long as the machine. */
    enum thole_code (*open)(const struct thole_machine_env *env, void **ret_machine,
                            struct thole_status *st);
    void (*close)(void *machine);
    /* Apply the entries in order. A persistent machine stores data and metadata atomically, each
     * batch in one write; they need not be durable before `flush`, but a crash must lose a suffix
     * of the batches only. */
    enum thole_code (*apply)(void *machine, struct thole_apply *batch, struct thole_status *st);
    /* Answer from the view. Errors go to the caller: INVALID_ARGUMENT for a bad query. DATA_LOSS
     * says that the data is damaged, and also fails the replica. At most 2 MiB. */
    enum thole_code (*query)(void *machine, const void *view, struct thole_slice query,
                             struct thole_sink *answer, struct thole_status *st);
    /* A consistent, immutable view of the state after the last apply. Must be O(1): it delays the
     * next apply. Optional (see above). */
    enum thole_code (*view_acquire)(void *machine, void **ret_view, struct thole_status *st);
    void (*view_release)(void *machine, void *view);
    /* Write the whole state of the view. The engine adds its own sections (applied index, sessions,
     * membership) and a checksum, so metadata does not belong here. */
    enum thole_code (*save)(void *machine, const void *view, struct thole_sink *out,
                            struct thole_status *st);
    /* Read the state that `save` wrote, into a machine that was just opened. An interrupted restore
     * may have left data in the same generation: delete it first. A persistent type must store
     * `meta` too, and all of it must be durable on return. DATA_LOSS: not a snapshot of this
     * type. */
    enum thole_code (*restore)(void *machine, struct thole_source *in,
                               const struct thole_meta *meta, size_t meta_count,
                               struct thole_status *st);
    /* Persistent: make everything applied so far durable. NULL for built-in machines in the host's
     * state database, which the engine flushes. */
    enum thole_code (*flush)(void *machine, struct thole_status *st);
    /* Persistent: delete the data of env->generation. The machine is not open. NOT_FOUND counts as
     * success. Without it, only env->directory is deleted. */
    enum thole_code (*destroy)(const struct thole_machine_env *env, struct thole_status *st);
};

#ifdef __cplusplus
}
#endif
#endif
