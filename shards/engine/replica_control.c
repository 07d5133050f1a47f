/* Commands for replicas: create, remove, change members, transfer leadership. The table of replicas
 * changes at once, under the engine's lock. Everything else happens on the replica's loop. */
#include <inttypes.h>
#include <stdlib.h>

#include "shards/engine/frame_codec.h"

void engine__control_answer(struct control *c)
{
    if (c == NULL) {
        return;
    }
    if (c->done != NULL) {
        c->done(c->ctx, &c->st);
    }
    replica_unref(c->r);
    free(c);
}

struct control *engine__control_new(enum control_kind kind, engine_done_fn done, void *ctx)
{
    struct control *c = xcalloc(1, sizeof *c);
    c->msg.kind = MSG_CONTROL;
    c->kind = kind;
    c->done = done;
    c->ctx = ctx;
    return c;
}

/* ---- Entry points, on any thread ------------------------------------------------------------- */

static bool valid_id(uint64_t replica_id)
{
    return replica_id != 0 && replica_id != UINT64_MAX;
}

static enum thole_code describe(struct engine *e, const struct engine_replica_spec *spec,
                                struct bytes *out, struct thole_status *st)
{
    const struct thole_machine_type *type = engine__machine_type_find(e, spec->machine_type);
    if (type == NULL) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_TYPE,
                          "this host has no machine type %s", spec->machine_type);
    }
    if (spec->machine_version > type->version) {
        return THOLE_FAIL(st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_TYPE,
                          "machine type %s: version %u wanted, this host has %u",
                          spec->machine_type, spec->machine_version, type->version);
    }
    if (!valid_id(spec->replica_id) || spec->initial_count > LIMIT_MEMBERS) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                          "replica id 0 or the highest number, or too many initial members");
    }
    struct codec_descriptor d = {
        .machine_type = slice_str(spec->machine_type),
        .machine_config = spec->machine_config,
        .machine_version = spec->machine_version ? spec->machine_version : type->version,
        .witness = spec->witness,
        .lease_reads = spec->lease_reads,
    };
    codec_descriptor_encode(&d, out);
    return THOLE_OK;
}

/* A new replica object, or NULL: refused, or (status still OK) it runs already. */
static struct replica *claim(struct engine *e, const struct engine_replica_spec *spec,
                             struct slice descriptor, struct thole_status *st)
{
    struct replica *r = map_get(&e->by_replica, spec->replica_id);
    bool gone = map_get(&e->tombstones, spec->replica_id) != NULL ||
                map_get(&e->forgotten, spec->replica_id) != NULL;
    if (gone || (r != NULL && atomic_load(&r->removing))) {
        (void)THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_REMOVED,
                         "the replica was removed");
        return NULL;
    }
    if (r != NULL && r->shard_id == spec->shard_id) {
        return NULL; /* OK: it runs already */
    }
    if (r != NULL || map_get(&e->by_shard, spec->shard_id) != NULL) {
        (void)THOLE_FAIL(st, THOLE_ALREADY_EXISTS, THOLE_REASON_EXISTS,
                         "another replica of the shard is active on this host");
        return NULL;
    }
    r = replica_new(e, spec->replica_id, spec->shard_id, descriptor);
    (void)map_put(&e->by_replica, spec->replica_id, r);
    (void)map_put(&e->by_shard, spec->shard_id, r);
    return r;
}

/* The first configuration. INVALID_ARGUMENT if it is not valid. */
static enum thole_code boot_config(const struct engine_replica_spec *spec, struct bytes *out,
                                   struct thole_status *st)
{
    struct raft_config c = {0}, read = {0};
    for (size_t i = 0; i < spec->initial_count; i++) {
        uint32_t at = c.member_count;
        while (at > 0 && c.members[at - 1].replica_id > spec->initial[i].replica_id) {
            at--;
        }
        *raft_config_insert(&c, at) = spec->initial[i];
    }
    raft_config_encode(&c, out);
    enum thole_code code = raft_config_decode(bytes_slice(out), &read, st); /* checks it */
    raft_config_deinit(&c);
    raft_config_deinit(&read);
    return code;
}

