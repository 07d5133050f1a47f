/* `thole doctor`: what is wrong with a cluster, in sentences, and what to do about it. */
#include <inttypes.h>
#include <stdlib.h>

#include "agent/cli/cmd_inspect.h"
#include "agent/cli/cmd_status.h"
#include "agent/cli/findings.h"
#include "bus/channel.h"
#include "thole/v1/control.upbdefs.h"

#define SHARDS_SHOWN 20
#define HOST_TIMEOUT_MS 2000 /* of a call to one host */

struct doctor {
    struct cli *c;
    const thole_v1_StatusResponse *status; /* of the host that was called first */
    struct rows hosts, shards;
    struct findings findings;
};

static void vfind(struct doctor *d, bool problem, const char *object, const char *advice,
                  const char *format, va_list args) __attribute__((format(printf, 5, 0)));
static void vfind(struct doctor *d, bool problem, const char *object, const char *advice,
                  const char *format, va_list args)
{
    char *what = cli__vtext(format, args);
    findings_add(&d->findings, problem, object, advice, what);
    free(what);
}

static void problem(struct doctor *d, const char *object, const char *advice, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));
static void problem(struct doctor *d, const char *object, const char *advice, const char *format,
                    ...)
{
    va_list args;
    va_start(args, format);
    vfind(d, true, object, advice, format, args);
    va_end(args);
}

static void remark(struct doctor *d, const char *object, const char *advice, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));
static void remark(struct doctor *d, const char *object, const char *advice, const char *format,
                   ...)
{
    va_list args;
    va_start(args, format);
    vfind(d, false, object, advice, format, args);
    va_end(args);
}

/* ---- Shard zero ------------------------------------------------------------------------------ */

static void look_at_zero(struct doctor *d)
{
    bool ready = thole_v1_StatusResponse_ready(d->status);
    if (!ready) {
        problem(d, "shards/zero",
                "Start the hosts that are missing. If a majority of its voters is lost for good: "
                "`thole repair zero`. What follows is the called host's own view, perhaps old.",
                "the called host is not ready: %.*s",
                CLI_SV(thole_v1_StatusResponse_not_ready_reason(d->status)));
    }
    const struct zero_votes z = status_count_zero(d->c, &d->hosts, !ready);
    if (z.voters == 0 || status_may_fail(&z) > 0) {
        return;
    }
    if (status_may_fail(&z) < 0) {
        problem(d, "shards/zero", "Start the hosts that are dead, see below.",
                "%" PRIu32 " of its %" PRIu32 " voters are live: no majority, so that the desired "
                "state cannot change",
                z.live, z.voters);
    } else if (d->hosts.count < 3) {
        remark(d, "shards/zero", "Let hosts join until there are three: `tholed --join ADDRESS`.",
               "no host may fail: it has %" PRIu32 " voter(s) on %zu host(s)", z.voters,
               d->hosts.count);
    } else {
        problem(d, "shards/zero", "Bring the hosts back that are not live, see below.",
                "no more host may fail: %" PRIu32 " of its %" PRIu32 " voters are live", z.live,
                z.voters);
    }
}

/* ---- Hosts ----------------------------------------------------------------------------------- */

static void look_at_row(struct doctor *d, const thole_v1_Host *host, const char *object)
{
    const thole_v1_HostStatus *s = thole_v1_Host_status(host);
    const thole_v1_HostFailures *failures = s != NULL ? thole_v1_HostStatus_failures(s) : NULL;
    int32_t disk = s != NULL ? thole_v1_HostStatus_disk(s) : 0;
    if (disk == thole_v1_HOST_DISK_LOW_SPACE) {
        problem(d, object, "Free space on the disk of its data directory, or make it larger.",
                "its disk is nearly full: it refuses proposals, and leads nothing");
    } else if (disk == thole_v1_HOST_DISK_STALLED) {
        problem(d, object, "Look at the disk of its data directory (kernel log, SMART, storage).",
                "a write to its log hangs: its leaderships have moved to other hosts");
    }
    if (s != NULL && thole_v1_HostStatus_clock(s) == thole_v1_HOST_CLOCK_WRONG) {
        problem(d, object, "Set its clock: see its time service (chronyc tracking, timedatectl).",
                "its clock is 10 s or more from those of the other hosts");
    }
    if (failures != NULL && thole_v1_HostFailures_failing(failures)) {
        problem(d, object, "Mend the cause, then `thole host uncordon NAME`.",
                "replicas keep failing there, so that it gets no more: %.*s",
                CLI_SV(thole_v1_HostFailures_message(failures)));
    }
    if (thole_v1_HostSpec_state(rows_host_spec(host)) == thole_v1_HOST_STATE_CORDONED) {
        remark(d, object, "`thole host uncordon NAME` when its maintenance is over.",
               "it is cordoned: it gets no new replicas");
    }
    if (s != NULL && !upb_StringView_IsEqual(thole_v1_HostStatus_version(s),
                                             thole_v1_StatusResponse_version(d->status))) {
        remark(d, object, "Finish the upgrade: one host after the other (docs/upgrading.md).",
               "it has version %.*s, the called host has %.*s",
               CLI_SV(thole_v1_HostStatus_version(s)),
               CLI_SV(thole_v1_StatusResponse_version(d->status)));
    }
}

