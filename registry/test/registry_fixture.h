/* A registry with its machine, without an engine, and short ways to write commands. */
#ifndef REGISTRY_TEST_REGISTRY_FIXTURE_H
#define REGISTRY_TEST_REGISTRY_FIXTURE_H

#include "base/buf.h"
#include "base/limits.h"
#include "registry/registry.h"

struct fixture {
    struct registry *r;
    const struct thole_machine_type *type;
    void *machine;
    uint64_t index;
    int64_t time_ms;
    upb_Arena *arena; /* of the last result */
    const thole_registry_v1_Result *result;
    size_t published; /* calls of the subscriber */
};

struct cmd {
    upb_Arena *arena;
    thole_registry_v1_Command *c;
};

void fixture_init(struct fixture *f);
void fixture_deinit(struct fixture *f);
/* For cmocka: *state is a fixture with three hosts; at the end every invariant is checked. */
int fixture_setup_three(void **state);
int fixture_teardown(void **state);

struct cmd cmd_new(const char *actor);
thole_registry_v1_Operation *cmd_op(struct cmd *c);
/* Apply bytes, or a command (which is freed); returns the code. The result is in f->result. */
uint64_t fixture_apply(struct fixture *f, struct slice bytes);
uint64_t fixture_run(struct fixture *f, struct cmd *c);
const char *fixture_reason(const struct fixture *f);

struct uuid test_uuid(uint64_t n);
const char *test_uuid_text(uint64_t n); /* static storage, a few at a time */

/* Host n is called "h<n>" and runs "kv"; tags zone=z<n % 3>, n=<n>. */
void fill_host(thole_v1_Host *host, upb_Arena *arena, uint64_t n, uint64_t incarnation);
/* Of type "kv", with one group of non-voting replicas if there are any. */
void fill_spec(thole_v1_ShardSpec *spec, upb_Arena *arena, uint32_t voters, uint32_t non_voting);
uint64_t do_bootstrap(struct fixture *f, uint64_t hosts);
uint64_t do_admit(struct fixture *f, uint64_t host, uint64_t incarnation);
/* Also report that the host's replica of shard zero failed. */
uint64_t do_admit_failed(struct fixture *f, uint64_t host, uint64_t incarnation, uint64_t failed);
uint64_t do_host_state(struct fixture *f, uint64_t host, int32_t state);
uint64_t do_delete_host(struct fixture *f, uint64_t host);
uint64_t do_liveness(struct fixture *f, uint64_t host, int32_t liveness);
uint64_t do_create_shard(struct fixture *f, const char *name, uint32_t voters, uint32_t non_voting);
uint64_t do_update_shard(struct fixture *f, const char *name, uint32_t voters, uint32_t non_voting,
                         const char *etag);
uint64_t do_delete_shard(struct fixture *f, const char *name);
/* Voters on hosts first .. first + voters - 1. */
uint64_t do_place(struct fixture *f, uint64_t shard, uint64_t first, uint64_t voters);
uint64_t do_place_one(struct fixture *f, uint64_t shard, uint64_t host, int32_t role);
uint64_t do_create_replica(struct fixture *f, const char *shard, uint64_t host, int32_t role);
uint64_t do_remove_replica(struct fixture *f, uint64_t replica);
uint64_t do_set_role(struct fixture *f, uint64_t replica, int32_t role);
uint64_t do_observe(struct fixture *f, uint64_t replica, int32_t phase, uint64_t out_index);
uint64_t do_formed(struct fixture *f, uint64_t shard, uint64_t leader, uint64_t term);

/* The whole state as snapshot bytes; and a new machine state from them. */
void fixture_save(struct fixture *f, struct bytes *out);
void view_digest(const struct registry_view *v, struct bytes *out); /* all rows, in order */
enum thole_code fixture_restore(struct fixture *f, struct slice bytes, struct thole_status *st);
/* Checks every invariant of a registry; the test ends if one does not hold. */
void check_invariants(const struct registry_view *v);
size_t count_replicas(const struct registry_view *v, uint64_t shard);

#endif
