/* raft_change_apply and the encodings: pure functions of configurations. */
#include "shards/raft/test/raft_test.h"

static struct raft_config voters(size_t n)
{
    uint64_t ids[NODES_MAX];

    for (size_t i = 0; i < n; i++) {
        ids[i] = i + 1;
    }
    return config_of(ids, n, NULL, 0);
}

/* `c` becomes what the change makes of it. */
static enum thole_code apply(struct raft_config *c, const struct raft_change *change)
{
    AUTO_CONFIG next = {0};
    enum thole_code code = raft_change_apply(c, change, &next, NULL);

    if (code == THOLE_OK) {
        assert_int_equal(raft__config_validate(&next, NULL), THOLE_OK);
        raft_config_copy(c, &next);
        raft_config_deinit(&next);
    }
    return code;
}

static enum thole_code apply_one(struct raft_config *c, enum raft_change_op op, uint64_t id)
{
    struct raft_change change = change_one(op, id);
    return apply(c, &change);
}

static enum thole_code leave(struct raft_config *c)
{
    struct raft_change change = {.revision = c->revision};
    return apply(c, &change);
}

static uint8_t role_of(const struct raft_config *c, uint64_t id)
{
    const struct raft_member *m = raft_config_find(c, id);
    return m == NULL ? 0 : m->role;
}

TEST(zero)
{
    AUTO_CONFIG c = voters(1);
    (void)state;

    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 0), THOLE_FAILED_PRECONDITION);
    struct raft_change none = {.revision = 1};
    assert_int_equal(apply(&c, &none), THOLE_FAILED_PRECONDITION); /* nothing to leave */
    assert_int_equal(c.member_count, 1);
}

TEST(simple_idempotency)
{
    AUTO_CONFIG c = voters(2);
    (void)state;

    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 2), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_LEARNER, 3), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_LEARNER, 3), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_DEMOTE, 3), THOLE_OK);
    assert_int_equal(c.member_count, 3);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 3), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 3), THOLE_FAILED_PRECONDITION);
    raft_config_deinit(&c);
}

TEST(simple_promote_demote)
{
    AUTO_CONFIG c = voters(2);
    (void)state;

    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_LEARNER, 3), THOLE_OK);
    assert_false(raft_config_is_voter(&c, 3));
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 3), THOLE_OK);
    assert_int_equal(role_of(&c, 3), RAFT_VOTER);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_DEMOTE, 3), THOLE_OK);
    assert_int_equal(role_of(&c, 3), RAFT_LEARNER);
    assert_false(c.joint);
}

TEST(simple_safety)
{
    AUTO_CONFIG c = voters(1);
    (void)state;

    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_DEMOTE, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 9), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_DEMOTE, 9), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, (enum raft_change_op)99, 2), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_LEARNER, 1), THOLE_FAILED_PRECONDITION);
    /* Only witnesses left is no voter left. */
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_WITNESS, 2), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 1), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 2), THOLE_FAILED_PRECONDITION);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_DEMOTE, 2), THOLE_FAILED_PRECONDITION);
    /* A removed id never comes back. */
    assert_int_equal(apply_one(&c, RAFT_CHANGE_REMOVE, 2), THOLE_OK);
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 2), THOLE_FAILED_PRECONDITION);
    raft_config_deinit(&c);
}

TEST(stale_revision)
{
    AUTO_CONFIG c = voters(3);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    struct thole_status st;
    AUTO_CONFIG next = {0};
    (void)state;

    change.revision = 10;
    assert_int_equal(apply(&c, &change), THOLE_OK);
    change = change_one(RAFT_CHANGE_REMOVE, 4);
    change.revision = 9;
    assert_int_equal(raft_change_apply(&c, &change, &next, &st), THOLE_FAILED_PRECONDITION);
    assert_int_equal(st.reason, THOLE_REASON_STALE_REVISION);
}

