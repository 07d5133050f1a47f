/* Why something cannot be placed, in one line: what is missing; per reason, how many hosts it rules
 * out, each host counted under all that rule it out; and the hosts that only one reason rules
 * out. */
#include "registry/placement/placement_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/map.h"

#define NEAR_MAX 3

enum ruling {
    RULED_USED,
    RULED_STATE,
    RULED_DEAD,
    RULED_FAILING,
    RULED_TYPE,
    RULED_FULL,
    RULED_COUNT
};

static const char *const ruling_texts[] = {
    [RULED_USED] = "in use by this shard",
    [RULED_STATE] = "cordoned or draining",
    [RULED_DEAD] = "dead",
    [RULED_FAILING] = "where replicas keep failing",
    [RULED_TYPE] = "without its machine type",
    [RULED_FULL] = "full (capacity of the host)",
};

struct explanation {
    const struct placement *p;
    const struct placement_class *class;
    uint32_t all;
    uint32_t ruled[RULED_COUNT];
    uint32_t constraints[REGISTRY_CONSTRAINTS_MAX];
    struct bytes near;
    size_t near_count;
};

static const char *operator_name(int32_t op)
{
    return op == thole_v1_CONSTRAINT_OPERATOR_IN       ? "in"
           : op == thole_v1_CONSTRAINT_OPERATOR_NOT_IN ? "not in"
           : op == thole_v1_CONSTRAINT_OPERATOR_EXISTS ? "exists"
                                                       : "does not exist";
}

static void append_constraint(struct bytes *out, const thole_v1_Constraint *c)
{
    size_t count = 0;
    upb_StringView key = thole_v1_Constraint_key(c);
    const upb_StringView *values = thole_v1_Constraint_values(c, &count);
    bytes_printf(out, "%.*s %s", (int)key.size, key.data,
                 operator_name(thole_v1_Constraint_operator(c)));
    for (size_t v = 0; v < count && v < 4; v++) {
        bytes_printf(out, "%s%.*s", v == 0 ? " (" : ", ", (int)values[v].size, values[v].data);
    }
    if (count > 0) {
        bytes_append_str(out, count > 4 ? ", ...)" : ")");
    }
}

/* A host that only one reason rules out, and that reason. */
static void append_near(struct explanation *e, const struct placement_host *h, const char *why,
                        const thole_v1_Constraint *c)
{
    upb_StringView name = thole_v1_Host_name(h->row);
    if (e->near_count++ >= NEAR_MAX) {
        return;
    }
    bytes_printf(&e->near, "%s%.*s (", e->near_count > 1 ? ", " : "", (int)name.size, name.data);
    if (c == NULL) {
        bytes_append_str(&e->near, why);
    } else {
        upb_StringView key = thole_v1_Constraint_key(c);
        upb_StringView value = {NULL, 0};
        bool has = thole_v1_HostSpec_tags_get(thole_v1_Host_spec(h->row), key, &value);
        bytes_printf(&e->near, has ? "%.*s=%.*s" : "no tag %.*s%.*s", (int)key.size, key.data,
                     (int)value.size, value.data != NULL ? value.data : "");
    }
    bytes_append_str(&e->near, ")");
}

static void rule_host(struct explanation *e, const struct placement_host *h)
{
    const struct placement *p = e->p;
    bool dead = placement__host_is_dead(h->row);
    bool removed = placement__host_has_state(h->row, thole_v1_HOST_STATE_REMOVED);
    const bool by[RULED_COUNT] = {
        [RULED_USED] = h->used && !dead, /* a host that is gone rules nothing out */
        [RULED_STATE] = !placement__host_has_state(h->row, thole_v1_HOST_STATE_ACTIVE),
        [RULED_DEAD] = dead,
        [RULED_FAILING] = h->failing && h->failures == 0,
        [RULED_TYPE] = !registry__host_runs(h->row, thole_v1_ShardSpec_type(p->spec)),
        [RULED_FULL] = h->full && !h->used,
    };
    const thole_v1_Constraint *failed = NULL;
    const char *why = "";
    uint32_t reasons = 0;
    if (removed) {
        return;
    }
    e->all++;
    for (size_t i = 0; i < RULED_COUNT; i++) {
        e->ruled[i] += by[i];
        reasons += by[i];
        why = by[i] ? ruling_texts[i] : why;
    }
    for (size_t i = 0; i < e->class->constraint_count && i < REGISTRY_CONSTRAINTS_MAX; i++) {
        if (!placement__satisfies(h->row, e->class->constraints[i])) {
            e->constraints[i]++;
            reasons++;
            failed = e->class->constraints[i];
        }
    }
    if (reasons == 1 && !by[RULED_USED]) {
        append_near(e, h, why, failed);
    }
}

