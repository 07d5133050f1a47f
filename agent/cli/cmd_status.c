/* `thole status` and `thole members`: the cluster at a glance. */
#include <inttypes.h>

#include "agent/cli/cmd_status.h"
#include "base/clock.h"
#include "thole/v1/control.upbdefs.h"

#define DAY_MS (INT64_C(86400) * 1000)

#define STATUS_TIMEOUT_MS 1500
#define SHARDS_SHOWN 100
#define PROBLEMS_SHOWN 20

bool status_is_problem(const thole_v1_Condition *c)
{
    bool bad_if = upb_StringView_IsEqual(thole_v1_Condition_type(c), cli__sv("Degraded"));
    return thole_v1_Condition_status(c) == bad_if;
}

static size_t show_problems_of(const thole_v1_Shard *s, size_t shown)
{
    const thole_v1_ShardStatus *status = thole_v1_Shard_status(s);
    size_t n = 0, problems = 0;
    const thole_v1_Condition *const *conditions =
        status != NULL ? thole_v1_ShardStatus_conditions(status, &n) : NULL;
    for (size_t k = 0; k < n; k++) {
        const thole_v1_Condition *c = conditions[k];
        if (!status_is_problem(c)) {
            continue;
        }
        if (shown + problems == 0) {
            printf("\nNot as wanted:\n");
        }
        problems++;
        printf("shard %.*s: %s%.*s: %.*s: %.*s\n", CLI_SV(thole_v1_Shard_name(s)),
               thole_v1_Condition_status(c) ? "" : "not ", CLI_SV(thole_v1_Condition_type(c)),
               CLI_SV(thole_v1_Condition_reason(c)), CLI_SV(thole_v1_Condition_message(c)));
    }
    return problems;
}

static void show_problems(const struct rows *shards)
{
    size_t shown = 0, i = 0;
    for (; i < shards->count && shown < PROBLEMS_SHOWN; i++) {
        shown += show_problems_of(shards->items[i], shown);
    }
    if (i < shards->count) {
        printf("... and perhaps more: thole get shards\n");
    }
}

static size_t count_ready(const struct rows *shards)
{
    size_t ready = 0;
    for (size_t i = 0; i < shards->count; i++) {
        ready += rows_shard_ready(shards->items[i]);
    }
    return ready;
}

/* Shards that are not ready first, if there are too many for a screen. */
static void show_shards(struct cli *c, const struct rows *shards)
{
    struct rows some = {.kind = ROWS_SHARDS};
    for (int ready = 0; ready < 2; ready++) {
        for (size_t i = 0; i < shards->count && some.count < SHARDS_SHOWN; i++) {
            if (shards->count <= SHARDS_SHOWN
                    ? ready == 0
                    : rows_shard_ready(shards->items[i]) == (ready != 0)) {
                rows_add(&some, shards->items[i]);
            }
        }
    }
    rows_show(c, &some, false, false);
    if (some.count < shards->count) {
        printf("... and %zu more: thole get shards\n", shards->count - some.count);
    }
    rows_deinit(&some);
}

enum thole_code status_get(struct cli *c, const thole_v1_StatusResponse **ret,
                           struct thole_status *st)
{
    thole_v1_StatusRequest *request = thole_v1_StatusRequest_new(c->arena);
    return CLI_CALL(c, Cluster, Status, request, ret, StatusResponse, st);
}

static bool is_live(const struct rows *hosts, upb_StringView name)
{
    for (size_t i = 0; i < hosts->count; i++) {
        const thole_v1_Host *h = hosts->items[i];
        if (upb_StringView_IsEqual(thole_v1_Host_name(h), name)) {
            return thole_v1_HostStatus_liveness(thole_v1_Host_status(h)) ==
                   thole_v1_HOST_LIVENESS_LIVE;
        }
    }
    return false;
}

struct zero_votes status_count_zero(struct cli *c, const struct rows *hosts, bool stale)
{
    struct thole_status st;
    struct rows replicas;
    struct zero_votes z = {0};
    const struct rows_query q = {.kind = ROWS_REPLICAS, .shard = "zero", .stale = stale};
    if (rows_list(c, &q, &replicas, &st) != THOLE_OK) {
        return z;
    }
    for (size_t i = 0; i < replicas.count; i++) {
        const thole_v1_Replica *r = replicas.items[i];
        bool votes = thole_v1_Replica_role(r) == thole_v1_REPLICA_ROLE_VOTER &&
                     (thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING ||
                      thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_FAILED);
        z.voters += votes;
        z.live += votes && thole_v1_Replica_phase(r) == thole_v1_REPLICA_PHASE_RUNNING &&
                  is_live(hosts, thole_v1_Replica_host(r));
    }
    rows_deinit(&replicas);
    return z;
}

