/* thole.v1.Cluster.Status: what a host knows, without asking another host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "agent/services/services_internal.h"

static upb_StringView copy_text(struct call *c, const char *text)
{
    size_t size = strlen(text);
    char *copy = upb_Arena_Malloc(c->arena, size + 1);
    memcpy(copy, text, size + 1);
    return (upb_StringView){copy, size};
}

static const char *role_name(const struct engine_replica_status *s)
{
    switch (s->role) {
    case RAFT_LEADER:
        return "leader";
    case RAFT_CANDIDATE:
        return "candidate";
    case RAFT_PRE_CANDIDATE:
        return "pre-candidate";
    case RAFT_FOLLOWER:
        break;
    }
    return "follower";
}

static void add_replica(struct call *c, thole_v1_StatusResponse *reply,
                        const struct engine_replica_status *s)
{
    struct registry_shard_buf shard_buf;
    thole_v1_LocalReplica *r = thole_v1_StatusResponse_add_replicas(reply, c->arena);
    thole_v1_LocalReplica_set_replica_id(r, s->replica_id);
    thole_v1_LocalReplica_set_shard_id(r, s->shard_id);
    const thole_v1_Shard *shard = registry_shard(c->view, s->shard_id, &shard_buf);
    if (shard != NULL) {
        thole_v1_LocalReplica_set_shard(r, thole_v1_Shard_name(shard));
    }
    thole_v1_LocalReplica_set_role(r, upb_StringView_FromString(role_name(s)));
    thole_v1_LocalReplica_set_term(r, s->term);
    thole_v1_LocalReplica_set_leader_replica(r, s->leader_replica);
    thole_v1_LocalReplica_set_commit(r, s->commit);
    thole_v1_LocalReplica_set_applied(r, s->applied);
    thole_v1_LocalReplica_set_first_index(r, s->first_index);
    thole_v1_LocalReplica_set_last_index(r, s->last_index);
    thole_v1_LocalReplica_set_log_bytes(r, s->log_bytes);
    thole_v1_LocalReplica_set_epoch(r, s->epoch);
    thole_v1_LocalReplica_set_last_term(r, s->last_term);
    thole_v1_LocalReplica_set_votes(r, s->votes);
    if (s->failed) {
        thole_v1_LocalReplica_set_failure(
            r, copy_text(c, s->failure[0] != '\0' ? s->failure : "failed"));
    }
}

static double clock_seconds(clockid_t id)
{
    struct timespec t;
    return clock_gettime(id, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec / 1e9 : 0;
}

/* The time at which the process was loaded, right after its start. */
static double started;
__attribute__((constructor)) static void remember_start(void)
{
    started = clock_seconds(CLOCK_BOOTTIME);
}

static void set_identity(struct call *c, thole_v1_StatusResponse *reply)
{
    struct uuid cluster;
    char text[UUID_TEXT_BYTES];
    if (registry_view_cluster(c->view, &cluster)) {
        uuid_format(&cluster, text);
        thole_v1_StatusResponse_set_cluster_id(reply, copy_text(c, text));
    }
    const struct uuid *self = agent_host_id(c->s->agent);
    const thole_v1_Host *host = registry_host(c->view, self);
    if (host != NULL) {
        thole_v1_StatusResponse_set_host(reply, (thole_v1_Host *)(uintptr_t)host);
    } else {
        uuid_format(self, text);
        thole_v1_Host *unknown = thole_v1_StatusResponse_mutable_host(reply, c->arena);
        thole_v1_Host_set_id(unknown, copy_text(c, text));
    }
    thole_v1_StatusResponse_set_version(reply, upb_StringView_FromString(agent_version()));
}

static void set_transport(struct agent *a, thole_v1_StatusResponse *reply)
{
    struct bus_tls *tls = agent_tls(a);
    thole_v1_StatusResponse_set_tls(reply, tls != NULL);
    thole_v1_StatusResponse_set_exposed(reply, agent_exposed(a));
    if (tls != NULL) {
        int64_t at_s = bus_tls_expiry_s(tls);
        thole_v1_StatusResponse_set_certificate_expire_time_ms(
            reply, at_s > 0 ? (uint64_t)at_s * 1000 : 0);
    }
}

thole_v1_StatusResponse *services__status(struct call *c)
{
    c->view = registry_view_acquire(agent_registry(c->s->agent));
    thole_v1_StatusResponse *reply = thole_v1_StatusResponse_new(c->arena);
    set_identity(c, reply);
    thole_v1_StatusResponse_set_revision(reply, registry_view_revision(c->view));
    char why[THOLE_STATUS_MESSAGE_BYTES] = "";
    bool ready = agent_is_ready(c->s->agent, why, sizeof why);
    thole_v1_StatusResponse_set_ready(reply, ready);
    if (!ready) {
        thole_v1_StatusResponse_set_not_ready_reason(reply, copy_text(c, why));
    }
    set_transport(c->s->agent, reply);
    thole_v1_StatusResponse_set_view_age_ms(reply, agent_view_age_ms(c->s->agent));
    struct engine_replica_status *replicas = NULL;
    size_t n = engine_replicas(agent_engine(c->s->agent), &replicas);
    for (size_t i = 0; i < n; i++) {
        add_replica(c, reply, &replicas[i]);
    }
    free(replicas);
    thole_v1_StatusResponse_set_cpu_seconds(reply, clock_seconds(CLOCK_PROCESS_CPUTIME_ID));
    thole_v1_StatusResponse_set_uptime_seconds(reply, clock_seconds(CLOCK_BOOTTIME) - started);
    return reply;
}

static void status_here(struct call *c)
{
    services__call_reply(c, services__status(c), &thole_v1_StatusResponse_msginit);
}

void services__cluster_status(struct call *c)
{
    const thole_v1_StatusRequest *q = c->request;
    services__call_on_host(c, services__name_strip(thole_v1_StatusRequest_host(q), "hosts"),
                           status_here);
}
