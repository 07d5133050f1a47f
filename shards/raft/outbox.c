/* See outbox.h. */
#include "shards/raft/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* Start small: a group that wakes and sleeps again sends two messages, and all groups of a host may
 * do so at once. */
static size_t grown(size_t capacity)
{
    return capacity == 0 ? 2 : capacity * 2;
}

static void clear_list(struct raft_message_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        raft_message_deinit(&l->items[i]);
    }
    l->count = 0;
}

void raft__outbox_deinit(struct raft_outbox *o)
{
    clear_list(&o->ready);
    clear_list(&o->lent);
    for (size_t i = 0; i < o->withheld_count; i++) {
        raft_message_deinit(&o->withheld[i].message);
    }
    free(o->ready.items);
    free(o->lent.items);
    free(o->withheld);
    free(o->entries);
    free(o->need_log);
    free(o->need_snapshot);
    *o = (struct raft_outbox){0};
}

void raft__outbox_ready(struct raft_outbox *o, const struct raft_message *m)
{
    struct raft_message_list *l = &o->ready;

    if (l->count == l->capacity) {
        l->capacity = grown(l->capacity);
        l->items = xrealloc(l->items, l->capacity * sizeof *l->items);
    }
    l->items[l->count++] = *m;
}

static void drop_withheld(struct raft_outbox *o, size_t i)
{
    raft_message_deinit(&o->withheld[i].message);
    o->withheld_count--;
    memmove(&o->withheld[i], &o->withheld[i + 1], (o->withheld_count - i) * sizeof o->withheld[0]);
}

void raft__outbox_withhold(struct raft_outbox *o, const struct raft_message *m, uint64_t token)
{
    ASSERT(token > 0 && o->withheld_count <= RAFT_WITHHELD_MAX);
    if (o->withheld_count == RAFT_WITHHELD_MAX) {
        drop_withheld(o, 0);
    }
    if (o->withheld_count == o->withheld_capacity) {
        o->withheld_capacity = grown(o->withheld_capacity);
        o->withheld = xrealloc(o->withheld, o->withheld_capacity * sizeof *o->withheld);
    }
    o->withheld[o->withheld_count++] = (struct raft_withheld){.token = token, .message = *m};
}

void raft__outbox_release(struct raft_outbox *o, uint64_t done)
{
    size_t kept = 0;

    for (size_t i = 0; i < o->withheld_count; i++) {
        if (o->withheld[i].token <= done) {
            raft__outbox_ready(o, &o->withheld[i].message);
        } else {
            o->withheld[kept++] = o->withheld[i];
        }
    }
    o->withheld_count = kept;
}

static bool is_campaign(const struct raft_message *m)
{
    return m->kind == RAFT_MSG_VOTE || m->kind == RAFT_MSG_PREVOTE;
}

void raft__outbox_drop_campaign(struct raft_outbox *o)
{
    size_t kept = 0;

    for (size_t i = 0; i < o->withheld_count; i++) {
        if (!is_campaign(&o->withheld[i].message)) {
            o->withheld[kept++] = o->withheld[i];
        }
    }
    o->withheld_count = kept;
}

void raft__outbox_lend(struct raft_outbox *o)
{
    struct raft_message_list lent = o->lent;

    ASSERT(lent.count == 0);
    o->lent = o->ready;
    o->ready = lent;
    o->requests_lent = true;
}

void raft__outbox_take_back(struct raft_outbox *o)
{
    clear_list(&o->lent);
    if (o->requests_lent) {
        o->requests_lent = false;
        o->need_log_count = 0;
        o->need_snapshot_count = 0;
    }
}

bool raft__outbox_is_empty(const struct raft_outbox *o)
{
    return o->ready.count + o->lent.count + o->withheld_count + o->need_log_count +
               o->need_snapshot_count ==
           0;
}

struct raft_entry **raft__outbox_entries(struct raft_outbox *o, size_t n)
{
    if (n > o->entry_capacity) {
        o->entry_capacity = n < 4 ? 4 : n * 2;
        free(o->entries);
        o->entries = xmalloc(o->entry_capacity * sizeof(struct raft_entry *));
    }
    return o->entries;
}

void raft__outbox_need_log(struct raft_outbox *o, struct raft_peer_request request)
{
    if (o->need_log_count == o->need_log_capacity) {
        o->need_log_capacity = grown(o->need_log_capacity);
        o->need_log = xrealloc(o->need_log, o->need_log_capacity * sizeof *o->need_log);
    }
    o->need_log[o->need_log_count++] = request;
}

void raft__outbox_need_snapshot(struct raft_outbox *o, struct raft_peer_request request)
{
    if (o->need_snapshot_count == o->need_snapshot_capacity) {
        o->need_snapshot_capacity = grown(o->need_snapshot_capacity);
        o->need_snapshot =
            xrealloc(o->need_snapshot, o->need_snapshot_capacity * sizeof *o->need_snapshot);
    }
    o->need_snapshot[o->need_snapshot_count++] = request;
}

void raft__outbox_check(const struct raft_outbox *o, uint64_t done, uint64_t newest)
{
    /* Only the newest, which this event may have added: the queue may be long. */
    size_t from = o->withheld_count > 64 ? o->withheld_count - 64 : 0;

    ASSERT(o->withheld_count <= RAFT_WITHHELD_MAX);
    for (size_t i = from; i < o->withheld_count; i++) {
        ASSERT(o->withheld[i].token > done && o->withheld[i].token <= newest);
    }
}
