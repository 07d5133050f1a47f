/* The log's files, for the tests that corrupt them. */
#ifndef SHARDS_STORE_TEST_LOG_FILES_H
#define SHARDS_STORE_TEST_LOG_FILES_H

#include "shards/store/disk_log.h"

/* Paths are malloced. `dir` is what the fixture's log_open takes. */
char *log_file(const char *dir, const char *name);
char *log_segment(const char *dir, const struct segment *g);
/* The newest segment of an open log. */
struct segment *log_newest(struct log_store *s);
/* The in-memory state of a replica. */
const struct log_replica *log_replica_of(struct log_store *s, uint64_t id);

struct bytes file_load(const char *path); /* empty if absent */
void file_save(const char *path, struct slice bytes);
void file_flip_bit(const char *path, uint64_t at, unsigned bit);
/* Copies all files of a log into another, fresh directory. */
void log_copy(const char *from, const char *to);

#endif
