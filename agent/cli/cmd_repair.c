/* `thole repair`: a shard that lost its quorum for good; the registry, if all hosts are lost. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "agent/repair/repair_zero.h"
#include "agent/repair/restore_zero.h"
#include "thole/v1/repair.upb.h"
#include "thole/v1/repair.upbdefs.h"

static const char *state_of(const thole_v1_RepairReplica *r, bool possible, uint64_t chosen)
{
    return possible && thole_v1_RepairReplica_replica_id(r) == chosen ? "chosen"
           : !thole_v1_RepairReplica_answered(r)                      ? "lost"
           : thole_v1_RepairReplica_leads(r)                          ? "leads"
           : thole_v1_RepairReplica_witness(r)                        ? "witness"
           : possible                                                 ? "discarded"
                                                                      : "answers";
}

static void print_plan(struct cli *c, const thole_v1_RepairPlan *plan)
{
    if (cli__is_document(c)) {
        cli__document(c, "RepairPlan", plan, thole_v1_RepairPlan_getmsgdef(c->pool));
        return;
    }
    static const char *const columns[] = {"REPLICA", "HOST",   "VOTER",   "STATE", ">EPOCH",
                                          ">TERM",   ">INDEX", "PROBLEM", NULL};
    size_t n = 0;
    bool possible = thole_v1_RepairPlan_possible(plan); /* an impossible plan chooses nothing */
    uint64_t chosen = possible ? thole_v1_RepairPlan_chosen_replica(plan) : 0;
    const thole_v1_RepairReplica *const *all = thole_v1_RepairPlan_replicas(plan, &n);
    struct cli_table *t = cli__table_new(false, columns);
    for (size_t i = 0; i < n; i++) {
        cli__table_row(t);
        cli__table_cell(t, "%" PRIu64, thole_v1_RepairReplica_replica_id(all[i]));
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_RepairReplica_host(all[i])));
        cli__table_cell(t, "%s", thole_v1_RepairReplica_voter(all[i]) ? "yes" : "no");
        cli__table_cell(t, "%s", state_of(all[i], possible, chosen));
        cli__table_cell(t, "%" PRIu64, thole_v1_RepairReplica_epoch(all[i]));
        cli__table_cell(t, "%" PRIu64, thole_v1_RepairReplica_last_term(all[i]));
        cli__table_cell(t, "%" PRIu64, thole_v1_RepairReplica_last_index(all[i]));
        cli__table_cell(t, "%.*s", CLI_SV(thole_v1_RepairReplica_problem(all[i])));
    }
    cli__table_print(t, NULL);
    upb_StringView text = thole_v1_RepairPlan_consequence(plan);
    if (possible && text.size > 0) {
        printf("\n%.*s\n", CLI_SV(text));
    }
}

int cli__command_repair_shard(struct cli *c)
{
    struct thole_status st;
    const thole_v1_RepairPlan *plan = NULL;
    const char *name = cli__strip(c->args[0], "shard");
    thole_v1_PlanRepairRequest *request = thole_v1_PlanRepairRequest_new(c->arena);
    thole_v1_PlanRepairRequest_set_shard(request, cli__sv(name));
    if (CLI_CALL(c, Repair, PlanRepair, request, &plan, RepairPlan, &st)) {
        return cli__say_status("cannot plan the repair", &st);
    }
    bool runs = thole_v1_RepairPlan_possible(plan) && cli_flag(c, OPT_YES);
    if (!cli__is_document(c) || !runs) { /* one document: the executed plan */
        print_plan(c, plan);
    }
    if (!thole_v1_RepairPlan_possible(plan)) {
        return cli__say_failed("no repair: %.*s",
                               CLI_SV(thole_v1_RepairPlan_refused_because(plan)));
    }
    if (!cli_flag(c, OPT_YES)) {
        cli__note("nothing was changed; --yes repairs if the plan has not changed by then");
        return cli__flush();
    }
    thole_v1_RunRepairRequest *run = thole_v1_RunRepairRequest_new(c->arena);
    thole_v1_RunRepairRequest_set_shard(run, cli__sv(name));
    thole_v1_RunRepairRequest_set_hash(run, thole_v1_RepairPlan_hash(plan));
    if (CLI_CALL(c, Repair, RunRepair, run, &plan, RepairPlan, &st)) {
        return cli__say_status("cannot repair the shard", &st);
    }
    if (cli__is_document(c)) {
        print_plan(c, plan);
        return cli__flush();
    }
    printf("shards/%s repaired: led by replica %" PRIu64 ", epoch %" PRIu64 "\n", name,
           thole_v1_RepairPlan_chosen_replica(plan), thole_v1_RepairPlan_epoch(plan));
    return cli__flush();
}