void engine_replica_start(struct engine *e, const struct engine_replica_spec *spec,
                          engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_ANSWER, done, ctx);
    struct bytes descriptor = {0}, config = {0};
    c->shard_id = spec->shard_id;
    c->replica_id = spec->replica_id;
    if (describe(e, spec, &descriptor, &c->st) == THOLE_OK &&
        boot_config(spec, &config, &c->st) == THOLE_OK) {
        pthread_mutex_lock(&e->lock);
        struct replica *r = claim(e, spec, bytes_slice(&descriptor), &c->st);
        if (r != NULL) {
            c->kind = CONTROL_START;
            c->r = replica_ref(r);
            bytes_append_slice(&r->boot->config, bytes_slice(&config));
        }
        pthread_mutex_unlock(&e->lock);
    }
    bytes_deinit(&descriptor);
    bytes_deinit(&config);
    engine__loop_post(engine__loop(e, spec->shard_id), &c->msg);
}

void engine_replica_remove(struct engine *e, uint64_t replica_id, engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_ANSWER, done, ctx);
    c->replica_id = replica_id;
    if (!valid_id(replica_id)) {
        (void)THOLE_FAIL(&c->st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                         "0 and the highest number are no replica ids");
        engine__loop_post(e->loops[0], &c->msg);
        return;
    }
    pthread_mutex_lock(&e->lock);
    struct replica *r = map_get(&e->by_replica, replica_id);
    if (r != NULL) {
        c->kind = CONTROL_REMOVE;
        c->r = replica_ref(r);
    } else if (map_get(&e->tombstones, replica_id) == NULL &&
               map_get(&e->forgotten, replica_id) == NULL) {
        c->kind = CONTROL_TOMBSTONE;
        (void)map_put(&e->tombstones, replica_id, e); /* at once, so that it cannot be started */
    }
    pthread_mutex_unlock(&e->lock);
    engine__loop_post(r != NULL ? r->loop : e->loops[0], &c->msg);
}

void engine_replica_forget(struct engine *e, uint64_t replica_id, engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_FORGET, done, ctx);
    c->replica_id = replica_id;
    engine__loop_post(e->loops[0], &c->msg);
}

void engine_change(struct engine *e, uint64_t shard_id, const struct raft_change *change,
                   engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_CHANGE, done, ctx);
    c->shard_id = shard_id;
    c->change = *change;
    engine__loop_post(engine__loop(e, shard_id), &c->msg);
}

void engine_transfer(struct engine *e, uint64_t shard_id, uint64_t target_replica,
                     uint64_t *ret_leader, engine_done_fn done, void *ctx)
{
    struct control *c = engine__control_new(CONTROL_TRANSFER, done, ctx);
    c->ret_leader = ret_leader;
    c->shard_id = shard_id;
    c->replica_id = target_replica;
    engine__loop_post(engine__loop(e, shard_id), &c->msg);
}

void engine_force(struct engine *e, uint64_t shard_id, uint64_t epoch, engine_done_fn done,
                  void *ctx)
{
    struct control *c = engine__control_new(CONTROL_FORCE, done, ctx);
    c->shard_id = shard_id;
    c->epoch = epoch;
    engine__loop_post(engine__loop(e, shard_id), &c->msg);
}

/* ---- On the loop ----------------------------------------------------------------------------- */

static struct write_batch *next_batch(struct loop *l)
{
    if (l->next == NULL) {
        l->next = engine__write_batch_new(l);
    }
    return l->next;
}

static void start(struct loop *l, struct control *c)
{
    struct replica *r = c->r;
    ASSERT(r->loop == l && r->boot != NULL && r->core == NULL);
    const void *same_id = map_put(&l->by_replica, r->replica_id, replica_ref(r));
    const void *same_shard = map_put(&l->by_shard, r->shard_id, r);
    ASSERT(same_id == NULL && same_shard == NULL); /* claim() saw to it */
    r->state = GROUP_CREATING;
    work_of(r)->starting = c;
    struct write_update *w = engine__write_batch_add(next_batch(l), r);
    w->identity = (struct store_identity){
        .replica_id = r->replica_id,
        .shard_id = r->shard_id,
        .incarnation_created = l->e->o.incarnation,
        .descriptor = bytes_slice(&r->boot->descriptor),
    };
    w->create = true;
    w->u.has_hard = true;
    w->u.has_start = true;
    bytes_append_slice(&w->config, bytes_slice(&r->boot->config));
}

