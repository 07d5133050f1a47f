/* Changes of the state by operations. Every change goes through here, so revision, journal and
 * result always follow. */
#include "registry/registry_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *registry__row_name(const struct row *row, char *ret)
{
    if (row->kind == ROW_HOST) {
        upb_StringView name = thole_v1_Host_name(row->host);
        snprintf(ret, REGISTRY_NAME_BYTES, "hosts/%.*s", (int)name.size, name.data);
    } else if (row->kind == ROW_SHARD) {
        upb_StringView name = thole_v1_Shard_name(row->shard);
        snprintf(ret, REGISTRY_NAME_BYTES, "shards/%.*s", (int)name.size, name.data);
    } else if (row->kind == ROW_POOL) {
        upb_StringView name = thole_v1_ShardPool_name(row->pool);
        snprintf(ret, REGISTRY_NAME_BYTES, "pools/%.*s", (int)name.size, name.data);
    } else if (row->kind == ROW_ROLE) {
        upb_StringView name = thole_v1_Role_name(row->role);
        snprintf(ret, REGISTRY_NAME_BYTES, "roles/%.*s", (int)name.size, name.data);
    } else if (row->kind == ROW_TOKEN) {
        upb_StringView id = thole_v1_Token_id(thole_registry_v1_StoredToken_token(row->token));
        snprintf(ret, REGISTRY_NAME_BYTES, "tokens/%.*s", (int)id.size, id.data);
    } else if (row->kind == ROW_OPERATION) {
        snprintf(ret, REGISTRY_NAME_BYTES, "operations/%" PRIu64,
                 thole_v1_Operation_id(row->operation));
    } else {
        ASSERT(row->kind == ROW_REPLICA);
        upb_StringView name = thole_v1_Replica_shard(row->replica);
        snprintf(ret, REGISTRY_NAME_BYTES, "shards/%.*s/replicas/%" PRIu64, (int)name.size,
                 name.data, thole_v1_Replica_id(row->replica));
    }
    return ret;
}

void registry__txn_show(struct txn *t, struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES);
    t->last[row->kind] = row;
}

static uint64_t row_revision(const struct row *row)
{
    switch ((enum row_kind)row->kind) {
    case ROW_HOST:
        return thole_v1_Host_revision(row->host);
    case ROW_SHARD:
        return thole_v1_Shard_revision(row->shard);
    case ROW_REPLICA:
        return thole_v1_Replica_revision(row->replica);
    case ROW_POOL:
        return thole_v1_ShardPool_revision(row->pool);
    case ROW_OPERATION:
        return thole_v1_Operation_revision(row->operation);
    case ROW_ROLE:
        return thole_v1_Role_revision(row->role);
    case ROW_TOKEN:
        return thole_v1_Token_revision(thole_registry_v1_StoredToken_token(row->token));
    case ROW_EVENT:
    case ROW_REQUEST:
    case ROW_MARKS:
        break;
    }
    return 0;
}

static struct row *find_same(const struct state *s, const struct row *row)
{
    switch ((enum row_kind)row->kind) {
    case ROW_HOST:
        return registry__host(s, &row->host_id);
    case ROW_SHARD:
        return registry__shard(s, thole_v1_Shard_id(row->shard));
    case ROW_REPLICA:
        return registry__replica(s, thole_v1_Replica_id(row->replica));
    case ROW_POOL:
        return registry__pool(s, registry_str(thole_v1_ShardPool_name(row->pool)));
    case ROW_OPERATION:
        return registry__operation(s, thole_v1_Operation_id(row->operation));
    case ROW_ROLE:
        return registry__role(s, registry_str(thole_v1_Role_name(row->role)));
    case ROW_TOKEN:
        return registry__token(
            s, registry_str(thole_v1_Token_id(thole_registry_v1_StoredToken_token(row->token))));
    case ROW_EVENT:
    case ROW_REQUEST:
    case ROW_MARKS:
        break;
    }
    return NULL;
}

static void journal(struct txn *t, const struct row *row, bool gone)
{
    char name[REGISTRY_NAME_BYTES];
    struct mark mark = {
        .kind = row->kind, .revision = t->revision, .gone = gone, .host_id = row->host_id};
    if (gone || registry__is_found_by_name(row->kind)) {
        mark.name = slice_str(registry__row_name(row, name));
    } else if (row->kind != ROW_HOST) {
        mark.id = row->kind == ROW_SHARD       ? thole_v1_Shard_id(row->shard)
                  : row->kind == ROW_OPERATION ? thole_v1_Operation_id(row->operation)
                                               : thole_v1_Replica_id(row->replica);
    }
    registry__journal_add(&t->s, &mark);
}