static void append_missing(struct bytes *out, const struct placement *p, size_t c)
{
    const struct placement_class *class = &p->classes[c];
    if (c <= CLASS_WITNESSES) {
        bytes_printf(out, "%" PRIu32 " of %" PRIu32 " %s", class->unmet, class->wanted,
                     c == CLASS_VOTERS ? "voters" : "witnesses");
    } else {
        bytes_printf(out, "%" PRIu32 " of %" PRIu32 " non-voting", class->unmet, class->wanted);
    }
}

static void append_class(struct bytes *out, const struct placement *p, size_t c)
{
    struct explanation e = {.p = p, .class = &p->classes[c]};
    for (size_t i = 0; i < p->host_count; i++) {
        rule_host(&e, &p->hosts[i]);
    }
    bytes_printf(out, "; of %" PRIu32 " hosts", e.all);
    const char *separator = ": ";
    for (size_t i = 0; i < e.class->constraint_count && i < REGISTRY_CONSTRAINTS_MAX; i++) {
        if (e.constraints[i] > 0) {
            bytes_append_str(out, separator);
            append_constraint(out, e.class->constraints[i]);
            bytes_printf(out, " rules out %" PRIu32, e.constraints[i]);
            separator = ", ";
        }
    }
    for (size_t i = 0; i < RULED_COUNT; i++) {
        if (e.ruled[i] > 0) {
            bytes_printf(out, "%s%" PRIu32 " %s", separator, e.ruled[i], ruling_texts[i]);
            separator = ", ";
        }
    }
    if (e.near_count > 0) {
        bytes_printf(out, "; would nearly fit: %.*s%s", (int)e.near.size, (char *)e.near.data,
                     e.near_count > NEAR_MAX ? ", ..." : "");
    }
    bytes_deinit(&e.near);
}

void placement__explain(struct placement *p)
{
    struct bytes out = {0};
    size_t worst = PLACEMENT_CLASSES_MAX;
    const char *separator = "no host for ";
    for (size_t c = 0; c < p->class_count; c++) {
        if (p->classes[c].unmet > 0) {
            bytes_append_str(&out, separator);
            append_missing(&out, p, c);
            separator = ", ";
            worst = worst == PLACEMENT_CLASSES_MAX ? c : worst;
        }
    }
    if (p->cover_unmet > 0) {
        bytes_printf(&out, "%s%" PRIu32 " of the hosts to cover", separator, p->cover_unmet);
    }
    if (worst < PLACEMENT_CLASSES_MAX) {
        append_class(&out, p, worst);
    }
    snprintf(p->ret->explanation, sizeof p->ret->explanation, "%.*s", (int)out.size,
             (const char *)out.data);
    registry__trim_utf8(p->ret->explanation);
    bytes_deinit(&out);
}

/* ---- Dry runs -------------------------------------------------------------------------------- */

/* Placement's explanation for the shard, in the state as the command leaves it. */
static void preview(struct txn *t, const thole_v1_Shard *shard, struct placement_result *ret)
{
    const struct registry_view view = {.s = t->s};
    upb_Arena *arena = upb_Arena_New();
    ASSERT(arena != NULL);
    placement_decide(&view, shard, NULL, thole_registry_v1_Command_new(arena), arena, ret);
    upb_Arena_Free(arena);
}