static void finish_removal(struct loop *l, struct control *c)
{
    struct replica *r = c->r;
    ASSERT(r->loop == l);
    if (r->state == GROUP_REMOVING) { /* a second command: answered together with the first */
        c->next = work_of(r)->transfers;
        work_of(r)->transfers = c;
        return;
    }
    struct thole_status st;
    (void)THOLE_FAIL(&st, THOLE_UNAVAILABLE, THOLE_REASON_REMOVED, "the replica is being removed");
    engine__group_stop(l, r, &st);
    r->state = GROUP_REMOVING;
    atomic_store(&r->removing, true);
    (void)map_remove(&l->by_shard, r->shard_id);
    struct write_batch *b = next_batch(l);
    struct write_update *w =
        work_of(r)->update_batch == b ? &b->updates[work_of(r)->update_slot] : NULL;
    if (w != NULL) { /* its unwritten update is void */
        for (size_t i = 0; i < w->entry_count; i++) {
            raft_entry_unref(w->entries[i]);
        }
        w->entry_count = 0;
        engine__control_answer(w->control);
        w->token = 0;
        w->install = w->create = false;
        w->u = (struct store_update){.replica_id = r->replica_id};
    } else {
        w = engine__write_batch_add(b, r);
    }
    w->u.remove = true;
    w->control = c;
}

/* The tombstone is durable: delete the data, then forget the object. */
void engine__control_removed(struct loop *l, struct replica *r, struct control *c)
{
    struct task *t = engine__task_new(TASK_DESTROY, r);
    t->everything = true;
    t->control = c;
    if (!worker_post_internal(r->applier->w, &t->msg)) { /* behind TASK_CLOSE, then on */
        engine__loop_discard(l, &t->msg);
    }
}

static void put_tombstone(struct loop *l, struct control *c)
{
    struct write_update *w = engine__write_batch_add(next_batch(l), NULL);
    w->u.replica_id = c->replica_id;
    w->u.remove = true;
    w->control = c;
}

static void forget(struct loop *l, struct control *c)
{
    struct engine *e = l->e;
    pthread_mutex_lock(&e->lock);
    bool known = map_remove(&e->tombstones, c->replica_id) != NULL;
    if (known) {
        (void)map_put(&e->forgotten, c->replica_id, e);
    }
    pthread_mutex_unlock(&e->lock);
    if (!known) {
        engine__control_answer(c);
        return;
    }
    struct write_update *w = engine__write_batch_add(next_batch(l), NULL);
    w->u.replica_id = c->replica_id;
    w->u.forget = true;
    w->control = c;
}

/* The running replica of the command's shard, or NULL and the command is answered. */
struct replica *engine__control_running(struct loop *l, struct control *c)
{
    struct replica *r = map_get(&l->by_shard, c->shard_id);
    if (r != NULL && r->state == GROUP_RUNNING) {
        return r;
    }
    if (r != NULL) {
        (void)THOLE_FAIL(&c->st, THOLE_UNAVAILABLE, THOLE_REASON_NOT_READY,
                         "this replica is not running");
    } else {
        (void)THOLE_FAIL(&c->st, THOLE_NOT_FOUND, THOLE_REASON_NO_SUCH_SHARD,
                         "the shard has no replica on this host");
    }
    engine__control_answer(c);
    return NULL;
}

static void change(struct loop *l, struct control *c)
{
    struct replica *r = engine__control_running(l, c);
    uint64_t index;
    if (r == NULL) {
        return;
    }
    engine__proposals_flush(l, r);
    if (raft_change_membership(r->core, &c->change, l->now_ms, &index, &c->st) != THOLE_OK) {
        engine__control_answer(c);
        return;
    }
    struct raft_status s;
    raft_status(r->core, &s);
    engine__pending_trim(l, r, index);
    engine__pending_push(r, &(struct pending){index, s.term, NULL, c, l->now_ns});
    metric_add(&engine_pending, 1);
    engine__loop_dirty(l, r);
}

