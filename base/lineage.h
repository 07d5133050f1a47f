/* Which start of a host follows which: how the copy of a disk is told from its original.
 *
 * Incarnations alone do not tell: a copy counts on by itself, and is ahead at its second start. So
 * each start draws a random number, and keeps those of the starts before it, which a copy shares
 * only up to the moment when it was made. Whoever has accepted a start accepts another one only if
 * it comes after that one by its own account. Cannot be forged by accident; it is no protection
 * against malice. */
#ifndef BASE_LINEAGE_H
#define BASE_LINEAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define LINEAGE_MAX 64
#define LINEAGE_BYTES_MAX (8 * (2 + LINEAGE_MAX))

struct lineage {
    uint64_t start;  /* this one's number; 0: not known */
    uint64_t oldest; /* the incarnation of before[0] */
    size_t count;
    uint64_t before[LINEAGE_MAX]; /* numbers of the starts before, oldest first, without gaps */
};

/* Of a process with this incarnation and lineage, seen from where another start is known:
 * incarnation 0 for none, start 0 for one whose number is not. */
enum lineage_verdict {
    LINEAGE_FOLLOWS, /* or is the same */
    LINEAGE_STALE,   /* a newer start is known */
    LINEAGE_BRANCH,  /* a start is known that this one has not had: one of the two is a copy */
};
enum lineage_verdict lineage_judge(const struct lineage *l, uint64_t incarnation,
                                   uint64_t known_incarnation, uint64_t known_start);
/* "a newer start of this host is known", for the message of a refusal. */
const char *lineage_words(enum lineage_verdict v);

/* Little endian: start, oldest, before. Returns the bytes used. */
size_t lineage_encode(const struct lineage *l, uint8_t ret[LINEAGE_BYTES_MAX]);
bool lineage_decode(struct slice in, struct lineage *ret); /* nothing: no number */

#endif
