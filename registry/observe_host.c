/* The observed state of hosts: address, version, liveness, disk, clock. */
#include "registry/registry_internal.h"

#include <inttypes.h>

/* Fields that are not set keep what they were. */
static void merge_status(thole_v1_HostStatus *to, const thole_v1_HostStatus *from, upb_Arena *arena)
{
    upb_StringView address = thole_v1_HostStatus_address(from);
    if (address.size > 0) {
        thole_v1_HostStatus_set_address(to, registry__dup(arena, registry_str(address)));
    }
    upb_StringView version = thole_v1_HostStatus_version(from);
    if (version.size > 0) {
        thole_v1_HostStatus_set_version(to, registry__dup(arena, registry_str(version)));
    }
    if (thole_v1_HostStatus_liveness(from) != thole_v1_HOST_LIVENESS_UNSPECIFIED) {
        thole_v1_HostStatus_set_liveness(to, thole_v1_HostStatus_liveness(from));
    }
    if (thole_v1_HostStatus_disk(from) != thole_v1_HOST_DISK_UNSPECIFIED) {
        thole_v1_HostStatus_set_disk(to, thole_v1_HostStatus_disk(from));
    }
    if (thole_v1_HostStatus_clock(from) != thole_v1_HOST_CLOCK_UNSPECIFIED) {
        thole_v1_HostStatus_set_clock(to, thole_v1_HostStatus_clock(from));
    }
    if (thole_v1_HostStatus_incarnation(from) != 0) {
        thole_v1_HostStatus_set_incarnation(to, thole_v1_HostStatus_incarnation(from));
    }
    if (thole_v1_HostStatus_start(from) != 0) {
        thole_v1_HostStatus_set_start(to, thole_v1_HostStatus_start(from));
    }
    size_t count = 0;
    const thole_v1_MachineType *const *types = thole_v1_HostStatus_machine_types(from, &count);
    if (count > 0) {
        registry__clear(to, &thole_v1_HostStatus_msginit, 5 /* machine_types */);
    }
    for (size_t i = 0; i < count; i++) {
        thole_v1_MachineType *type = thole_v1_HostStatus_add_machine_types(to, arena);
        upb_StringView name = thole_v1_MachineType_name(types[i]);
        thole_v1_MachineType_set_name(type, registry__dup(arena, registry_str(name)));
        thole_v1_MachineType_set_version(type, thole_v1_MachineType_version(types[i]));
    }
}

static const char *liveness_reason(int32_t liveness)
{
    return liveness == thole_v1_HOST_LIVENESS_LIVE      ? "HostLive"
           : liveness == thole_v1_HOST_LIVENESS_SUSPECT ? "HostSuspect"
                                                        : "HostDead";
}

static const char *disk_reason(int32_t disk)
{
    return disk == thole_v1_HOST_DISK_LOW_SPACE ? "HostLowSpace"
           : disk == thole_v1_HOST_DISK_STALLED ? "HostDiskStalled"
                                                : "HostDiskOk";
}

/* A first report of a good disk, or of a right clock, is no event. */
static bool is_news(int32_t before, int32_t after, int32_t good)
{
    return before != after && (before > good || after > good);
}

void registry__host_observe(struct txn *t, const struct row *host,
                            const thole_v1_HostStatus *status, upb_StringView why)
{
    struct row *row = registry__txn_edit(t, host);
    thole_v1_HostStatus *to = thole_v1_Host_mutable_status(row->host, row->arena);
    int32_t before = thole_v1_HostStatus_liveness(to);
    int32_t disk = thole_v1_HostStatus_disk(to);
    int32_t clock = thole_v1_HostStatus_clock(to);
    merge_status(to, status, row->arena);
    if (registry__message_equal(host->host, row->host, &thole_v1_Host_msginit, t->arena)) {
        return;
    }
    int32_t after = thole_v1_HostStatus_liveness(to);
    int32_t disk_after = thole_v1_HostStatus_disk(to);
    int32_t clock_after = thole_v1_HostStatus_clock(to);
    struct uuid id = host->host_id;
    registry__txn_put(t, row);
    if (before != after) {
        registry__txn_event(t, registry__host(&t->s, &id), liveness_reason(after), "%.*s",
                            (int)why.size, why.data != NULL ? why.data : "");
    }
    if (is_news(disk, disk_after, thole_v1_HOST_DISK_OK)) {
        registry__txn_event(t, registry__host(&t->s, &id), disk_reason(disk_after), "%.*s",
                            (int)why.size, why.data != NULL ? why.data : "");
    }
    if (is_news(clock, clock_after, thole_v1_HOST_CLOCK_OK)) {
        registry__txn_event(t, registry__host(&t->s, &id),
                            clock_after == thole_v1_HOST_CLOCK_WRONG ? "HostClockWrong"
                                                                     : "HostClockOk",
                            "%.*s", (int)why.size, why.data != NULL ? why.data : "");
    }
    if (before != after &&
        (before == thole_v1_HOST_LIVENESS_DEAD || after == thole_v1_HOST_LIVENESS_DEAD)) {
        t->s.hosts_revision = t->revision;
    }
}

enum thole_code registry__op_observe_host(struct txn *t, const thole_registry_v1_Operation *op)
{
    const thole_registry_v1_ObserveHost *o = thole_registry_v1_Operation_observe_host(op);
    const thole_v1_HostStatus *status = thole_registry_v1_ObserveHost_status(o);
    struct registry_violation v;
    enum thole_code code = registry__checked(t, registry_check_host_status(status, &v), &v);
    if (code == THOLE_OK) {
        code = registry__check_text(t, "reason", thole_registry_v1_ObserveHost_reason(o),
                                    REGISTRY_TEXT_BYTES);
    }
    if (code != THOLE_OK) {
        return code;
    }
    struct uuid id;
    struct row *host = NULL;
    if (uuid_parse(registry_str(thole_registry_v1_ObserveHost_host_id(o)), &id)) {
        host = registry__host(&t->s, &id);
    }
    if (host == NULL) {
        return registry__refuse(t, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_HOST, "host_id",
                                "no host has this id");
    }
    code = registry__check_revision(t, op, host);
    if (code != THOLE_OK || status == NULL) {
        return code;
    }
    uint64_t newest = thole_v1_HostStatus_incarnation(thole_v1_Host_status(host->host));
    if (thole_v1_HostStatus_incarnation(status) < newest) {
        return THOLE_FAIL(&t->st, THOLE_ABORTED, THOLE_REASON_STALE_INCARNATION,
                          "incarnation %" PRIu64 " is known, the report is of %" PRIu64, newest,
                          thole_v1_HostStatus_incarnation(status));
    }
    registry__txn_show(t, host);
    if (!registry__host_has_state(host, thole_v1_HOST_STATE_REMOVED)) {
        registry__host_observe(t, host, status, thole_registry_v1_ObserveHost_reason(o));
        if (thole_registry_v1_ObserveHost_forgive_failures(o)) {
            registry__host_forgive(t, &id, thole_registry_v1_ObserveHost_reason(o));
        }
    }
    return THOLE_OK;
}
