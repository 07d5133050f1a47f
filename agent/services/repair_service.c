/* thole.v1.Repair. Uses this host's own view, because shard zero may have no leader either. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/repair/shard_repair.h"
#include "agent/services/services_internal.h"
#include "thole/v1/repair.upb.h"

static upb_StringView copy_text(struct call *c, const char *text)
{
    size_t size = strlen(text);
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    memcpy(copy, text, size + 1);
    return (upb_StringView){copy, size};
}

static void add_replica(struct call *c, thole_v1_RepairPlan *reply, const struct repair_replica *r)
{
    thole_v1_RepairReplica *out = thole_v1_RepairPlan_add_replicas(reply, c->arena);
    thole_v1_RepairReplica_set_replica_id(out, r->replica_id);
    thole_v1_RepairReplica_set_host(out, copy_text(c, r->host));
    thole_v1_RepairReplica_set_answered(out, r->answered);
    thole_v1_RepairReplica_set_problem(out, copy_text(c, r->problem));
    thole_v1_RepairReplica_set_voter(out, r->voter);
    thole_v1_RepairReplica_set_witness(out, r->witness);
    thole_v1_RepairReplica_set_leads(out, r->leads);
    thole_v1_RepairReplica_set_epoch(out, r->epoch);
    thole_v1_RepairReplica_set_last_term(out, r->last_term);
    thole_v1_RepairReplica_set_last_index(out, r->last_index);
    thole_v1_RepairReplica_set_applied(out, r->applied);
}

static void reply_plan(struct call *c, const struct repair_plan *plan, bool done)
{
    char hash[24];
    thole_v1_RepairPlan *reply = thole_v1_RepairPlan_new(c->arena);
    snprintf(hash, sizeof hash, "%016" PRIx64, plan->hash);
    thole_v1_RepairPlan_set_shard(reply, copy_text(c, plan->shard));
    thole_v1_RepairPlan_set_hash(reply, copy_text(c, hash));
    thole_v1_RepairPlan_set_possible(reply, plan->possible);
    thole_v1_RepairPlan_set_refused_because(reply, copy_text(c, plan->refused));
    for (size_t i = 0; i < plan->count; i++) {
        add_replica(c, reply, &plan->replicas[i]);
    }
    if (plan->chosen < plan->count) {
        thole_v1_RepairPlan_set_chosen_replica(reply, plan->replicas[plan->chosen].replica_id);
    }
    thole_v1_RepairPlan_set_epoch(reply, plan->epoch);
    thole_v1_RepairPlan_set_consequence(reply, copy_text(c, plan->consequence));
    thole_v1_RepairPlan_set_done(reply, done);
    services__call_reply(c, reply, &thole_v1_RepairPlan_msginit);
}

static void planned(void *ctx, const struct thole_status *st, const struct repair_plan *plan)
{
    struct call *c = ctx;
    if (plan == NULL) {
        services__call_fail(c, st);
        return;
    }
    reply_plan(c, plan, false);
}

static void ran(void *ctx, const struct thole_status *st, const struct repair_plan *plan)
{
    struct call *c = ctx;
    if (plan == NULL) {
        services__call_fail(c, st);
        return;
    }
    reply_plan(c, plan, true);
}

/* The shard's id; false if the call is refused. */
static bool find(struct call *c, upb_StringView name, uint64_t *ret)
{
    struct registry_shard_buf shard_buf;
    struct thole_status st;
    name = services__name_strip(name, "shards");
    services__call_about(c, "shard", name);
    if (!services__call_name(c, "shard", name)) {
        return false;
    }
    if (!agent_has_view(c->s->agent, &st)) {
        services__call_fail(c, &st);
        return false;
    }
    c->view = registry_view_acquire(agent_registry(c->s->agent));
    const thole_v1_Shard *row = registry_shard_by_name(c->view, registry_str(name), &shard_buf);
    if (row != NULL && thole_v1_Shard_id(row) != REGISTRY_SHARD_ID) {
        *ret = thole_v1_Shard_id(row);
        return true;
    }
    if (row != NULL) {
        (void)THOLE_FAIL(
            &st, THOLE_FAILED_PRECONDITION, THOLE_REASON_BAD_REQUEST,
            "shard zero can only be repaired while its daemons are stopped: thole repair zero");
    } else {
        (void)THOLE_FAIL(&st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                         "shard \"%.*s\" not found", (int)name.size, name.data);
    }
    services__call_fail(c, &st);
    return false;
}

void services__repair_plan(struct call *c)
{
    const thole_v1_PlanRepairRequest *q = c->request;
    uint64_t shard_id;
    if (find(c, thole_v1_PlanRepairRequest_shard(q), &shard_id)) {
        repair_shard(c->s->agent, shard_id, NULL, c->deadline_ns, planned, c);
    }
}

void services__repair_run(struct call *c)
{
    const thole_v1_RunRepairRequest *q = c->request;
    upb_StringView text = thole_v1_RunRepairRequest_hash(q);
    char hex[24] = "";
    char *end = hex;
    uint64_t shard_id;
    if (text.size > 0 && text.size < sizeof hex) {
        memcpy(hex, text.data, text.size);
    }
    uint64_t hash = strtoull(hex, &end, 16);
    if (end == hex || *end != '\0') {
        services__call_refuse(c, "hash", "must be the hash that PlanRepair returned");
        return;
    }
    if (find(c, thole_v1_RunRepairRequest_shard(q), &shard_id)) {
        repair_shard(c->s->agent, shard_id, &hash, c->deadline_ns, ran, c);
    }
}