int32_t status_may_fail(const struct zero_votes *z)
{
    uint32_t quorum = z->voters / 2 + 1;
    return z->live < quorum ? -1 : (int32_t)(z->live - quorum);
}

static void show_zero(struct cli *c, const struct rows *hosts, bool stale)
{
    struct zero_votes z = status_count_zero(c, hosts, stale);
    if (z.voters == 0) {
        return;
    }
    printf("zero      %" PRIu32 " voters, %" PRIu32 " live: ", z.voters, z.live);
    if (status_may_fail(&z) < 0) {
        printf("no majority\n");
    } else {
        printf("%" PRId32 " more may fail\n", status_may_fail(&z));
    }
}

/* One document: the called host's own status, all hosts and shards, and shard zero's votes. */
static void show_document(struct cli *c, const thole_v1_StatusResponse *status,
                          const struct rows *hosts, const struct rows *shards, bool stale)
{
    struct zero_votes z = status_count_zero(c, hosts, stale);
    struct bytes out = {0}, fields = {0};
    cli__document_begin(&out, "Status");
    cli__json(status, thole_v1_StatusResponse_getmsgdef(c->pool), &fields);
    bytes_append_str(&out, ",");
    bytes_append(&out, fields.data + 1, fields.size - 2);
    rows_json(c, hosts, "hosts", &out);
    rows_json(c, shards, "shards", &out);
    bytes_printf(&out,
                 ",\"zero\":{\"voters\":%" PRIu32 ",\"live\":%" PRIu32 ",\"mayFail\":%" PRId32 "}",
                 z.voters, z.live, status_may_fail(&z));
    cli__document_end(c, &out);
    bytes_deinit(&fields);
}

/* Shows a forgotten pause before it causes other problems. */
static void show_pauses(struct cli *c, bool stale)
{
    static const char *const names[] = {"?", "placement", "membership", "balance"};
    struct thole_status st;
    struct rows rows;
    char age[24];
    const struct rows_query q = {.kind = ROWS_OPERATIONS, .stale = stale};
    if (rows_list(c, &q, &rows, &st) != THOLE_OK) {
        return;
    }
    for (size_t i = 0; i < rows.count; i++) {
        size_t n = 0;
        const thole_v1_Operation *o = rows.items[i];
        const int32_t *controllers = thole_v1_Operation_controllers(o, &n);
        if (thole_v1_Operation_state(o) != thole_v1_OPERATION_STATE_RUNNING || n == 0) {
            continue;
        }
        printf("paused    ");
        for (size_t k = 0; k < n; k++) {
            uint32_t which = (uint32_t)controllers[k];
            printf("%s%s", k > 0 ? ", " : "",
                   names[which < sizeof names / sizeof names[0] ? which : 0]);
        }
        printf(", %s ago by operation %" PRIu64 ": \"thole resume\" ends that\n",
               cli__age(thole_v1_Operation_start_time_ms(o), age, sizeof age),
               thole_v1_Operation_id(o));
    }
    rows_deinit(&rows);
}

int64_t status_certificate_days(const thole_v1_StatusResponse *status)
{
    int64_t until_ms = (int64_t)thole_v1_StatusResponse_certificate_expire_time_ms(status);
    return (until_ms - (int64_t)clock_system.wall_ms(&clock_system)) / DAY_MS;
}

static void show_transport(const thole_v1_StatusResponse *status)
{
    if (!thole_v1_StatusResponse_tls(status)) {
        printf("transport plain text, %s\n",
               thole_v1_StatusResponse_exposed(status)
                   ? "NOT SECURE: anybody who reaches this host may do anything (--insecure)"
                   : "for its own machine only");
        return;
    }
    int64_t days = status_certificate_days(status);
    printf("transport TLS, %scertificate valid for %" PRId64 " more days%s\n",
           days < STATUS_DAYS_WARNED ? "WARNING: " : "", days,
           days < STATUS_DAYS_WARNED ? ": replace it, no restart is needed (docs/security.md)"
                                     : "");
}

