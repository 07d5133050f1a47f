/* The state machine interface, which users and the built-in machines implement.
 * shards/machine/counter is a commented example.
 *
 * Life cycle: a machine type is registered once per host. The engine opens one machine for each
 * replica of a shard of that type, and closes it when the replica stops. An installed snapshot is
 * restored into a second machine of the same replica, with the next generation, which then replaces
 * the first.
 *
 * Threads: `apply`, `view_acquire`, `restore`, `flush` and `close` of a machine are called one at a
 * time, possibly on different threads, with full memory ordering between calls. `query`, `save`,
 * `read_open`, `read_next`, `read_close` and `view_release` run concurrently with them and with
 * each other, on any thread, on a view. A type without views (view_acquire NULL) is guarded by a
 * reader-writer lock of the engine instead: its `query` and `save` get view == NULL, and never run
 * concurrently with apply or flush.
 *
 * Determinism: the effect and results of `apply` must depend on the machine's state and the entries
 * alone: no clock, randomness, addresses or locale. Batches may be cut differently on each replica.
 *
 * Time: each entry carries two times in milliseconds, which are equal on all replicas and never
 * fall along the log. `now_ms` is the leader's wall clock since the Unix epoch: for calendars.
 * `alive_ms` is the time during which the group had a leader, since the group began: for leases
 * and timeouts. An outage, an election or a step of a clock does not count in it, so none of them
 * can make a lease expire. It may be behind by the time since the last entry before a change of
 * leaders, and it may count up to two election timeouts of a leader that was cut off. Use one of
 * the two for each purpose, and never mix them.
 *
 * Timers: a machine reports when its earliest timer is due (struct thole_due), from `open`,
 * `restore` and `apply`. When that time has come, the leader appends an entry of kind
 * THOLE_ENTRY_TICK. The machine does what is due when it applies that entry: everything whose time
 * is not after the entry's, but at most THOLE_TICK_ITEMS_MAX items. If more is due, it reports a
 * time that is not after the entry's, and the next TICK follows. Nothing is due by itself: a
 * command that precedes the TICK in the log still finds it undone. A TICK may find nothing due. A
 * type that never reports a time gets no TICK.
 *
 * Metadata: records of the engine (struct thole_meta) that a persistent machine stores with its
 * data: the applied index and the answers of sessions. The machine does not interpret them. A key
 * has 1 to 32 bytes, a value at most 128 KiB; a batch brings a few thousand records as a rule, at
 * most one for each that the shard has, of at most 64 MiB together. A shard has at most 530,000.
 *
 * Durability of persistent types: `apply` need not make anything durable. The engine calls `flush`
 * before it drops entries from the log: when the log has grown by compact_log_bytes (64 MiB),
 * before a snapshot replaces the log, and at no fixed interval. After a crash the engine opens the
 * machine, reads the applied index from the metadata, and applies the log from there again.
 *
 * Long answers: a query that is streamed (Data.QueryStream, thole_query_stream) may be answered in
 * pieces, by a reader of a view: `read_open`, `read_next` until it reports the end, `read_close`.
 * Calls for one reader come one at a time, on any thread, beside everything else on its view. The
 * client sets the pace, so a reader should hold little memory between calls. It may be closed at
 * any time: the caller is gone, reads too slowly, or the replica is removed.
 *
 * Growth: a struct that crosses this interface begins with the size that the side which made it
 * knows. A field is there if the size covers it (THOLE_HAS). Fields are only added at the end.
 * Exceptions, which never change: struct thole_slice, thole_meta and thole_due.
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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <thole/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Is the field present in *p? */
#define THOLE_HAS(p, field) \
    ((size_t)(p)->size >= (size_t)((const char *)(&(p)->field + 1) - (const char *)(p)))

/* Bytes. `data` may be NULL if size is 0. */
struct thole_slice {
    const void *data;
    size_t size;
};

/* The times of the earliest timers of a machine, one for each clock; THOLE_NEVER: none. */
#define THOLE_NEVER UINT64_MAX
/* Done in one TICK. Machines share threads: other shards wait meanwhile, but not between two TICKs
 * of a shard. */
#define THOLE_TICK_ITEMS_MAX 64
struct thole_due {
    uint64_t now_ms;
    uint64_t alive_ms;
};

