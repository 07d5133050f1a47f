/* `thole kv lease`: leases of a kv shard. Ids are hexadecimal, as etcdctl prints them. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "agent/cli/cmd_kv.h"
#include "base/clock.h"
#include "etcd/rpc.upbdefs.h"
#include "proto/decode.h"

/* The lease of the second argument, and where its shard is. */
static int find_lease(struct cli *c, int64_t *ret_id, struct kv_target *ret)
{
    if (!kv_lease_id(c->args[1], ret_id)) {
        return cli__say_usage(c, "LEASE is an id as `thole kv lease grant` prints it");
    }
    return kv_find_target(c, KV_NONE, ret);
}

static int say_missing(const struct cli *c)
{
    (void)cli__say_failed("there is no lease %s: it expired, or was revoked", c->args[1]);
    return CLI_NOT_FOUND;
}

int cli__command_kv_lease_grant(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    uint64_t ttl = 0;
    if (!options_parse_number(c->args[1], &ttl) || ttl == 0 || ttl > INT64_MAX) {
        return cli__say_usage(c, "SECONDS is a number from 1");
    }
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_LeaseGrantRequest *m = thole_kv_v1_Command_mutable_lease_grant(command, c->arena);
    etcdserverpb_LeaseGrantRequest_set_TTL(m, (int64_t)ttl);
    int code = kv_find_target(c, KV_NONE, &t);
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_LeaseGrantResponse *answer =
        PROTO_DECODE(etcdserverpb_LeaseGrantResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    if (!cli_data_shown(c, answer, etcdserverpb_LeaseGrantResponse_getmsgdef(c->pool))) {
        int64_t granted = etcdserverpb_LeaseGrantResponse_TTL(answer);
        cli__line("%" PRIx64, (uint64_t)etcdserverpb_LeaseGrantResponse_ID(answer));
        if (granted != (int64_t)ttl) {
            cli__note("granted for %" PRIi64 " s, which is the least", granted);
        }
    }
    return cli__flush();
}

int cli__command_kv_lease_revoke(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    int64_t id = 0;
    int code = find_lease(c, &id, &t);
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_LeaseRevokeRequest_set_ID(
        thole_kv_v1_Command_mutable_lease_revoke(command, c->arena), id);
    if (code == CLI_OK) {
        code = kv_propose(c, &t, command, &data);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_LeaseRevokeResponse *answer =
        PROTO_DECODE(etcdserverpb_LeaseRevokeResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    (void)cli_data_shown(c, answer, etcdserverpb_LeaseRevokeResponse_getmsgdef(c->pool));
    return cli__flush();
}

int cli__command_kv_lease_timetolive(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    int64_t id = 0;
    int code = find_lease(c, &id, &t);
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    etcdserverpb_LeaseTimeToLiveRequest *m =
        thole_kv_v1_Query_mutable_lease_time_to_live(q, c->arena);
    etcdserverpb_LeaseTimeToLiveRequest_set_ID(m, id);
    etcdserverpb_LeaseTimeToLiveRequest_set_keys(m, cli_flag(c, OPT_KEYS));
    if (code == CLI_OK) {
        code = kv_query(c, &t, q, &data, NULL);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_LeaseTimeToLiveResponse *answer =
        PROTO_DECODE(etcdserverpb_LeaseTimeToLiveResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    if (etcdserverpb_LeaseTimeToLiveResponse_TTL(answer) < 0) {
        return say_missing(c);
    }
    if (cli_data_shown(c, answer, etcdserverpb_LeaseTimeToLiveResponse_getmsgdef(c->pool))) {
        return cli__flush();
    }
    cli__line("%" PRIx64 " %" PRIi64 " of %" PRIi64 " s left", (uint64_t)id,
              etcdserverpb_LeaseTimeToLiveResponse_TTL(answer),
              etcdserverpb_LeaseTimeToLiveResponse_grantedTTL(answer));
    size_t n = 0;
    const upb_StringView *keys = etcdserverpb_LeaseTimeToLiveResponse_keys(answer, &n);
    for (size_t i = 0; i < n; i++) {
        struct bytes out = {0};
        kv_escape(keys[i], cli_flag(c, OPT_HEX), &out);
        bytes_append_str(&out, "\n");
        cli__print(bytes_slice(&out));
        bytes_deinit(&out);
    }
    return cli__flush();
}

int cli__command_kv_lease_list(struct cli *c)
{
    struct slice data = {0};
    struct kv_target t;
    thole_kv_v1_Query *q = thole_kv_v1_Query_new(c->arena);
    (void)thole_kv_v1_Query_mutable_lease_leases(q, c->arena);
    int code = kv_find_target(c, KV_NONE, &t);
    if (code == CLI_OK) {
        code = kv_query(c, &t, q, &data, NULL);
    }
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_LeaseLeasesResponse *answer =
        PROTO_DECODE(etcdserverpb_LeaseLeasesResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    if (!cli_data_shown(c, answer, etcdserverpb_LeaseLeasesResponse_getmsgdef(c->pool))) {
        size_t n = 0;
        const etcdserverpb_LeaseStatus *const *leases =
            etcdserverpb_LeaseLeasesResponse_leases(answer, &n);
        for (size_t i = 0; i < n; i++) {
            cli__line("%" PRIx64, (uint64_t)etcdserverpb_LeaseStatus_ID(leases[i]));
        }
    }
    return cli__flush();
}

/* One renewal. `*ret_ttl`: what it is renewed for, seconds. */
static int renew(struct cli *c, const struct kv_target *t, int64_t id, int64_t *ret_ttl)
{
    struct slice data = {0};
    thole_kv_v1_Command *command = thole_kv_v1_Command_new(c->arena);
    etcdserverpb_LeaseKeepAliveRequest_set_ID(
        thole_kv_v1_Command_mutable_lease_keep_alive(command, c->arena), id);
    int code = kv_propose(c, t, command, &data);
    if (code != CLI_OK) {
        return code;
    }
    const etcdserverpb_LeaseKeepAliveResponse *answer =
        PROTO_DECODE(etcdserverpb_LeaseKeepAliveResponse, data, c->arena);
    if (answer == NULL) {
        return kv_undecodable();
    }
    *ret_ttl = etcdserverpb_LeaseKeepAliveResponse_TTL(answer);
    if (*ret_ttl <= 0) {
        return say_missing(c);
    }
    if (!cli_data_shown(c, answer, etcdserverpb_LeaseKeepAliveResponse_getmsgdef(c->pool))) {
        cli__line("%" PRIx64 " renewed for %" PRIi64 " s", (uint64_t)id, *ret_ttl);
    }
    return cli__flush();
}

/* A third of the lease between two renewals, so that one may fail. Its memory is given back. */
int cli__command_kv_lease_keep_alive(struct cli *c)
{
    struct kv_target t;
    int64_t id = 0, ttl = 0;
    upb_Arena *const arena = c->arena;
    int code = find_lease(c, &id, &t);
    bool more = code == CLI_OK;

    while (more) {
        c->arena = upb_Arena_New();
        code = renew(c, &t, id, &ttl);
        upb_Arena_Free(c->arena);
        c->arena = arena;
        more = code == CLI_OK && !cli_flag(c, OPT_ONCE);
        if (more) {
            cli__pause_ms((uint64_t)ttl * 1000 / 3);
        }
    }
    return code;
}