/* ---- Shard zero, offline --------------------------------------------------------------------- */

/* The plan as the message of the service, so that both print alike. */
static const thole_v1_RepairPlan *plan_message(struct cli *c, const struct repair_plan *p)
{
    thole_v1_RepairPlan *plan = thole_v1_RepairPlan_new(c->arena);
    for (size_t i = 0; i < p->count; i++) {
        const struct repair_replica *r = &p->replicas[i];
        thole_v1_RepairReplica *out = thole_v1_RepairPlan_add_replicas(plan, c->arena);
        thole_v1_RepairReplica_set_replica_id(out, r->replica_id);
        thole_v1_RepairReplica_set_host(out, cli__sv(r->host));
        thole_v1_RepairReplica_set_answered(out, r->answered);
        thole_v1_RepairReplica_set_problem(out, cli__sv(r->problem));
        thole_v1_RepairReplica_set_voter(out, r->voter);
        thole_v1_RepairReplica_set_epoch(out, r->epoch);
        thole_v1_RepairReplica_set_last_term(out, r->last_term);
        thole_v1_RepairReplica_set_last_index(out, r->last_index);
    }
    if (p->chosen < p->count) {
        thole_v1_RepairPlan_set_chosen_replica(plan, p->replicas[p->chosen].replica_id);
    }
    thole_v1_RepairPlan_set_possible(plan, p->possible);
    thole_v1_RepairPlan_set_refused_because(plan, cli__sv(p->refused));
    thole_v1_RepairPlan_set_consequence(plan, cli__sv(p->consequence));
    return plan;
}

int cli__command_repair_zero(struct cli *c)
{
    struct thole_status st;
    struct repair_zero *z = xcalloc(1, sizeof *z);
    int rc = CLI_OK;
    if (repair_zero_open(c->args, c->arg_count, z, &st) != THOLE_OK) {
        rc = cli__say_status("cannot read the data directories", &st);
        free(z);
        return rc;
    }
    print_plan(c, plan_message(c, &z->plan));
    if (!z->plan.possible) {
        rc = cli__say_failed("no repair: %s", z->plan.refused);
    } else if (!cli_flag(c, OPT_YES)) {
        cli__note("nothing was changed; --yes marks %s", z->dirs[z->plan.chosen].path);
    } else if (repair_zero_mark(z, &st) != THOLE_OK) {
        rc = cli__say_status("cannot mark the data directory", &st);
    } else {
        fprintf(cli__is_document(c) ? stderr : stdout,
                "%s is marked: its next start makes it the only voter of shard zero, epoch %" PRIu64
                ". Then start the other remaining hosts: they get new replicas of shard zero\n",
                z->dirs[z->plan.chosen].path, z->plan.epoch);
    }
    repair_zero_close(z);
    free(z);
    return rc == CLI_OK ? cli__flush() : rc;
}

int cli__command_snapshot_restore_zero(struct cli *c)
{
    struct thole_status st;
    struct restored_zero done;
    char cluster[UUID_TEXT_BYTES];
    const char *name = cli_given(c, OPT_NAME) ? cli_text(c, OPT_NAME) : NULL;
    if (restore_zero(c->args[0], c->args[1], name, &done, &st) != THOLE_OK) {
        return cli__say_status("cannot restore the registry", &st);
    }
    uuid_format(&done.cluster, cluster);
    if (cli__is_document(c)) {
        struct bytes out = {0};
        cli__document_begin(&out, "RestoredRegistry");
        cli__document_text(&out, "directory", c->args[1]);
        cli__document_text(&out, "host", done.name);
        cli__document_text(&out, "cluster", cluster);
        bytes_printf(&out,
                     ",\"revision\":\"%" PRIu64 "\",\"shards\":%" PRIu32 ",\"lostHosts\":%" PRIu32,
                     done.registry.revision, done.registry.shards, done.registry.hosts);
        cli__document_end(c, &out);
        return cli__flush();
    }
    printf("%s: host %s of the new cluster %s, from revision %" PRIu64 ": %" PRIu32
           " shards await their data, %" PRIu32 " hosts are lost\n"
           "next: start tholed with it, let other hosts join, and restore each shard's snapshot "
           "under its "
           "name\n",
           c->args[1], done.name, cluster, done.registry.revision, done.registry.shards,
           done.registry.hosts);
    return cli__flush();
}
