/* What a cluster does, line by line, so that it reads as the protocol:
 *   [ 110] 2 < vote request from 1, term 2 > 1, log equal
 * at 110 ms replica 2, in term 1, gets a request of term 2 whose sender's log ends where its own
 * does. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/assert.h"
#include "shards/raft/test/core_cluster_internal.h"

void trace_line(struct cluster *c, const char *format, ...)
{
    va_list args;

    if (c->trace == NULL) {
        return;
    }
    bytes_printf(c->trace, "[%4" PRIu64 "] ", c->now_ms);
    char line[256];
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ASSERT(n > 0 && (size_t)n < sizeof line);
    bytes_append(c->trace, line, (size_t)n);
    bytes_append(c->trace, "\n", 1);
}

static const char *order(uint64_t a, uint64_t b)
{
    return a > b ? ">" : a < b ? "<" : "=";
}

/* The end of the sender's log, against ours. */
static const char *against(const struct node *n, uint64_t index, uint64_t term)
{
    struct raft_status s = node_status(n);
    uint64_t last_term = 0;

    (void)raft_term_at(n->raft, s.last_index, &last_term);
    if (term != last_term) {
        return term > last_term ? "newer" : "older";
    }
    return index == s.last_index ? "equal" : index > s.last_index ? "longer" : "shorter";
}

static const char *at_prev(const struct node *n, const struct raft_message *m)
{
    uint64_t term;

    if (m->index > node_status(n).last_index) {
        return ", which is not here";
    }
    return raft_term_at(n->raft, m->index, &term) && term != m->log_term ? ", of another term here"
                                                                         : "";
}

static void content(struct bytes *b, const struct node *n, const struct raft_message *m)
{
    switch ((enum raft_message_kind)m->kind) {
    case RAFT_MSG_PREVOTE:
    case RAFT_MSG_VOTE:
        bytes_printf(b, ", log %s%s", against(n, m->index, m->log_term),
                     m->transfer ? ", by transfer" : "");
        break;
    case RAFT_MSG_APPEND:
        bytes_printf(b, ", %u after %" PRIu64 "/%" PRIu64 "%s, commit %" PRIu64, m->entry_count,
                     m->index, m->log_term, at_prev(n, m), m->commit);
        break;
    case RAFT_MSG_APPEND_REPLY:
        if (m->reject) {
            bytes_printf(b, ", at %" PRIu64 ", try %" PRIu64 "/%" PRIu64, m->index, m->hint,
                         m->log_term);
        } else {
            bytes_printf(b, ", up to %" PRIu64, m->index);
        }
        break;
    case RAFT_MSG_HEARTBEAT:
        bytes_printf(b, ", commit %" PRIu64, m->commit);
        break;
    case RAFT_MSG_READ_REPLY:
        if (!m->reject) {
            bytes_printf(b, ", at %" PRIu64, m->index);
        }
        break;
    case RAFT_MSG_SLEEP:
        bytes_printf(b, ", at %" PRIu64 "/%" PRIu64, m->index, m->log_term);
        break;
    case RAFT_MSG_PREVOTE_REPLY:
    case RAFT_MSG_VOTE_REPLY:
    case RAFT_MSG_HEARTBEAT_REPLY:
    case RAFT_MSG_READ:
    case RAFT_MSG_TIMEOUT_NOW:
    case RAFT_MSG_REMOVED:
    case RAFT_MSG_SLEEP_REPLY:
        break;
    }
}

void trace_message(struct cluster *c, const struct node *n, const struct raft_message *m)
{
    static const char *const names[][2] = {
        [RAFT_MSG_PREVOTE] = {"pre-vote request", ""},
        [RAFT_MSG_PREVOTE_REPLY] = {"pre-vote", "no pre-vote"},
        [RAFT_MSG_VOTE] = {"vote request", ""},
        [RAFT_MSG_VOTE_REPLY] = {"vote", "no vote"},
        [RAFT_MSG_APPEND] = {"append", ""},
        [RAFT_MSG_APPEND_REPLY] = {"append accepted", "append refused"},
        [RAFT_MSG_HEARTBEAT] = {"heartbeat", ""},
        [RAFT_MSG_HEARTBEAT_REPLY] = {"heartbeat answered", ""},
        [RAFT_MSG_READ] = {"read request", ""},
        [RAFT_MSG_READ_REPLY] = {"read confirmed", "read refused"},
        [RAFT_MSG_TIMEOUT_NOW] = {"stand now", ""},
        [RAFT_MSG_REMOVED] = {"you were removed", ""},
        [RAFT_MSG_SLEEP] = {"sleep", ""},
        [RAFT_MSG_SLEEP_REPLY] = {"asleep", ""},
    };
    struct bytes text = {0};

    if (c->trace == NULL) {
        return;
    }
    bytes_printf(&text, "%s from %" PRIu64, names[m->kind][m->reject], m->from);
    if (m->term != 0) {
        uint64_t term = node_status(n).term;
        bytes_printf(&text, ", term %" PRIu64 " %s %" PRIu64, m->term, order(m->term, term), term);
    }
    if (m->epoch != node_status(n).epoch) {
        bytes_printf(&text, ", epoch %" PRIu64 " %s %" PRIu64, m->epoch,
                     order(m->epoch, node_status(n).epoch), node_status(n).epoch);
    }
    content(&text, n, m);
    trace_line(c, "%" PRIu64 " < %.*s", n->id, (int)text.size, (const char *)text.data);
    bytes_deinit(&text);
}

void trace_state(struct cluster *c, const struct node *n)
{
    static const char *const roles[] = {"follower", "pre-candidate", "candidate", "leader"};
    struct raft_status s = node_status(n);

    if (s.role == RAFT_FOLLOWER && s.leader != 0) {
        trace_line(c, "%" PRIu64 " follows %" PRIu64 " in term %" PRIu64, n->id, s.leader, s.term);
    } else {
        trace_line(c, "%" PRIu64 " is %s in term %" PRIu64, n->id, roles[s.role], s.term);
    }
}
