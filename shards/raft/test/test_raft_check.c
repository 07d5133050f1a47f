/* An event that breaks an invariant ends the process. Each case breaks one in a sound replica, and
 * expects the assertion of check.c or of the part that owns the state. */
#include "base/test/death.h"
#include "shards/raft/test/raft_test.h"

static struct cluster c;

/* Node 1 leads three voters in term 1: its no-op and two commands, of which one is committed. */
static void lead(void)
{
    solo_init(&c, 3);
    solo_lead(&c);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    (void)give_ack(&c, 2, 2);
    assert_int_equal(node_propose(&c, 1, 8), THOLE_OK);
    cluster_settle(&c);
    assert_int_equal(node_commit(&c, 1), 2);
    assert_int_equal(node_last(&c, 1), 3);
}

/* Node 1 follows node 2 in term 1, with three entries, of which two are committed. */
static void follow(void)
{
    solo_init(&c, 3);
    (void)give(&c, append_msg(2, 1, 0, 0, 2, (uint64_t[]){1, 1, 1}, 3));
    assert_int_equal(node_commit(&c, 1), 2);
}

struct breach {
    const char *expected; /* part of the assertion */
    void (*breach)(struct raft *r);
    bool at_once; /* found by every build, at the end of the event; else by raft__check_all */
};

static void commit_an_event(void *arg)
{
    const struct breach *b = arg;
    struct raft *r = c.nodes[1].raft;

    raft__begin(r, r->now_ms);
    b->breach(r);
    if (b->at_once) {
        raft__check(r);
    } else {
        raft__check_all(r);
    }
}

static void do_nothing(struct raft *r)
{
    (void)r;
}

static void expect_deaths(struct breach *b, size_t n)
{
    struct breach none = {"", do_nothing, true};
    size_t missed = 0;

    commit_an_event(&none);
    raft__check_all(c.nodes[1].raft);
    for (size_t i = 0; i < n; i++) {
        if (!dies(commit_an_event, &b[i], b[i].expected)) {
            print_error("breach %zu is not found by: %s\n", i, b[i].expected);
            missed++;
        }
    }
    assert_int_equal(missed, 0);
    cluster_deinit(&c);
}
#define EXPECT_DEATHS(list) expect_deaths(list, sizeof(list) / sizeof((list)[0]))

static void term_back(struct raft *r)
{
    r->term--;
}
static void second_vote(struct raft *r)
{
    r->vote = 3;
}
static void commit_back(struct raft *r)
{
    r->commit--;
}
static void commit_beyond_the_log(struct raft *r)
{
    r->commit = r->log.last_index + 1;
}
static void applied_beyond_handed(struct raft *r)
{
    r->applied = r->handed + 1;
}
static void handed_before_durable(struct raft *r)
{
    r->log.durable = r->handed - 1;
}
static void epoch_back(struct raft *r)
{
    r->awake->found.epoch = 1;
}
static void leads_without_state(struct raft *r)
{
    r->role = RAFT_LEADER;
}
static void leads_itself(struct raft *r)
{
    r->leader = 1;
}
static void snapshot_never_written(struct raft *r)
{
    raft__log_reset(&r->log, 9, 1, (struct raft_stamp){0});
    r->commit = r->handed = r->applied = 9;
}
static void write_is_lost(struct raft *r)
{
    r->awake->persist.token++;
}
static void sleeps_uncommitted(struct raft *r)
{
    r->asleep = true;
}
static void force_and_hear(struct raft *r)
{
    r->awake->force_index = r->log.last_index;
}

TEST(follower)
{
    struct breach list[] = {
        {"r->term >= f->term", term_back, true},
        {"r->commit >= f->commit", commit_back, true},
        {"r->commit <= r->log.last_index", commit_beyond_the_log, true},
        {"r->applied <= r->handed", applied_beyond_handed, true},
        {"r->handed <= r->log.durable", handed_before_durable, true},
        {"r->epoch >= f->epoch", epoch_back, true},
        {"f->role == RAFT_CANDIDATE", leads_without_state, true},
        {"r->leader != self", leads_itself, true},
        {"p->snapshot_dirty", snapshot_never_written, true},
        {"raft__log_write_count", write_is_lost, true},
        {"r->commit == r->log.last_index", sleeps_uncommitted, true},
        {"r->role == RAFT_FOLLOWER && r->leader == 0", force_and_hear, true},
    };
    (void)state;
    follow();
    EXPECT_DEATHS(list);
}

static void truncates(struct raft *r)
{
    raft__log_truncate(&r->log, 3);
}
static void two_changes(struct raft *r)
{
    for (uint64_t id = 4; id <= 5; id++) {
        struct raft_change change = change_one(RAFT_CHANGE_ADD_LEARNER, id);
        struct raft_entry *e = raft__change_entry(&change);
        raft__lead_append(r, e, 0);
        raft_entry_unref(e);
    }
}
static void match_at_next(struct raft *r)
{
    raft__peer(r, 2)->match = raft__peer(r, 2)->next;
}
static void match_beyond_the_log(struct raft *r)
{
    raft__peer(r, 2)->match = r->log.last_index + 1;
    raft__peer(r, 2)->next = r->log.last_index + 2;
    raft__peer(r, 2)->inflight_count = 0;
    raft__peer(r, 2)->inflight_bytes = 0;
}
static void window_leaks(struct raft *r)
{
    raft__peer(r, 3)->inflight_bytes++;
}
static void uncommitted_leaks(struct raft *r)
{
    r->lead->uncommitted_bytes++;
}
static void lease_without_option(struct raft *r)
{
    raft__peer(r, 2)->lease_until_ns = r->real_ns + 1;
}
static void transfer_to_nobody(struct raft *r)
{
    r->lead->transfer_target = 9;
}
static void silent(struct raft *r)
{
    r->lead->heartbeat_deadline_ms = r->now_ms + r->options.heartbeat_ms + 1;
}
static void witness_ahead(struct raft *r)
{
    r->lead->witness_sent = r->log.last_index + 1;
}
static void round_never_opened(struct raft *r)
{
    raft__peer(r, 2)->read_acked = r->read_number + 1;
}