static void note_access(struct txn *t, enum row_kind kind)
{
    if (kind == ROW_ROLE || kind == ROW_TOKEN) {
        t->s.access_revision = t->revision;
    }
}

struct row *registry__txn_edit(struct txn *t, const struct row *row)
{
    return registry__row_copy(&t->scope, row);
}

void registry__txn_put(struct txn *t, struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES && row->packed == NULL); /* a new row, or an edited copy */
    if (row->kind == ROW_HOST) {
        thole_v1_Host_set_revision(row->host, t->revision);
    } else if (row->kind == ROW_SHARD) {
        thole_v1_Shard_set_revision(row->shard, t->revision);
    } else if (row->kind == ROW_POOL) {
        thole_v1_ShardPool_set_revision(row->pool, t->revision);
    } else if (row->kind == ROW_OPERATION) {
        thole_v1_Operation_set_revision(row->operation, t->revision);
    } else if (row->kind == ROW_ROLE) {
        thole_v1_Role_set_revision(row->role, t->revision);
    } else if (row->kind == ROW_TOKEN) {
        thole_v1_Token_set_revision(
            thole_registry_v1_StoredToken_mutable_token(row->token, row->arena), t->revision);
    } else {
        thole_v1_Replica_set_revision(row->replica, t->revision);
    }
    const struct row *before = find_same(&t->s, row);
    if (before == NULL || row_revision(before) != t->revision) {
        journal(t, row, false);
    }
    if (row->kind == ROW_SHARD) {
        registry__pool_count(t, before == NULL ? NULL : before->shard, row->shard);
    }
    registry__state_put(&t->s, row);
    registry__txn_show(t, row);
    note_access(t, row->kind);
    t->changed = true;
}

void registry__txn_drop(struct txn *t, struct row *row)
{
    ASSERT(row->kind < ROW_RESOURCES && row->packed != NULL);
    journal(t, row, true);
    registry__state_drop(&t->s, row);
    note_access(t, row->kind);
    t->changed = true;
    if (row->kind == ROW_SHARD) {
        registry__pool_count(t, row->shard, NULL);
    }
}

/* A decision about a shard's replicas changes the shard's row too: placement compares-and-sets on
 * it. */
void registry__txn_touch_shard(struct txn *t, uint64_t shard_id)
{
    struct row *shard = registry__shard(&t->s, shard_id);
    ASSERT(shard != NULL);
    if (thole_v1_Shard_revision(shard->shard) != t->revision) {
        registry__txn_put(t, registry__txn_edit(t, shard));
    }
}

/* Of what one actor does again and again to a host, shard or pool the first events are kept, and
 * then the newest with their number: what a controller repeats must not hide what a user did. Only
 * the last few events are looked at: what floods is there. */
#define SAME_EVENTS_KEPT 3
#define SAME_EVENTS_LOOK 64
#define SAME_EVENTS_APART_MS (INT64_C(600) * 1000)

static bool same_event(const thole_v1_Event *a, const thole_v1_Event *b)
{
    return slice_equal(registry_str(thole_v1_Event_reason(a)),
                       registry_str(thole_v1_Event_reason(b))) &&
           slice_equal(registry_str(thole_v1_Event_object(a)),
                       registry_str(thole_v1_Event_object(b))) &&
           slice_equal(registry_str(thole_v1_Event_actor(a)),
                       registry_str(thole_v1_Event_actor(b))) &&
           registry__ms_between(thole_v1_Event_time_ms(a), thole_v1_Event_time_ms(b)) <
               SAME_EVENTS_APART_MS;
}

