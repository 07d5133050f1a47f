/* Majorities against naive oracles. */
#include "shards/raft/test/raft_test.h"

/* Naive: the largest value v such that at least n/2+1 values are >= v. */
static uint64_t naive_value(const uint64_t *values, size_t n)
{
    uint64_t best = 0;

    if (n == 0) {
        return UINT64_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        size_t reached = 0;
        for (size_t j = 0; j < n; j++) {
            reached += values[j] >= values[i];
        }
        if (reached > n / 2 && values[i] > best) {
            best = values[i];
        }
    }
    return best;
}

static enum raft_tally naive_tally(const uint8_t *votes, size_t n)
{
    size_t yes = 0;
    size_t no = 0;

    for (size_t i = 0; i < n; i++) {
        yes += votes[i] == RAFT_VOTE_GRANTED;
        no += votes[i] == RAFT_VOTE_REFUSED;
    }
    if (n == 0 || 2 * yes > n) {
        return RAFT_TALLY_WON;
    }
    return 2 * (n - no) > n ? RAFT_TALLY_PENDING : RAFT_TALLY_LOST;
}

TEST(majority_commit)
{
    (void)state;
    assert_true(raft__quorum_value(NULL, 0) == UINT64_MAX);
    assert_int_equal(raft__quorum_value((uint64_t[]){12}, 1), 12);
    assert_int_equal(raft__quorum_value((uint64_t[]){12, 5}, 2), 5);
    assert_int_equal(raft__quorum_value((uint64_t[]){12, 5, 6}, 3), 6);
    assert_int_equal(raft__quorum_value((uint64_t[]){0, 0, 100, 101}, 4), 0);
    assert_int_equal(raft__quorum_value((uint64_t[]){101, 104, 103, 103, 102}, 5), 103);
}

TEST(majority_vote)
{
    (void)state;
    assert_int_equal(raft__quorum_tally(0, 0, 0), RAFT_TALLY_WON);
    assert_int_equal(raft__quorum_tally(1, 0, 1), RAFT_TALLY_WON);
    assert_int_equal(raft__quorum_tally(1, 0, 2), RAFT_TALLY_PENDING);
    assert_int_equal(raft__quorum_tally(1, 1, 2), RAFT_TALLY_LOST);
    assert_int_equal(raft__quorum_tally(1, 1, 3), RAFT_TALLY_PENDING);
    assert_int_equal(raft__quorum_tally(2, 1, 3), RAFT_TALLY_WON);
    assert_int_equal(raft__quorum_tally(1, 2, 3), RAFT_TALLY_LOST);
    assert_int_equal(raft__quorum_tally(2, 2, 4), RAFT_TALLY_LOST);
}

static struct raft_config random_config(struct rand *r)
{
    struct raft_config c = {.joint = true};
    uint32_t n = (uint32_t)rand_below(r, 12);

    for (uint32_t i = 0; i < n; i++) {
        *raft_config_insert(&c, i) = (struct raft_member){
            .replica_id = i + 1,
            .role = (uint8_t)rand_below(r, 4),
            .outgoing_role = (uint8_t)rand_below(r, 4),
        };
    }
    return c;
}

static bool counts(uint8_t role)
{
    return role == RAFT_VOTER || role == RAFT_WITNESS;
}

TEST(joint_commit)
{
    struct rand r;
    (void)state;

    rand_seed(&r, 1);
    for (int round = 0; round < 20000; round++) {
        AUTO_CONFIG c = random_config(&r);
        uint64_t values[LIMIT_MEMBERS];
        uint64_t half[2][LIMIT_MEMBERS];
        size_t n[2] = {0, 0};
        for (uint32_t i = 0; i < c.member_count; i++) {
            values[i] = rand_below(&r, 8);
            if (counts(c.members[i].role)) {
                half[0][n[0]++] = values[i];
            }
            if (counts(c.members[i].outgoing_role)) {
                half[1][n[1]++] = values[i];
            }
        }
        uint64_t a = naive_value(half[0], n[0]);
        uint64_t b = naive_value(half[1], n[1]);
        assert_true(raft__quorum_joint_value(&c, values) == (a < b ? a : b));
    }
}

TEST(joint_vote)
{
    struct rand r;
    (void)state;

    rand_seed(&r, 2);
    for (int round = 0; round < 20000; round++) {
        AUTO_CONFIG c = random_config(&r);
        uint8_t votes[LIMIT_MEMBERS];
        uint8_t half[2][LIMIT_MEMBERS];
        size_t n[2] = {0, 0};
        for (uint32_t i = 0; i < c.member_count; i++) {
            votes[i] = (uint8_t)rand_below(&r, 3);
            if (counts(c.members[i].role)) {
                half[0][n[0]++] = votes[i];
            }
            if (counts(c.members[i].outgoing_role)) {
                half[1][n[1]++] = votes[i];
            }
        }
        enum raft_tally a = naive_tally(half[0], n[0]);
        enum raft_tally b = naive_tally(half[1], n[1]);
        enum raft_tally want = RAFT_TALLY_PENDING;
        if (a == RAFT_TALLY_LOST || b == RAFT_TALLY_LOST) {
            want = RAFT_TALLY_LOST;
        } else if (a == RAFT_TALLY_WON && b == RAFT_TALLY_WON) {
            want = RAFT_TALLY_WON;
        }
        assert_int_equal(raft__quorum_joint_tally(&c, votes), want);
    }
}

TEST(quick)
{
    struct rand r;
    (void)state;

    rand_seed(&r, 3);
    for (int round = 0; round < 50000; round++) {
        uint64_t values[LIMIT_MEMBERS];
        uint64_t copy[LIMIT_MEMBERS];
        size_t n = rand_below(&r, 10);
        for (size_t i = 0; i < n; i++) {
            values[i] = rand_below(&r, 20);
        }
        memcpy(copy, values, sizeof copy);
        assert_true(raft__quorum_value(copy, n) == naive_value(values, n));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {RUN(majority_commit), RUN(majority_vote), RUN(joint_commit),
                                       RUN(joint_vote), RUN(quick)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