TEST(leader)
{
    struct breach list[] = {
        {"r->vote == f->vote", second_vote, true},
        {"r->log.last_index >= f->last_index", truncates, true},
        {"r->lead->first_index", two_changes, false},
        {"p->match < p->next", match_at_next, false},
        {"p->match <= r->log.last_index", match_beyond_the_log, false},
        {"bytes == p->inflight_bytes", window_leaks, false},
        {"bytes == l->uncommitted_bytes", uncommitted_leaks, false},
        {"p->lease_until_ns", lease_without_option, false},
        {"m->role == RAFT_VOTER", transfer_to_nobody, false},
        {"heartbeat_deadline_ms", silent, false},
        {"l->witness_sent", witness_ahead, false},
        {"p->read_acked <= r->read_number", round_never_opened, false},
    };
    (void)state;
    lead();
    EXPECT_DEATHS(list);
}

static void run_without_entries(struct raft *r)
{
    r->log.runs[0].first_index++;
}
static void cache_miscounted(struct raft *r)
{
    r->log.work->cached_bytes++;
}
static void unsaved_entry_is_lost(struct raft *r)
{
    r->log.work->unsaved++;
}
static void act(struct raft *r, enum raft_change_op op, uint64_t id, uint64_t index)
{
    struct raft_change change = change_one(op, id);
    struct raft_entry *e = raft__change_entry(&change);

    e->index = index;
    e->term = 1;
    raft__membership_note(&r->membership, e);
    raft_entry_unref(e);
    assert_true(raft__membership_apply_next(&r->membership));
}
static void id_comes_back(struct raft *r)
{
    act(r, RAFT_CHANGE_REMOVE, 3, 1);
    act(r, RAFT_CHANGE_ADD_LEARNER, 4, 2);
    r->membership.current->config.removed[0] = 9; /* it was 3 */
}
static void config_before_its_commit(struct raft *r)
{
    r->membership.current->index = 2;
    r->awake->persist.commit = 1;
}
static void read_out_of_order(struct raft *r)
{
    for (uint64_t i = 2; i > 0; i--) {
        raft__reads_push(&r->awake->reads, (struct raft_read_wait){.from = 1, .deadline_ms = i});
    }
}
static void read_of_no_round(struct raft *r)
{
    raft__reads_push(&r->awake->reads, (struct raft_read_wait){.from = 1});
    raft__reads_at(&r->awake->reads, 0)->number = 1;
}
static void waits_for_no_write(struct raft *r)
{
    struct raft_message m = {.kind = RAFT_MSG_VOTE, .from = 1, .to = 2};
    raft__outbox_withhold(&r->awake->outbox, &m, r->awake->persist.token + 1);
}
static void no_timer(struct raft *r)
{
    r->awake->election_deadline_ms = RAFT_NEVER_MS;
}

TEST(parts)
{
    struct breach list[] = {
        {"run->first_index == l->start_index + 1", run_without_entries, false},
        {"bytes == l->work->cached_bytes", cache_miscounted, false},
        {"unsaved <= l->last_index + 1", unsaved_entry_is_lost, true},
        {"raft_config_is_removed(to", id_comes_back, false},
        {"index <= durable_commit", config_before_its_commit, false},
        {"before->deadline_ms <= w->deadline_ms", read_out_of_order, false},
        {"(i < q->started)", read_of_no_round, false},
        {"o->withheld[i].token", waits_for_no_write, false},
        {"raft__has_timer", no_timer, false},
    };
    (void)state;
    follow();
    EXPECT_DEATHS(list);
}

static void become_leader_of_nobody(void *arg)
{
    (void)arg;
    raft__become_leader(c.nodes[1].raft);
}
static void campaign_as_leader(void *arg)
{
    (void)arg;
    raft__become_candidate(c.nodes[1].raft);
}
static void lower_the_term(void *arg)
{
    (void)arg;
    raft__set_term(c.nodes[1].raft, 0);
}
static void vote_again(void *arg)
{
    (void)arg;
    raft__set_vote(c.nodes[1].raft, 2);
}

/* The table of role.c, and the owners of term and vote. */
TEST(transitions)
{
    (void)state;
    follow();
    assert_true(dies(become_leader_of_nobody, NULL, "r->vote == r->options.replica_id"));
    cluster_deinit(&c);
    lead();
    assert_true(dies(campaign_as_leader, NULL, "role_may_follow"));
    assert_true(dies(lower_the_term, NULL, "term >= r->term"));
    assert_true(dies(vote_again, NULL, "r->vote == 0"));
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(follower),
        RUN(leader),
        RUN(parts),
        RUN(transitions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