static void coalesce(struct txn *t, const struct row *event)
{
    uint16_t tag = registry__event_tag(event->event);
    struct node **root = &t->s.index[INDEX_EVENTS];
    const struct row *last = NULL;
    uint64_t newest = 0;
    uint32_t seen = 0;
    struct key key = registry__key_id(t->s.event_next);
    struct packed *p = registry__tree_before(*root, &key);
    for (uint32_t i = 0; i < SAME_EVENTS_LOOK && p != NULL && seen < SAME_EVENTS_KEPT; i++) {
        const struct row *row = p->tag == tag ? registry__open(&t->scope, p) : NULL;
        key.id = registry__packed_id(p);
        if (row != NULL && same_event(row->event, event->event)) {
            seen++;
            newest = last == NULL ? key.id : newest;
            last = last == NULL ? row : last;
            seen += thole_v1_Event_count(row->event) > 0 ? SAME_EVENTS_KEPT : 0;
        }
        p = registry__tree_before(*root, &key);
    }
    if (seen < SAME_EVENTS_KEPT) {
        return;
    }
    const thole_v1_Event *before = last->event;
    uint32_t count = thole_v1_Event_count(before);
    thole_v1_Event_set_count(event->event, count == 0 ? 2 : count + 1);
    thole_v1_Event_set_first_time_ms(event->event, count == 0
                                                       ? thole_v1_Event_time_ms(before)
                                                       : thole_v1_Event_first_time_ms(before));
    key.id = newest;
    registry__tree_remove(root, &key);
}

void registry__txn_event(struct txn *t, const struct row *about, const char *reason,
                         const char *format, ...)
{
    char name[REGISTRY_NAME_BYTES];
    char message[REGISTRY_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    registry__trim_utf8(message);
    ASSERT(reason[0] != '\0' && t->revision > t->s.revision);
    struct row *row = registry__row_new(&t->scope, ROW_EVENT);
    upb_StringView actor = thole_registry_v1_Command_actor(t->command);
    thole_v1_Event_set_revision(row->event, t->revision);
    thole_v1_Event_set_time_ms(row->event, thole_registry_v1_Command_time_ms(t->command));
    thole_v1_Event_set_actor(row->event, registry__dup(row->arena, registry_str(actor)));
    thole_v1_Event_set_object(row->event,
                              registry__dup_str(row->arena, registry__row_name(about, name)));
    thole_v1_Event_set_reason(row->event, registry__dup_str(row->arena, reason));
    thole_v1_Event_set_message(row->event, registry__dup_str(row->arena, message));
    upb_StringView address = thole_registry_v1_Command_address(t->command);
    upb_StringView method = thole_registry_v1_Command_method(t->command);
    if (address.size > 0) {
        thole_v1_Event_set_address(row->event, registry__dup(row->arena, registry_str(address)));
    }
    if (method.size > 0) {
        thole_v1_Event_set_method(row->event, registry__dup(row->arena, registry_str(method)));
    }
    if (about->kind != ROW_REPLICA) { /* replicas come and go: many events about one are rare */
        coalesce(t, row);
    }
    registry__state_event(&t->s, row);
    t->changed = true;
}

upb_StringView registry__txn_etag(const struct txn *t, upb_Arena *arena)
{
    char text[24];
    snprintf(text, sizeof text, "r%" PRIx64, t->revision);
    return registry__dup_str(arena, text);
}

/* ---- Guards ---------------------------------------------------------------------------------- */

enum thole_code registry__check_revision(struct txn *t, const thole_registry_v1_Operation *op,
                                         const struct row *row)
{
    uint64_t expected = thole_registry_v1_Operation_expected_revision(op);
    const struct row *before = find_same(t->base, row);
    uint64_t have = before == NULL ? 0 : row_revision(before);
    if (expected != 0 && expected != have) {
        char name[REGISTRY_NAME_BYTES];
        return THOLE_FAIL(&t->st, THOLE_ABORTED, THOLE_REASON_STALE_REVISION,
                          "%s is at revision %" PRIu64 ", expected %" PRIu64,
                          registry__row_name(row, name), have, expected);
    }
    return THOLE_OK;
}

enum thole_code registry__check_decided(struct txn *t, const struct row *shard)
{
    uint64_t decided_at = thole_registry_v1_Command_decided_at(t->command);
    const struct row *before = find_same(t->base, shard);
    if (decided_at != 0 && before != NULL && row_revision(before) > decided_at) {
        char name[REGISTRY_NAME_BYTES];
        return THOLE_FAIL(&t->st, THOLE_ABORTED, THOLE_REASON_STALE_REVISION,
                          "%s changed at revision %" PRIu64 ", after the decision at %" PRIu64,
                          registry__row_name(shard, name), row_revision(before), decided_at);
    }
    return THOLE_OK;
}

enum thole_code registry__check_etag(struct txn *t, upb_StringView have, upb_StringView given)
{
    if (given.size > 0 && !slice_equal(registry_str(have), registry_str(given))) {
        return registry__refuse(t, THOLE_ABORTED, THOLE_REASON_ETAG_MISMATCH, "etag",
                                "the spec has changed since it was read");
    }
    return THOLE_OK;
}