TEST(joint_autoleave)
{
    AUTO_CONFIG c = voters(1);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    (void)state;

    change_add(&change, RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(apply(&c, &change), THOLE_OK);
    assert_true(c.joint && c.auto_leave);
    assert_int_equal(c.members[0].outgoing_role, RAFT_VOTER);
    assert_int_equal(c.members[1].outgoing_role, 0);
    assert_int_equal(leave(&c), THOLE_OK);
    assert_false(c.joint || c.auto_leave);
    assert_int_equal(c.member_count, 3);
    assert_int_equal(leave(&c), THOLE_FAILED_PRECONDITION);
}

TEST(joint_idempotency)
{
    AUTO_CONFIG c = voters(1);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_VOTER, 2);
    (void)state;

    /* One id twice in a change is ambiguous and refused, not resolved by order. */
    change_add(&change, RAFT_CHANGE_REMOVE, 2);
    assert_int_equal(apply(&c, &change), THOLE_FAILED_PRECONDITION);
    change = change_one(RAFT_CHANGE_ADD_VOTER, 1);
    change_add(&change, RAFT_CHANGE_ADD_LEARNER, 2);
    assert_int_equal(apply(&c, &change), THOLE_OK);
    assert_int_equal(role_of(&c, 1), RAFT_VOTER);
    assert_int_equal(role_of(&c, 2), RAFT_LEARNER);
}

TEST(joint_learners_next)
{
    AUTO_CONFIG c = voters(2);
    struct raft_change change = change_one(RAFT_CHANGE_DEMOTE, 1);
    (void)state;

    change_add(&change, RAFT_CHANGE_ADD_VOTER, 3);
    assert_int_equal(apply(&c, &change), THOLE_OK);
    assert_int_equal(role_of(&c, 1), 0);
    assert_true(c.members[0].learner_next);
    assert_true(raft_config_is_voter(&c, 1)); /* still in the outgoing half */
    assert_int_equal(leave(&c), THOLE_OK);
    assert_int_equal(role_of(&c, 1), RAFT_LEARNER);
    assert_false(raft_config_is_removed(&c, 1));
}

TEST(joint_safety)
{
    AUTO_CONFIG c = voters(3);
    struct raft_change change = change_one(RAFT_CHANGE_REMOVE, 1);
    (void)state;

    change_add(&change, RAFT_CHANGE_REMOVE, 2);
    change_add(&change, RAFT_CHANGE_REMOVE, 3);
    assert_int_equal(apply(&c, &change), THOLE_FAILED_PRECONDITION);
    change.item_count = 2;
    assert_int_equal(apply(&c, &change), THOLE_OK);
    assert_int_equal(c.removed_count, 0); /* they still vote in the outgoing half */
    assert_int_equal(apply_one(&c, RAFT_CHANGE_ADD_VOTER, 4), THOLE_FAILED_PRECONDITION);
    assert_int_equal(leave(&c), THOLE_OK);
    assert_int_equal(c.member_count, 1);
    assert_true(raft_config_is_removed(&c, 1) && raft_config_is_removed(&c, 2));
    raft_config_deinit(&c);
}

TEST(update)
{
    AUTO_CONFIG c = voters(1);
    struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 2);
    (void)state;

    change.items[0].host[0] = 7;
    change.revision = 5;
    assert_int_equal(apply(&c, &change), THOLE_OK);
    assert_int_equal(raft_config_find(&c, 2)->host[0], 7);
    assert_int_equal(c.revision, 5);
}

static struct raft_change random_change(struct rand *r, uint64_t revision)
{
    struct raft_change change = {.revision = revision};
    uint64_t n = 1 + rand_below(r, 4);

    for (uint64_t i = 0; i < n; i++) {
        change_add(&change, (enum raft_change_op)(1 + rand_below(r, 5)), 1 + rand_below(r, 9));
    }
    return change;
}

static void assert_round_trip(const struct raft_config *c)
{
    AUTO_CONFIG back = {0};
    struct bytes b = {0};

    raft_config_encode(c, &b);
    assert_int_equal(raft_config_decode(bytes_slice(&b), &back, NULL), THOLE_OK);
    assert_true(raft_config_equal(c, &back));
    for (size_t cut = 0; cut < b.size; cut++) {
        struct slice shorter = {.data = b.data, .size = cut};
        assert_int_equal(raft_config_decode(shorter, &back, NULL), THOLE_INVALID_ARGUMENT);
    }
    raft_config_deinit(&back);
    bytes_deinit(&b);
}