static void fill(thole_v1_Condition *c, const struct placement_result *r, upb_Arena *arena)
{
    bool placed = r->verdict != PLACEMENT_UNSATISFIABLE;
    thole_v1_Condition_set_type(c, registry__dup_str(arena, "Placed"));
    thole_v1_Condition_set_status(c, placed);
    thole_v1_Condition_set_reason(c,
                                  registry__dup_str(arena, placed ? "Placeable" : "Unsatisfiable"));
    thole_v1_Condition_set_message(c, registry__dup_str(arena, placed ? "" : r->explanation));
}

void placement__preview_shard(struct txn *t)
{
    struct placement_result result;
    if (!thole_registry_v1_Command_validate_only(t->command)) {
        return;
    }
    preview(t, t->last[ROW_SHARD]->shard, &result);
    struct row *row = registry__txn_edit(t, t->last[ROW_SHARD]);
    thole_v1_ShardStatus *status = thole_v1_Shard_mutable_status(row->shard, row->arena);
    registry__clear(status, &thole_v1_ShardStatus_msginit, 6 /* conditions */);
    fill(thole_v1_ShardStatus_add_conditions(status, row->arena), &result, row->arena);
    registry__txn_show(t, row);
}

void placement__preview_pool(struct txn *t)
{
    struct placement_result result;
    if (!thole_registry_v1_Command_validate_only(t->command)) {
        return;
    }
    struct row *row = registry__txn_edit(t, t->last[ROW_POOL]);
    thole_v1_Shard *shard = thole_v1_Shard_new(t->arena);
    thole_v1_Shard_set_id(shard, t->s.next_shard_id);
    thole_v1_Shard_set_spec(shard, (thole_v1_ShardSpec *)(uintptr_t)thole_v1_ShardPoolSpec_shard(
                                       thole_v1_ShardPool_spec(row->pool)));
    (void)thole_v1_Shard_mutable_status(shard, t->arena);
    preview(t, shard, &result);
    thole_v1_ShardPoolStatus *status = thole_v1_ShardPool_mutable_status(row->pool, row->arena);
    fill(thole_v1_ShardPoolStatus_add_conditions(status, row->arena), &result, row->arena);
    registry__txn_show(t, row);
}

/* Decisions of one dry run. A decision takes some 20 us with 5 hosts, and shards of one kind share
 * it. */
#define PREVIEW_DECISIONS_MAX 4096

struct drain_preview {
    struct txn *t;
    struct registry_view view;
    struct map decided; /* kind of a shard -> whether its replica can leave, as enum departure */
    uint32_t all, stuck, unknown;
    char first[REGISTRY_TEXT_BYTES]; /* why the first one is stuck */
};

enum departure { CAN_LEAVE = 1, IS_STUCK = 2 };

/* The same for shards of one spec whose replicas are on the same hosts in the same state. */
static uint64_t kind_of(const struct drain_preview *p, const thole_v1_Shard *shard)
{
    struct registry_replica_buf buf;
    const thole_v1_Replica *r;
    upb_Arena *arena = upb_Arena_New();
    struct slice spec =
        registry__encode(thole_v1_Shard_spec(shard), &thole_v1_ShardSpec_msginit, arena);
    uint64_t seed = (uint64_t)thole_v1_Shard_deleting(shard) << 1 |
                    (uint64_t)thole_v1_ShardStatus_formed(thole_v1_Shard_status(shard));
    uint64_t kind = hash64(spec.data, spec.size, seed);
    upb_Arena_Free(arena);
    for (uint64_t after = 0; (r = registry_next_replica_of_shard(&p->view, thole_v1_Shard_id(shard),
                                                                 after, &buf)) != NULL;) {
        upb_StringView host = thole_v1_Replica_host_id(r);
        uint64_t state =
            (uint64_t)thole_v1_Replica_role(r) << 24 | (uint64_t)thole_v1_Replica_phase(r) << 16 |
            (uint64_t)thole_v1_Replica_desired(r) << 8 | (uint64_t)thole_v1_Replica_owner(r);
        after = thole_v1_Replica_id(r);
        kind = hash64(host.data, host.size, kind ^ state);
    }
    return kind | 1;
}

