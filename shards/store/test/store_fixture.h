/* Shared by the tests of this folder: a temporary directory, and short ways to write. */
#ifndef SHARDS_STORE_TEST_STORE_FIXTURE_H
#define SHARDS_STORE_TEST_STORE_FIXTURE_H

#include "shards/store/store.h"

/* A fresh directory under $TMPDIR; freed and removed by dir_free. */
char *dir_new(void);
void dir_free(char *dir);
/* The path of the newest file in `dir` whose name has this suffix; malloced; NULL if none. */
char *dir_newest(const char *dir, const char *suffix);
/* Flip one bit in the file's only (or last) occurrence of these bytes. */
void file_flip(const char *path, const char *needle);

/* Segments are small, so that tests reach their ends. */
#define TEST_SEGMENT_BYTES (64 * 1024)
struct log_store *log_open(const char *dir);
enum thole_code log_try_open(const char *dir, struct log_store **ret, struct thole_status *st);
void log_shut(struct log_store *s);

struct raft_entry *entry_new(enum raft_entry_kind kind, uint64_t index, uint64_t term,
                             const char *payload);
/* COMMAND entries [first, first + n) of `term` with payload "<id>.<index>.<term>". */
struct raft_entry **entries_new(uint64_t id, uint64_t first, size_t n, uint64_t term);
void entries_free(struct raft_entry **e, size_t n);

/* Each call is one write() of one update and must succeed. */
void log_create(struct log_store *s, uint64_t id);
void log_append(struct log_store *s, uint64_t id, uint64_t first, size_t n, uint64_t term);
void log_start(struct log_store *s, uint64_t id, uint64_t index, uint64_t term, bool reset);
void log_hard(struct log_store *s, uint64_t id, uint64_t term, uint64_t vote, uint64_t commit);
void log_remove(struct log_store *s, uint64_t id);
void log_forget(struct log_store *s, uint64_t id);
enum thole_code log_write_one(struct log_store *s, const struct store_update *u);

const struct store_replica *log_find(struct log_store *s, uint64_t id);
/* The log of `id` is (start, last], and each entry from the start on has the payload above. */
void log_expect(struct log_store *s, uint64_t id, uint64_t start, uint64_t last);
/* Write, as a replica of its own, until every segment that is in use now has left the ring. */
#define TURN_OVER_ID 999999
void log_turn_over(struct log_store *s);
/* Bytes of live records on disk. */
uint64_t log_live_bytes(struct log_store *s);
/* Both stores have the same replicas and give the same results. */
void log_expect_same(struct log_store *a, struct log_store *b);

#endif
