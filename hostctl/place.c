/* The placement controller, on shard zero's leader host: placement_decide for every shard whose
 * rows or whose hosts changed, and the proposal of what it decides. One proposal per shard at a
 * time; the next decision waits until our own view has the last one. */
#include "hostctl/hostctl_internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

static int32_t extra_load(void *ctx, const struct uuid *host)
{
    return (int32_t)hostctl__host(ctx, host)->extra;
}

static void note_placed(struct hostctl *h, struct ctl_op *op, const thole_registry_v1_Command *c)
{
    size_t count = 0;
    const thole_registry_v1_Operation *const *ops = thole_registry_v1_Command_operations(c, &count);
    for (size_t i = 0; i < count; i++) {
        size_t placed_count = 0;
        if (!thole_registry_v1_Operation_has_place_replicas(ops[i])) {
            continue;
        }
        const thole_registry_v1_Placed *const *placed = thole_registry_v1_PlaceReplicas_replicas(
            thole_registry_v1_Operation_place_replicas(ops[i]), &placed_count);
        op->placed = xrealloc(op->placed, (op->count + placed_count) * sizeof(*op->placed));
        for (size_t k = 0; k < placed_count; k++) {
            struct uuid *host = &op->placed[op->count];
            if (hostctl__parse_uuid(thole_registry_v1_Placed_host_id(placed[k]), host)) {
                hostctl__host(h, host)->extra++;
                op->count++;
            }
        }
    }
}

static void forget_placed(struct hostctl *h, struct ctl_op *op)
{
    for (size_t i = 0; i < op->count; i++) {
        struct ctl_host *host = hostctl__host(h, &op->placed[i]);
        ASSERT(host->extra > 0);
        host->extra--;
    }
    hostctl__op_free(op);
}

static void remember(struct ctl_shard *s, const struct placement_result *r)
{
    s->decided = true;
    s->verdict = r->verdict;
    if (s->explanation == NULL || strcmp(s->explanation, r->explanation) != 0) {
        free(s->explanation);
        s->explanation = r->explanation[0] == '\0' ? NULL : xstrdup(r->explanation);
    }
}

void hostctl__place_evaluate(struct hostctl *h, struct ctl_shard *s)
{
    const thole_v1_Shard *shard = registry_shard(h->view, s->id);
    if (s->placing || shard == NULL || registry_view_revision(h->view) < s->place_revision) {
        return;
    }
    if (h->now_ms < s->place_after_ms || h->placements >= HOSTCTL_PLACEMENTS_MAX) {
        uint64_t later = h->now_ms + h->o.retry_ms / 4 + 1;
        hostctl__again(h, s, later > s->place_after_ms ? later : s->place_after_ms);
        return;
    }
    upb_Arena *arena = upb_Arena_New();
    thole_registry_v1_Command *c = hostctl__command(h, "placement", arena);
    const struct placement_options options = {.ctx = h, .extra = extra_load};
    struct placement_result result;
    placement_decide(h->view, shard, &options, c, arena, &result);
    remember(s, &result);
    if (result.verdict == PLACEMENT_ACT) {
        struct ctl_op *op = hostctl__op_new(h, OP_PLACE, s->id, 0);
        note_placed(h, op, c);
        s->placing = true;
        h->placements++;
        hostctl__propose(h, c, arena, op);
    }
    upb_Arena_Free(arena);
}

void hostctl__place_done(struct hostctl *h, struct ctl_op *op)
{
    struct ctl_shard *s = hostctl__shard(h, op->shard_id);
    s->placing = false;
    h->placements--;
    hostctl__dirty(h, op->shard_id);
    if (op->st.code == THOLE_OK && op->code == THOLE_OK) {
        s->place_revision = op->revision;
        op->next = h->unseen_placements;
        h->unseen_placements = op;
        hostctl__place_view_changed(h);
        return;
    }
    LOG_DEBUG(HOSTCTL, "a placement was refused shard=%" PRIu64 " code=%" PRIu64 " error=\"%s\"",
              op->shard_id, op->code, op->st.message);
    s->place_after_ms = h->now_ms + h->o.retry_ms;
    hostctl__again(h, s, s->place_after_ms);
    forget_placed(h, op);
}

/* Our view now shows some of what was placed: it need not be counted twice. */
void hostctl__place_view_changed(struct hostctl *h)
{
    struct ctl_op **at = &h->unseen_placements;
    while (*at != NULL) {
        struct ctl_op *op = *at;
        if (h->view != NULL && op->revision <= registry_view_revision(h->view)) {
            *at = op->next;
            hostctl__dirty(h, op->shard_id);
            forget_placed(h, op);
        } else {
            at = &op->next;
        }
    }
}