/* The status of a host, asked at its own address. */
static enum thole_code ask(struct doctor *d, const char *address,
                           const thole_v1_StatusResponse **ret, struct thole_status *st)
{
    struct bus_channel *saved = d->c->channel;
    uint64_t timeout_ms = cli_number(d->c, OPT_COMMAND_TIMEOUT);
    d->c->channel = NULL;
    d->c->options.values[OPT_COMMAND_TIMEOUT].number =
        timeout_ms < HOST_TIMEOUT_MS ? timeout_ms : HOST_TIMEOUT_MS;
    enum thole_code code = cli__open_channel(d->c, address, &d->c->channel, st);
    if (code == THOLE_OK) {
        code = status_get(d->c, ret, st);
        bus_channel_free(d->c->channel);
    }
    d->c->options.values[OPT_COMMAND_TIMEOUT].number = timeout_ms;
    d->c->channel = saved;
    return code;
}

static void look_at_transport(struct doctor *d, const thole_v1_StatusResponse *s,
                              const char *object)
{
    if (thole_v1_StatusResponse_exposed(s)) {
        remark(d, object, "Give it certificates: docs/security.md.",
               "it serves in plain text: anybody who reaches it may do anything");
    }
    if (!thole_v1_StatusResponse_tls(s)) {
        return;
    }
    int64_t days = status_certificate_days(s);
    if (days < STATUS_DAYS_WARNED) {
        problem(d, object, "Replace its files: it reads them again by itself (docs/security.md).",
                "its certificate, or its CA's, is valid for %" PRId64 " more days", days);
    }
}

static void look_at_host(struct doctor *d, const thole_v1_Host *host)
{
    struct thole_status st;
    const thole_v1_StatusResponse *s = NULL;
    const thole_v1_HostStatus *status = thole_v1_Host_status(host);
    int32_t liveness = status != NULL ? thole_v1_HostStatus_liveness(status) : 0;
    char object[ROWS_NAME_BYTES], address[300];
    rows_name(ROWS_HOSTS, host, object, sizeof object);
    if (thole_v1_HostSpec_state(rows_host_spec(host)) == thole_v1_HOST_STATE_REMOVED) {
        return;
    }
    if (liveness == thole_v1_HOST_LIVENESS_DEAD) {
        problem(d, object,
                "Start its daemon. If it will not come back: `thole host decommission NAME`.",
                "it is dead: its replicas are replaced on other hosts, where the specs allow it");
        return;
    }
    look_at_row(d, host, object);
    snprintf(address, sizeof address, "%.*s",
             CLI_SV(status != NULL ? thole_v1_HostStatus_address(status) : cli__sv("")));
    if (liveness == thole_v1_HOST_LIVENESS_SUSPECT) {
        problem(d, object, "Look whether its daemon runs, and at the network between the hosts.",
                "it does not answer the other hosts");
    } else if (address[0] != '\0' && ask(d, address, &s, &st) != THOLE_OK) {
        problem(d, object,
                "Look at the network, firewall and certificate between this machine and the host.",
                "it lives, but cannot be called from here at %s: %s", address, st.message);
    } else if (s != NULL) {
        look_at_transport(d, s, object);
        if (!thole_v1_StatusResponse_ready(s) && thole_v1_StatusResponse_ready(d->status)) {
            problem(d, object, "Look at its log, and at the network between the hosts.",
                    "it is not ready: %.*s", CLI_SV(thole_v1_StatusResponse_not_ready_reason(s)));
        }
    }
}

/* ---- Shards and operations ------------------------------------------------------------------- */

static const char *advice_for(upb_StringView reason)
{
    static const struct {
        const char *reason, *advice;
    } table[] = {
        {"AwaitsRestore", "Restore its snapshot (`thole snapshot restore FILE NAME`), or give its "
                          "data up: `thole delete shard NAME`."},
        {"NotFormed", "Bring the hosts of its first voters back, or delete and apply it again."},
        {"NoLeader", "Bring its hosts back. If most are lost for good: `thole repair shard NAME`."},
        {"LeaderSilent", "Look whether its leader's host answers; it elects another one else."},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (upb_StringView_IsEqual(reason, cli__sv(table[i].reason))) {
            return table[i].advice;
        }
    }
    return "`thole describe shard NAME` has its replicas and events.";
}

