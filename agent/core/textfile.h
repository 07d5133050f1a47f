/* Small durable text files: a header line with kind and format, lines "key value", and a checksum.
 * They can be read by people, but must not be edited: the checksum would be wrong. */
#ifndef AGENT_CORE_TEXTFILE_H
#define AGENT_CORE_TEXTFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <thole/status.h>

#include "base/buf.h"

#define TEXTFILE_BYTES_MAX (4u << 20)

/* Releases `lines`. */
THOLE_MUST_CHECK enum thole_code textfile_write(const char *path, const char *kind, uint32_t format,
                                                struct bytes *lines, struct thole_status *st);
/* NOT_FOUND; FAILED_PRECONDITION FORMAT (another kind, or newer than `format`); DATA_LOSS CORRUPT
 * (checksum, or `line` returned false). `value` may be modified. */
THOLE_MUST_CHECK enum thole_code textfile_read(const char *path, const char *kind, uint32_t format,
                                               bool (*line)(void *ctx, const char *key,
                                                            char *value),
                                               void *ctx, struct thole_status *st);

#endif