/* The destination of a result, a query's answer or a snapshot. */
struct thole_sink {
    uint32_t size;
    /* Append `size` bytes, which are copied. RESOURCE_EXHAUSTED beyond the sink's limit,
     * UNAVAILABLE if a stream broke off: return the same code at once. A write to a snapshot may
     * block. */
    enum thole_code (*write)(struct thole_sink *s, const void *data, size_t size);
};
/* The source of a snapshot. */
struct thole_source {
    uint32_t size;
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

enum thole_entry_kind {
    THOLE_ENTRY_COMMAND = 1,
    THOLE_ENTRY_TICK = 2, /* do what is due; `command` is empty, and nobody reads the result */
};

struct thole_entry {
    uint32_t size;
    uint32_t kind;  /* enum thole_entry_kind. Fail the replica at one that you do not know */
    uint64_t index; /* log index: strictly increasing, with gaps (entries of the engine) */
    uint64_t term;  /* of the leader that appended it */
    uint64_t now_ms, alive_ms; /* see "Time" above */
    struct thole_slice command;
    struct thole_sink *result; /* for the proposer; at most 3.25 MiB */
    uint64_t code;             /* out, 0 at first: a number for the proposer, beside the result */
};

struct thole_apply {
    uint32_t size;
    uint32_t entry_size;         /* from one entry to the next: use thole_apply_entry */
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
    struct thole_due due; /* in: as last reported; out: after this batch */
};
/* Entry `i` of the batch, whatever the engine's version. */
static inline struct thole_entry *thole_apply_entry(const struct thole_apply *batch, size_t i)
{
    return (struct thole_entry *)(void *)((char *)batch->entries + i * batch->entry_size);
}

/* Reports a change to watchers. `key` and `event` are bytes that only the machine defines. `index`
 * is the index of the entry that made the change. */
struct thole_watch_sink {
    uint32_t size;
    void (*event)(struct thole_watch_sink *s, uint64_t index, struct thole_slice key,
                  struct thole_slice event);
};

struct thole_save {
    uint32_t size;
    struct thole_sink *out;
    uint64_t index; /* applied index of the view that is saved */
    /* True once the snapshot is not wanted any more (the host stops, the replica is removed, the
     * receiver is gone): return any error soon. Cheap; ask between pieces of long work. */
    bool (*stopping)(const struct thole_save *s);
};

struct thole_restore {
    uint32_t size;
    struct thole_source *in;
    /* What the snapshot contains: the log up to this entry, with its term and times. */
    uint64_t index, term;
    uint64_t now_ms, alive_ms;
    const struct thole_meta *meta; /* persistent machines: store all of it */
    size_t meta_count;
    bool (*stopping)(const struct thole_restore *r); /* as in struct thole_save */
    struct thole_due due;                            /* out; THOLE_NEVER at first */
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
    /* Out, in `open`: when the data that was found is due; THOLE_NEVER at first. NULL in `destroy`.
     */
    struct thole_due *due;
};

#define THOLE_MACHINE_PERSISTENT 1u /* keeps data and metadata across restarts */

struct thole_machine_type {
    uint32_t size;    /* sizeof(struct thole_machine_type): lets the struct grow */
    uint32_t version; /* highest version of the type that this host can run */
    const char *name; /* lower case letters, digits, dots and dashes; at most 64 */
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
     * says that the data is damaged, and also fails the replica. At most 3.25 MiB. */
    enum thole_code (*query)(void *machine, const void *view, struct thole_slice query,
                             struct thole_sink *answer, struct thole_status *st);
    /* A consistent, immutable view of the state after the last apply. Must be O(1): it delays the
     * next apply. Optional (see above). */
    enum thole_code (*view_acquire)(void *machine, void **ret_view, struct thole_status *st);
    void (*view_release)(void *machine, void *view);
    /* Write the whole state of the view, timers included. The engine adds its own sections (applied
     * index, times, sessions, membership) and a checksum, so metadata does not belong here. */
    enum thole_code (*save)(void *machine, const void *view, struct thole_save *to,
                            struct thole_status *st);
    /* Read the state that `save` wrote, into a machine that was just opened. An interrupted restore
     * may have left data in the same generation: delete it first. A persistent type must store
     * `meta` too, and all of it must be durable on return. DATA_LOSS: not a snapshot of this
     * type. */
    enum thole_code (*restore)(void *machine, struct thole_restore *from, struct thole_status *st);
    /* Persistent: make everything applied so far durable. NULL for built-in machines in the host's
     * state database, which the engine flushes. */
    enum thole_code (*flush)(void *machine, struct thole_status *st);
    /* Persistent: delete the data of env->generation. The machine is not open. NOT_FOUND counts as
     * success. Without it, only env->directory is deleted. */
    enum thole_code (*destroy)(const struct thole_machine_env *env, struct thole_status *st);

    /* Answers of any size, in pieces; all three or none, and only with view_acquire. See "Long
     * answers" above.
     *
     * Begin to answer `query` from the view, which outlives the reader. Leave *ret_reader NULL to
     * let `query` answer in one piece. Errors as in `query`. */
    enum thole_code (*read_open)(void *machine, const void *view, struct thole_slice query,
                                 void **ret_reader, struct thole_status *st);
    /* Write the next piece: stop soon after `bytes` of it, at 3.25 MiB at the latest. Set *ret_end
     * (false at first) with the last. A piece may be empty, to bound the work of one call. Any
     * error but DATA_LOSS (as in `query`) ends this answer only. */
    enum thole_code (*read_next)(void *machine, void *reader, size_t bytes,
                                 struct thole_sink *piece, bool *ret_end, struct thole_status *st);
    void (*read_close)(void *machine, void *reader);
};

/* A shared object with machine types, for `tholed --plugin FILE.so`, defines this function. tholed
 * refuses another interface number, which changes if the structs above change other than by growing
 * at their ends. The object may call the functions of <thole/status.h>. It is never unloaded. */
#define THOLE_PLUGIN_INTERFACE 1
struct thole_plugin {
    uint32_t size;                                 /* sizeof(struct thole_plugin) */
    uint32_t interface;                            /* THOLE_PLUGIN_INTERFACE */
    const struct thole_machine_type *const *types; /* NULL-terminated; valid for ever */
};
__attribute__((visibility("default"))) const struct thole_plugin *thole_plugin(void);

#ifdef __cplusplus
}
#endif
#endif