/* One by one, or all at once through a joint configuration: the same members in the end, and every
 * configuration on the way is valid. */
TEST(conf_change_quick)
{
    struct rand r;
    int compared = 0;
    (void)state;

    rand_seed(&r, 4);
    for (int round = 0; round < 3000; round++) {
        AUTO_CONFIG joint = voters(1 + rand_below(&r, 5));
        AUTO_CONFIG simple = {0};
        struct raft_change change = random_change(&r, 1);
        raft_config_copy(&simple, &joint);
        bool joint_ok = change.item_count > 1 && apply(&joint, &change) == THOLE_OK;
        if (joint_ok) {
            assert_round_trip(&joint);
            assert_int_equal(leave(&joint), THOLE_OK);
        }
        bool simple_ok = true;
        for (uint32_t i = 0; i < change.item_count && simple_ok; i++) {
            struct raft_change one = change_one(change.items[i].op, change.items[i].replica_id);
            simple_ok = apply(&simple, &one) == THOLE_OK;
        }
        if (joint_ok && simple_ok) {
            assert_true(raft_config_equal(&joint, &simple));
            compared++;
        }
        raft_config_deinit(&joint);
        raft_config_deinit(&simple);
    }
    assert_true(compared > 200);
}

TEST(restore)
{
    struct rand r;
    AUTO_CONFIG c = voters(3);
    (void)state;

    rand_seed(&r, 5);
    for (int round = 0; round < 300; round++) {
        struct raft_change change = random_change(&r, c.revision + rand_below(&r, 3));
        enum thole_code code = c.joint ? leave(&c) : apply(&c, &change);
        (void)code;
        assert_round_trip(&c);
    }
    raft_config_deinit(&c);
}

TEST(change_encoding_round_trip)
{
    struct rand r;
    (void)state;

    rand_seed(&r, 6);
    for (int round = 0; round < 300; round++) {
        struct raft_change change = random_change(&r, rand_u64(&r));
        struct raft_change back;
        struct bytes b = {0};
        raft_change_encode(&change, &b);
        assert_int_equal(raft_change_decode(bytes_slice(&b), &back, NULL), THOLE_OK);
        assert_memory_equal(&change, &back, sizeof change);
        for (size_t cut = 0; cut < b.size; cut++) {
            struct slice shorter = {.data = b.data, .size = cut};
            assert_int_equal(raft_change_decode(shorter, &back, NULL), THOLE_INVALID_ARGUMENT);
        }
        bytes_deinit(&b);
    }
}

static void assert_not_decoded(const struct raft_config *c)
{
    AUTO_CONFIG back = {0};
    struct bytes b = {0};

    raft_config_encode(c, &b);
    assert_int_equal(raft_config_decode(bytes_slice(&b), &back, NULL), THOLE_INVALID_ARGUMENT);
    assert_int_equal(back.member_count, 0); /* untouched on failure */
    bytes_deinit(&b);
}

TEST(config_decode_refuses_invalid)
{
    AUTO_CONFIG unsorted = voters(3);
    AUTO_CONFIG half_joint = voters(3);
    AUTO_CONFIG no_voter = voters(1);
    AUTO_CONFIG removed_member = voters(1);
    (void)state;

    unsorted.members[1].replica_id = 1;
    assert_not_decoded(&unsorted);
    half_joint.members[2].outgoing_role = RAFT_VOTER;
    assert_not_decoded(&half_joint);
    no_voter.members[0].role = RAFT_LEARNER;
    assert_not_decoded(&no_voter);
    raft__config_tombstone(&removed_member, 1);
    assert_not_decoded(&removed_member);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(zero),
        RUN(simple_idempotency),
        RUN(simple_promote_demote),
        RUN(simple_safety),
        RUN(stale_revision),
        RUN(joint_autoleave),
        RUN(joint_idempotency),
        RUN(joint_learners_next),
        RUN(joint_safety),
        RUN(update),
        RUN(conf_change_quick),
        RUN(restore),
        RUN(change_encoding_round_trip),
        RUN(config_decode_refuses_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