static void preview_departure(struct drain_preview *p, const thole_v1_Replica *row)
{
    struct registry_shard_buf buf;
    struct placement_result result;
    upb_StringView name = thole_v1_Replica_shard(row);
    const thole_v1_Shard *shard = registry_shard(&p->view, thole_v1_Replica_shard_id(row), &buf);
    if (shard == NULL || thole_v1_Replica_desired(row) != thole_v1_REPLICA_DESIRED_RUN) {
        return;
    }
    uint64_t kind = kind_of(p, shard);
    uintptr_t departure = (uintptr_t)map_get(&p->decided, kind);
    if (departure == 0 && p->decided.count >= PREVIEW_DECISIONS_MAX) {
        p->unknown++;
        return;
    }
    if (departure == 0) {
        preview(p->t, shard, &result);
        departure = result.verdict == PLACEMENT_UNSATISFIABLE ? IS_STUCK : CAN_LEAVE;
        (void)map_put(&p->decided, kind, (void *)departure);
        if (departure == IS_STUCK && p->first[0] == '\0') {
            snprintf(p->first, sizeof p->first, "shards/%.*s cannot move: %.300s", (int)name.size,
                     name.data, result.explanation);
        }
    }
    p->stuck += departure == IS_STUCK;
}

/* Why the drain would never end; empty if it would. */
static void explain_drain(const struct drain_preview *p, char ret[static REGISTRY_TEXT_BYTES])
{
    uint32_t paused = registry_paused_controllers(&p->view);
    ret[0] = '\0';
    if (p->stuck > 0) {
        snprintf(ret, REGISTRY_TEXT_BYTES, "%" PRIu32 " of %" PRIu32 " replicas cannot leave; %.*s",
                 p->stuck, p->all, (int)sizeof p->first - 64, p->first);
    } else if (p->all > 0 && (paused & 1u << thole_v1_CONTROLLER_PLACEMENT) != 0) {
        snprintf(ret, REGISTRY_TEXT_BYTES,
                 "the placement controller is paused, \"thole resume\" ends that");
    } else if (p->all > 0 && (paused & 1u << thole_v1_CONTROLLER_MEMBERSHIP) != 0) {
        snprintf(ret, REGISTRY_TEXT_BYTES,
                 "the membership controller is paused, \"thole resume\" ends that");
    } else if (p->unknown > 0) {
        snprintf(ret, REGISTRY_TEXT_BYTES,
                 "%" PRIu32 " of %" PRIu32 " replicas were not examined: their shards are of more "
                 "than %d kinds",
                 p->unknown, p->all, PREVIEW_DECISIONS_MAX);
    }
    registry__trim_utf8(ret);
}

void placement__preview_drain(struct txn *t, const struct uuid *host)
{
    if (!thole_registry_v1_Command_validate_only(t->command)) {
        return;
    }
    struct registry_replica_buf buf;
    struct drain_preview p = {.t = t, .view = {.s = t->s}};
    char why[REGISTRY_TEXT_BYTES];
    const thole_v1_Replica *row;
    for (uint64_t after = 0;
         (row = registry_next_replica_of_host(&p.view, host, after, &buf)) != NULL;) {
        after = thole_v1_Replica_id(row);
        if (thole_v1_Replica_shard_id(row) != REGISTRY_SHARD_ID) {
            p.all++;
            preview_departure(&p, row);
        }
    }
    map_deinit(&p.decided);
    explain_drain(&p, why);
    struct row *operation = registry__txn_edit(t, t->last[ROW_OPERATION]);
    thole_v1_Operation_set_total(operation->operation, p.all);
    if (why[0] != '\0') {
        thole_v1_Operation_set_message(operation->operation,
                                       registry__dup_str(operation->arena, why));
    }
    registry__txn_show(t, operation);
}