static void show_asked(const thole_v1_StatusResponse *status)
{
    bool ready = thole_v1_StatusResponse_ready(status);
    const thole_v1_Host *host = thole_v1_StatusResponse_host(status);
    upb_StringView none = {NULL, 0};
    upb_StringView cluster = thole_v1_StatusResponse_cluster_id(status);
    printf("cluster   %.*s\n", CLI_SV(cluster.size > 0 ? cluster : cli__sv("none yet")));
    printf("asked     host %.*s, version %.*s, revision %" PRIu64 "\n",
           CLI_SV(host != NULL ? thole_v1_Host_name(host) : none),
           CLI_SV(thole_v1_StatusResponse_version(status)),
           thole_v1_StatusResponse_revision(status));
    printf("ready     %s%.*s\n",
           ready ? "yes" : "no: ", CLI_SV(thole_v1_StatusResponse_not_ready_reason(status)));
    show_transport(status);
}

static void show_rows(struct cli *c, const struct rows *hosts, const struct rows *shards,
                      bool stale)
{
    printf("shards    %zu, %zu ready\n", shards->count, count_ready(shards));
    show_zero(c, hosts, stale);
    show_pauses(c, stale);
    if (hosts->count > 0) {
        printf("\n");
        rows_show(c, hosts, false, false);
    }
    if (shards->count > 0) {
        printf("\n");
        show_shards(c, shards);
    }
    show_problems(shards);
}

/* Both lists or none. */
static enum thole_code list_rows(struct cli *c, bool stale, struct rows *hosts, struct rows *shards,
                                 struct thole_status *st)
{
    const struct rows_query hosts_query = {.kind = ROWS_HOSTS, .stale = stale};
    const struct rows_query shards_query = {.kind = ROWS_SHARDS, .stale = stale};
    enum thole_code code = rows_list(c, &hosts_query, hosts, st);
    if (code == THOLE_OK) {
        code = rows_list(c, &shards_query, shards, st);
        if (code != THOLE_OK) {
            rows_deinit(hosts);
        }
    }
    return code;
}

/* If shard zero cannot be asked, show the host's own view. Do not wait long: the host may find out
 * only meanwhile that the leader is gone. */
enum thole_code status_look_around(struct cli *c, const thole_v1_StatusResponse **status,
                                   struct rows *hosts, struct rows *shards, struct thole_status *st)
{
    uint64_t timeout_ms = cli_number(c, OPT_COMMAND_TIMEOUT);
    bool ready = thole_v1_StatusResponse_ready(*status);
    enum thole_code code = THOLE_UNAVAILABLE;
    c->options.values[OPT_COMMAND_TIMEOUT].number =
        timeout_ms < STATUS_TIMEOUT_MS ? timeout_ms : STATUS_TIMEOUT_MS;
    if (ready) {
        code = list_rows(c, false, hosts, shards, st);
    }
    if (code != THOLE_OK && (!ready || status_get(c, status, st) == THOLE_OK)) {
        code = list_rows(c, true, hosts, shards, st);
    }
    c->options.values[OPT_COMMAND_TIMEOUT].number = timeout_ms;
    return code;
}

int cli__command_status(struct cli *c)
{
    struct thole_status st;
    const thole_v1_StatusResponse *status = NULL;
    if (status_get(c, &status, &st) != THOLE_OK) {
        return cli__say_status("cannot get the status", &st);
    }
    struct rows hosts, shards;
    if (status_look_around(c, &status, &hosts, &shards, &st) != THOLE_OK) {
        if (!cli__is_document(c)) {
            show_asked(status); /* a host without a view says what it waits for */
        }
        return cli__say_status("cannot list hosts and shards", &st);
    }
    bool ready = thole_v1_StatusResponse_ready(status);
    if (!cli__is_document(c)) {
        show_asked(status);
    }
    if (cli__is_document(c)) {
        show_document(c, status, &hosts, &shards, !ready);
    } else {
        show_rows(c, &hosts, &shards, !ready);
    }
    rows_deinit(&hosts);
    rows_deinit(&shards);
    int result = cli__flush();
    return ready ? result : CLI_UNAVAILABLE;
}

int cli__command_members(struct cli *c)
{
    struct thole_status st;
    struct rows rows;
    const struct rows_query q = {.kind = ROWS_REPLICAS, .shard = "zero"};
    if (rows_list(c, &q, &rows, &st) != THOLE_OK) {
        return cli__say_status("cannot list the members of shard zero", &st);
    }
    rows_show(c, &rows, true, false);
    rows_deinit(&rows);
    return cli__flush();
}
