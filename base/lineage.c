/* Which start of a host follows which. See lineage.h. */
#include "base/lineage.h"

#include <string.h>

#include "base/assert.h"

enum lineage_verdict lineage_judge(const struct lineage *l, uint64_t incarnation,
                                   uint64_t known_incarnation, uint64_t known_start)
{
    ASSERT(l->count <= LINEAGE_MAX);
    if (incarnation < known_incarnation) {
        return LINEAGE_STALE;
    }
    if (known_incarnation == 0 || known_start == 0 || known_start == l->start) {
        return LINEAGE_FOLLOWS;
    }
    if (incarnation == known_incarnation) {
        return LINEAGE_BRANCH;
    }
    for (size_t i = 0; i < l->count; i++) {
        if (l->before[i] == known_start) {
            return LINEAGE_FOLLOWS;
        }
    }
    /* A start so old that it was forgotten. Starts that were not admitted are never forgotten, so
     * repeated starts do not lead a copy here. */
    return l->count > 0 && known_incarnation < l->oldest ? LINEAGE_FOLLOWS : LINEAGE_BRANCH;
}

const char *lineage_words(enum lineage_verdict v)
{
    switch (v) {
    case LINEAGE_STALE:
        return "a newer start of this host is known";
    case LINEAGE_BRANCH:
        return "another start of this host is known, and its data directory has no record of it";
    case LINEAGE_FOLLOWS:
        break;
    }
    return "";
}

size_t lineage_encode(const struct lineage *l, uint8_t ret[LINEAGE_BYTES_MAX])
{
    ASSERT(l->count <= LINEAGE_MAX);
    put_le64(ret, l->start);
    put_le64(ret + 8, l->oldest);
    for (size_t i = 0; i < l->count; i++) {
        put_le64(ret + 16 + 8 * i, l->before[i]);
    }
    return 16 + 8 * l->count;
}

bool lineage_decode(struct slice in, struct lineage *ret)
{
    memset(ret, 0, sizeof *ret);
    if (in.size == 0) {
        return true;
    }
    if (in.size < 16 || in.size > LINEAGE_BYTES_MAX || in.size % 8 != 0) {
        return false;
    }
    ret->start = get_le64(in.data);
    ret->oldest = get_le64(in.data + 8);
    ret->count = in.size / 8 - 2;
    for (size_t i = 0; i < ret->count; i++) {
        ret->before[i] = get_le64(in.data + 16 + 8 * i);
    }
    return true;
}
