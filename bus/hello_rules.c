#include "bus/hello_rules.h"

#include <inttypes.h>
#include <string.h>

enum thole_code hello_check_cluster(const struct uuid *ours, const struct uuid *theirs,
                                    bool caller_is_host, bool stream, struct thole_status *st)
{
    bool we = !uuid_is_nil(ours), they = !uuid_is_nil(theirs);
    if (uuid_equal(ours, theirs) || (!stream && !(we && they))) {
        return THOLE_OK;
    }
    if (we && they) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                          "this host belongs to another cluster");
    }
    if (!caller_is_host) {
        return THOLE_OK; /* clients need not name a cluster */
    }
    if (we) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_WRONG_CLUSTER,
                          "the caller does not name its cluster");
    }
    return THOLE_FAIL(st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                      "this host has no cluster yet");
}

/* Starts are counted, so a number far above the last one known is made up; believed, it would keep
 * the host itself out for good. */
#define STARTS_MISSED_MAX (UINT64_C(1) << 20)
#define STARTS_MAX (UINT64_C(1) << 32)

static bool is_plausible(uint64_t incarnation, uint64_t known)
{
    return incarnation <= (known > 0 ? known + STARTS_MISSED_MAX : STARTS_MAX);
}

enum known_verdict hello_judge_known(const struct recorded_start *recorded,
                                     const struct lineage *lineage, struct known_start *known)
{
    known->undecided = false;
    if (known->incarnation == 0 || !recorded->asked) {
        return KNOWN_STAYS;
    }
    if (recorded->found && lineage_judge(lineage, known->incarnation, recorded->incarnation,
                                         recorded->number) == LINEAGE_BRANCH) {
        return KNOWN_IS_FORGOTTEN;
    }
    known->undecided = !recorded->found || recorded->incarnation != known->incarnation ||
                       recorded->number != known->number;
    return known->undecided ? KNOWN_STAYS_IF_CONNECTED : KNOWN_STAYS;
}

enum thole_code hello_check_start(const struct known_start *known, uint64_t incarnation,
                                  const struct lineage *lineage, const char *address,
                                  struct thole_status *st)
{
    if (!is_plausible(incarnation, known->incarnation)) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "start number %" PRIu64 " of this host is made up: the last one that is "
                          "known is %" PRIu64,
                          incarnation, known->incarnation);
    }
    enum lineage_verdict v = lineage_judge(lineage, incarnation, known->incarnation, known->number);
    bool elsewhere = v == LINEAGE_FOLLOWS && incarnation == known->incarnation &&
                     known->incarnation > 0 && strcmp(address, known->address) != 0;
    if (v == LINEAGE_FOLLOWS && !elsewhere) {
        return THOLE_OK;
    }
    if (known->undecided) {
        return THOLE_FAIL(
            st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
            "another start of this host is known, at %.100s, and it is not decided yet "
            "which of the two has the copy of a disk",
            known->address);
    }
    return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_STALE_INCARNATION,
                      "%s, at %.100s: this data directory is a copy of that one, or was restored "
                      "from a backup; wipe it and join as a new host",
                      elsewhere ? "a simultaneous start of this host is known" : lineage_words(v),
                      known->address);
}