/* Its first condition that is a problem; Ready comes first in a row. False: it has none. */
static bool look_at_shard(struct doctor *d, const thole_v1_Shard *shard, bool show)
{
    const thole_v1_ShardStatus *status = rows_shard_status(shard);
    size_t n = 0;
    const thole_v1_Condition *const *conditions = thole_v1_ShardStatus_conditions(status, &n);
    for (size_t i = 0; i < n; i++) {
        const thole_v1_Condition *k = conditions[i];
        if (!status_is_problem(k)) {
            continue;
        }
        if (show) {
            char object[ROWS_NAME_BYTES];
            rows_name(ROWS_SHARDS, shard, object, sizeof object);
            problem(d, object, advice_for(thole_v1_Condition_reason(k)), "%s%.*s: %.*s: %.*s",
                    thole_v1_Condition_status(k) ? "" : "not ", CLI_SV(thole_v1_Condition_type(k)),
                    CLI_SV(thole_v1_Condition_reason(k)), CLI_SV(thole_v1_Condition_message(k)));
        }
        return true;
    }
    return false;
}

static void look_at_shards(struct doctor *d)
{
    size_t wrong = 0, single = 0;
    for (size_t i = 0; i < d->shards.count; i++) {
        const thole_v1_Shard *shard = d->shards.items[i];
        bool is_zero = thole_v1_Shard_id(shard) == 0;
        wrong += look_at_shard(d, shard, wrong < SHARDS_SHOWN);
        single += !is_zero && thole_v1_ShardSpec_voters(rows_shard_spec(shard)) == 1;
    }
    if (wrong > SHARDS_SHOWN) {
        problem(d, "shards", "`thole get shards` lists all.", "%zu more are not as wanted",
                wrong - SHARDS_SHOWN);
    }
    if (single > 0 && d->hosts.count >= 3) {
        remark(d, "shards", "Apply their specs with `voters: 3`, if their data matters.",
               "%zu have a single voter: its host's disk is the only copy", single);
    }
}

static void look_at_operations(struct doctor *d)
{
    struct thole_status st;
    struct rows rows;
    const struct rows_query q = {.kind = ROWS_OPERATIONS,
                                 .stale = !thole_v1_StatusResponse_ready(d->status)};
    if (rows_list(d->c, &q, &rows, &st) != THOLE_OK) {
        return;
    }
    for (size_t i = 0; i < rows.count; i++) {
        const thole_v1_Operation *o = rows.items[i];
        char object[ROWS_NAME_BYTES], age[24];
        rows_name(ROWS_OPERATIONS, o, object, sizeof object);
        cli__age(thole_v1_Operation_start_time_ms(o), age, sizeof age);
        if (thole_v1_Operation_state(o) != thole_v1_OPERATION_STATE_RUNNING) {
            continue;
        }
        if (thole_v1_Operation_kind(o) == thole_v1_OPERATION_KIND_PAUSE) {
            problem(d, object, "`thole resume` ends it.",
                    "controllers have been paused for %s: nothing is placed or healed by them",
                    age);
        } else if (thole_v1_Operation_message(o).size > 0) {
            problem(d, object, "Mend that, or `thole operation cancel ID`.",
                    "%s of %.*s makes no progress after %s: %.*s",
                    show_operation_kind(thole_v1_Operation_kind(o)),
                    CLI_SV(thole_v1_Operation_target(o)), age,
                    CLI_SV(thole_v1_Operation_message(o)));
        }
    }
    rows_deinit(&rows);
}

/* ---- The command ----------------------------------------------------------------------------- */

static int finish(struct doctor *d)
{
    char sound[100];
    snprintf(sound, sizeof sound, "no problem found: %zu hosts, %zu shards", d->hosts.count,
             d->shards.count);
    return findings_end(&d->findings, sound);
}

int cli__command_doctor(struct cli *c)
{
    struct thole_status st;
    struct doctor d = {.c = c, .findings.c = c};
    if (c->arg_count > 0) {
        return inspect_doctor(c, c->args[0]);
    }
    if (status_get(c, &d.status, &st) != THOLE_OK) {
        return cli__say_status("no host can be asked", &st);
    }
    if (status_look_around(c, &d.status, &d.hosts, &d.shards, &st) != THOLE_OK) {
        return cli__say_status("cannot list hosts and shards", &st);
    }
    look_at_zero(&d);
    for (size_t i = 0; i < d.hosts.count; i++) {
        look_at_host(&d, d.hosts.items[i]);
    }
    look_at_shards(&d);
    look_at_operations(&d);
    int result = finish(&d);
    rows_deinit(&d.hosts);
    rows_deinit(&d.shards);
    return result;
}