static void transfer(struct loop *l, struct control *c)
{
    struct replica *r = engine__control_running(l, c);
    if (r == NULL) {
        return;
    }
    engine__proposals_flush(l, r);
    bool here = c->replica_id == r->replica_id; /* no event would end it */
    if (raft_transfer(r->core, c->replica_id, l->now_ms, &c->st) != THOLE_OK || here) {
        if (c->ret_leader != NULL && c->st.code == THOLE_OK) {
            *c->ret_leader = r->replica_id;
        }
        engine__control_answer(c);
        return;
    }
    c->next = work_of(r)->transfers;
    work_of(r)->transfers = c;
    engine__loop_dirty(l, r);
}

static void force(struct loop *l, struct control *c)
{
    struct replica *r = engine__control_running(l, c);
    if (r == NULL) {
        return;
    }
    engine__proposals_flush(l, r);
    if (raft_force(r->core, c->epoch, l->now_ms, &c->st) != THOLE_OK) {
        engine__control_answer(c);
        return;
    }
    LOG_WARN(ENGINE,
             "quorum lost, group forced: this replica becomes the only voter"
             " epoch=%" PRIu64,
             c->epoch);
    c->next = work_of(r)->forces;
    work_of(r)->forces = c;
    engine__loop_dirty(l, r);
}

void engine__control_check_forces(struct replica *r)
{
    while (work_of(r)->forces != NULL && work_of(r)->status.leader_ready &&
           raft_config(r->core)->epoch >= work_of(r)->forces->epoch) {
        struct control *c = work_of(r)->forces;
        work_of(r)->forces = c->next;
        r->removed_by_peer = false; /* decisions of the lost majority are void */
        engine__control_answer(c);
    }
}

void engine__control_check_transfers(struct loop *l, struct replica *r)
{
    (void)l;
    const struct raft_status *s = &work_of(r)->status;
    ASSERT(r->state == GROUP_RUNNING);
    bool moved = s->leader != 0 && s->leader != r->replica_id;
    bool aborted = s->role == RAFT_LEADER && s->transfer_target == 0;
    if (work_of(r)->transfers == NULL || (!moved && !aborted)) {
        return;
    }
    struct thole_status st = {0};
    if (aborted) {
        (void)THOLE_FAIL(&st, THOLE_ABORTED, THOLE_REASON_NONE, "the transfer timed out");
    }
    for (struct control *c = moved ? work_of(r)->transfers : NULL; c != NULL; c = c->next) {
        if (c->ret_leader != NULL) {
            *c->ret_leader = s->leader;
        }
    }
    engine__control_fail_transfers(r, &st);
}

void engine__control_fail_list(struct control **list, const struct thole_status *st)
{
    while (*list != NULL) {
        struct control *c = *list;
        *list = c->next;
        c->st = *st;
        engine__control_answer(c);
    }
}

void engine__control_fail_transfers(struct replica *r, const struct thole_status *st)
{
    engine__control_fail_list(&work_of(r)->transfers, st);
}

void engine__control_fail_all(struct replica *r, const struct thole_status *st)
{
    engine__control_fail_list(&work_of(r)->transfers, st);
    engine__control_fail_list(&work_of(r)->forces, st);
}

void engine__control_handle(struct loop *l, struct control *c)
{
    ASSERT(worker_is_current(l->w) && c->next == NULL);
    if (l->stopping || l->failed) {
        engine__loop_discard(l, &c->msg);
        return;
    }
    switch (c->kind) {
    case CONTROL_START:
        start(l, c);
        break;
    case CONTROL_REMOVE:
        finish_removal(l, c);
        break;
    case CONTROL_TOMBSTONE:
        put_tombstone(l, c);
        break;
    case CONTROL_FORGET:
        forget(l, c);
        break;
    case CONTROL_CHANGE:
        change(l, c);
        break;
    case CONTROL_TRANSFER:
        transfer(l, c);
        break;
    case CONTROL_FORCE:
        force(l, c);
        break;
    case CONTROL_HAND_OVER:
        engine__hand_over_begin(l, c);
        break;
    case CONTROL_EXPORT:
        engine__export_begin(l, c);
        break;
    case CONTROL_SEED:
        engine__seed_begin(l, c);
        break;
    case CONTROL_FITNESS:
        l->unfit_due_ms = l->real_ms;
        engine__control_answer(c);
        break;
    case CONTROL_ANSWER:
        engine__control_answer(c);
        break;
    }
}
