/* Operations: the commands that start them, and watching one with its progress. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/cmd_wait.h"
#include "base/clock.h"
#include "bus/bus.h"
#include "proto/decode.h"

#define BAR_CELLS 24

/* ---- Progress -------------------------------------------------------------------------------- */

struct progress {
    uint64_t id;
    bool terminal;
    bool shown;          /* the progress bar is on the line */
    uint64_t begin_ns;   /* when the watch began */
    uint32_t begin_done; /* steps done at that time */
    bool begun;
    uint64_t told_ns;
    char told[256]; /* the last line in a pipe */
    char last[256]; /* the newest state, whether printed or not */
    int32_t state;
    char message[256];
};

/* "12 of 40, about 30 s left" */
static void describe(struct progress *p, const thole_v1_Operation *o, char *ret, size_t size)
{
    uint32_t done = thole_v1_Operation_done(o), total = thole_v1_Operation_total(o);
    uint64_t now = clock_now(&clock_system);
    if (!p->begun) {
        p->begun = true;
        p->begin_ns = now;
        p->begin_done = done;
    }
    double seconds = (double)(now - p->begin_ns) / 1e9;
    char left[48] = "";
    if (done > p->begin_done && done < total && seconds > 1) {
        snprintf(left, sizeof left, ", about %.0f s left",
                 seconds / (double)(done - p->begin_done) * (double)(total - done));
    }
    upb_StringView step = thole_v1_Operation_step(o), message = thole_v1_Operation_message(o);
    snprintf(ret, size, "%" PRIu32 " of %" PRIu32 "%s%.*s%s%s%.*s", done, total,
             step.size > 0 ? ", " : "", CLI_SV(step), left, message.size > 0 ? "; " : "",
             CLI_SV(message));
}

/* In a pipe print at most one line per second, and always the last one. */
static void tell_line(struct progress *p, const char *text)
{
    if (strcmp(text, p->told) != 0) {
        snprintf(p->told, sizeof p->told, "%s", text);
        cli__note("operation %" PRIu64 ": %s", p->id, text);
        fflush(stderr);
    }
}

static void show_progress(struct progress *p, const thole_v1_Operation *o)
{
    char text[256];
    uint64_t now = clock_now(&clock_system);
    upb_StringView message = thole_v1_Operation_message(o);
    snprintf(p->message, sizeof p->message, "%.*s", CLI_SV(message));
    p->state = thole_v1_Operation_state(o);
    describe(p, o, text, sizeof text);
    if (p->terminal) {
        uint32_t done = thole_v1_Operation_done(o), total = thole_v1_Operation_total(o);
        uint32_t cells = total == 0 ? 0 : (uint32_t)((uint64_t)done * BAR_CELLS / total);
        char bar[BAR_CELLS + 1];
        memset(bar, ' ', BAR_CELLS);
        memset(bar, '#', cells);
        bar[BAR_CELLS] = '\0';
        fprintf(stderr, "\r\033[K[%s] %s", bar, text);
        fflush(stderr);
        p->shown = true;
    } else if (p->told_ns == 0 || now - p->told_ns >= NS_PER_S) {
        p->told_ns = now;
        tell_line(p, text);
    }
    snprintf(p->last, sizeof p->last, "%s", text);
}

/* One stream, to its end; OK: the operation ended. */
static enum thole_code watch_stream(struct cli *c, struct progress *p, uint32_t timeout_ms,
                                    struct thole_status *st)
{
    struct bus_stream *stream = NULL;
    size_t size = 0;
    upb_Arena *arena = upb_Arena_New();
    uint64_t end_ns = clock_now(&clock_system) + (uint64_t)timeout_ms * NS_PER_MS;
    thole_v1_WatchOperationRequest *request = thole_v1_WatchOperationRequest_new(arena);
    thole_v1_WatchOperationRequest_set_id(request, p->id);
    char *bytes = thole_v1_WatchOperationRequest_serialize(request, arena, &size);
    enum thole_code code = bus_channel_stream(c->channel, "/thole.v1.Operations/WatchOperation",
                                              slice_of(bytes, size), &stream, st);
    while (code == THOLE_OK && p->state < thole_v1_OPERATION_STATE_DONE) {
        struct buf *b = NULL;
        uint64_t now = clock_now(&clock_system);
        uint32_t left_ms = now < end_ns ? (uint32_t)((end_ns - now) / NS_PER_MS) : 0;
        code = bus_stream_next(stream, left_ms, &b, st);
        if (code == THOLE_OK) {
            upb_Arena *scratch = upb_Arena_New();
            const thole_v1_Operation *o =
                PROTO_DECODE(thole_v1_Operation, slice_of(b->data, b->size), scratch);
            if (o != NULL) {
                show_progress(p, o);
            }
            upb_Arena_Free(scratch);
            buf_unref(b);
        }
    }
    bus_stream_free(stream);
    upb_Arena_Free(arena);
    return code;
}

/* ---- ^C -------------------------------------------------------------------------------------- */

static char hint[128]; /* written before the handler is installed */

static void interrupted(int number)
{
    ssize_t written = write(STDERR_FILENO, hint, strlen(hint));
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

static void say_when_interrupted(uint64_t id)
{
    snprintf(hint, sizeof hint,
             "\nthole: detached; resume with: thole operation wait %" PRIu64 "\n", id);
    signal(SIGINT, interrupted);
}

static int show_operation(struct cli *c, const thole_v1_Operation *o)
{
    cli__document(c, rows_kind_name(ROWS_OPERATIONS), o, rows_def(c, ROWS_OPERATIONS));
    return cli__flush();
}

/* The exit code follows the operation's end: 1 if it failed or was cancelled. */
static int wait_for(struct cli *c, uint64_t id)
{
    struct progress p = {.id = id, .terminal = isatty(STDERR_FILENO) != 0};
    struct thole_status st;
    uint64_t timeout_ms = wait_timeout_ms(c);
    uint64_t begin_ns = clock_now(&clock_system);
    cli__note("^C stops watching; the operation continues; `thole operation wait %" PRIu64
              "` watches it again, `thole operation cancel %" PRIu64 "` cancels it",
              id, id);
    say_when_interrupted(id);
    enum thole_code code = cli__connect(c, &st);
    while (code == THOLE_OK) {
        uint64_t passed_ms = (clock_now(&clock_system) - begin_ns) / NS_PER_MS;
        if (timeout_ms != 0 && passed_ms >= timeout_ms) {
            code = THOLE_FAIL(&st, THOLE_DEADLINE_EXCEEDED, THOLE_REASON_NONE, "the time is over");
            break;
        }
        uint64_t left_ms = timeout_ms == 0 ? (uint64_t)24 * 3600 * 1000 : timeout_ms - passed_ms;
        code = watch_stream(c, &p, (uint32_t)left_ms, &st);
        if (p.state >= thole_v1_OPERATION_STATE_DONE) {
            code = THOLE_OK;
            break;
        }
        /* The host was lost: another host has the same rows. */
        if (code == THOLE_UNAVAILABLE || st.reason == THOLE_REASON_OUTCOME_UNKNOWN ||
            code == THOLE_OK) {
            cli__pause_ms(300);
            code = THOLE_OK;
        }
    }
    if (p.shown) {
        fputc('\n', stderr);
    } else {
        tell_line(&p, p.last);
    }
    if (code == THOLE_DEADLINE_EXCEEDED) {
        (void)cli__say_failed("operation %" PRIu64 " has not ended after %.0f s%s%s; it continues; "
                              "--timeout gives more time",
                              id, (double)timeout_ms / 1000, p.last[0] != '\0' ? ": " : "", p.last);
        return CLI_UNAVAILABLE;
    }
    if (code != THOLE_OK) {
        return cli__say_status("cannot wait for the operation", &st);
    }
    if (p.state != thole_v1_OPERATION_STATE_DONE) {
        return cli__say_failed("operation %" PRIu64 " %s%s%s", id, show_operation_state(p.state),
                               p.message[0] != '\0' ? ": " : "", p.message);
    }
    if (cli__is_document(c)) {
        const thole_v1_Operation *row = NULL;
        if (rows_get_operation(c, id, false, &row, &st) != THOLE_OK) {
            return cli__say_status("cannot show the operation", &st);
        }
        return show_operation(c, row);
    }
    printf("operations/%" PRIu64 " done\n", id);
    return cli__flush();
}

static bool parse_id(struct cli *c, uint64_t *ret)
{
    const char *text = cli__strip(c->args[0], "operation");
    if (!options_parse_number(text, ret) || *ret == 0) {
        (void)cli__say_usage(c, "\"%s\" is not an operation id", c->args[0]);
        return false;
    }
    return true;
}

int cli__command_operation_wait(struct cli *c)
{
    uint64_t id = 0;
    return parse_id(c, &id) ? wait_for(c, id) : CLI_USAGE;
}

int cli__command_operation_cancel(struct cli *c)
{
    uint64_t id = 0;
    struct thole_status st;
    const thole_v1_Operation *reply = NULL;
    if (!parse_id(c, &id)) {
        return CLI_USAGE;
    }
    thole_v1_CancelOperationRequest *request = thole_v1_CancelOperationRequest_new(c->arena);
    thole_v1_CancelOperationRequest_set_id(request, id);
    thole_v1_CancelOperationRequest_set_request_id(request, cli__request_id(c));
    if (CLI_CALL(c, Operations, CancelOperation, request, &reply, Operation, &st)) {
        return cli__say_status("cannot cancel the operation", &st);
    }
    if (cli__is_document(c)) {
        return show_operation(c, reply);
    }
    printf("operations/%" PRIu64 " %s\n", id,
           show_operation_state(thole_v1_Operation_state(reply)));
    return cli__flush();
}

/* ---- Verbs ----------------------------------------------------------------------------------- */

int operation_started(struct cli *c, enum thole_code code, const thole_v1_Operation *o,
                      const struct thole_status *st)
{
    if (code != THOLE_OK) {
        return cli__say_status("cannot start the operation", st);
    }
    if (cli_flag(c, OPT_DRY_RUN)) {
        upb_StringView about = thole_v1_Operation_target(o), why = thole_v1_Operation_message(o);
        about = about.size > 0 ? about : cli__sv("the cluster");
        const char *kind = show_operation_kind(thole_v1_Operation_kind(o));
        if (cli__is_document(c)) {
            (void)show_operation(c, o);
        }
        if (why.size > 0) {
            return cli__say_failed("%.*s: the %s would never end: %.*s", CLI_SV(about), kind,
                                   CLI_SV(why));
        }
        if (!cli__is_document(c)) {
            printf("%.*s: the %s is possible\n", CLI_SV(about), kind);
        }
        return cli__flush();
    }
    if (cli__is_document(c)) { /* one document: the operation now, or at its end */
        return cli_flag(c, OPT_WAIT) ? wait_for(c, thole_v1_Operation_id(o)) : show_operation(c, o);
    }
    upb_StringView target = thole_v1_Operation_target(o);
    printf("operations/%" PRIu64 " %s%s%.*s %s\n", thole_v1_Operation_id(o),
           show_operation_kind(thole_v1_Operation_kind(o)), target.size > 0 ? " " : "",
           CLI_SV(target), show_operation_state(thole_v1_Operation_state(o)));
    int result = cli__flush();
    return result == CLI_OK && cli_flag(c, OPT_WAIT) ? wait_for(c, thole_v1_Operation_id(o))
                                                     : result;
}

#define HOST_VERB(function, Verb)                                                                \
    int function(struct cli *c)                                                                  \
    {                                                                                            \
        struct thole_status st;                                                                  \
        const thole_v1_Operation *reply = NULL;                                                  \
        thole_v1_##Verb##HostRequest *request = thole_v1_##Verb##HostRequest_new(c->arena);      \
        thole_v1_##Verb##HostRequest_set_name(request, cli__sv(cli__strip(c->args[0], "host"))); \
        thole_v1_##Verb##HostRequest_set_request_id(request, cli__request_id(c));                \
        thole_v1_##Verb##HostRequest_set_validate_only(request, cli_flag(c, OPT_DRY_RUN));       \
        enum thole_code code =                                                                   \
            CLI_CALL(c, Operations, Verb##Host, request, &reply, Operation, &st);                \
        return operation_started(c, code, reply, &st);                                           \
    }

HOST_VERB(cli__command_host_drain, Drain)
HOST_VERB(cli__command_host_undrain, Undrain)
HOST_VERB(cli__command_host_cordon, Cordon)
HOST_VERB(cli__command_host_uncordon, Uncordon)
HOST_VERB(cli__command_host_decommission, Decommission)

int cli__command_shard_move(struct cli *c)
{
    struct thole_status st;
    const thole_v1_Operation *reply = NULL;
    if (!cli_given(c, OPT_FROM) || !cli_given(c, OPT_TO)) {
        return cli__say_usage(c, "--from HOST and --to HOST are needed");
    }
    thole_v1_MoveShardRequest *request = thole_v1_MoveShardRequest_new(c->arena);
    thole_v1_MoveShardRequest_set_shard(request, cli__sv(cli__strip(c->args[0], "shard")));
    thole_v1_MoveShardRequest_set_from(request, cli__sv(cli__strip(cli_text(c, OPT_FROM), "host")));
    thole_v1_MoveShardRequest_set_to(request, cli__sv(cli__strip(cli_text(c, OPT_TO), "host")));
    thole_v1_MoveShardRequest_set_request_id(request, cli__request_id(c));
    thole_v1_MoveShardRequest_set_validate_only(request, cli_flag(c, OPT_DRY_RUN));
    enum thole_code code = CLI_CALL(c, Operations, MoveShard, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}

int cli__command_rebalance(struct cli *c)
{
    struct thole_status st;
    const thole_v1_Operation *reply = NULL;
    thole_v1_RebalanceRequest *request = thole_v1_RebalanceRequest_new(c->arena);
    thole_v1_RebalanceRequest_set_request_id(request, cli__request_id(c));
    thole_v1_RebalanceRequest_set_validate_only(request, cli_flag(c, OPT_DRY_RUN));
    enum thole_code code = CLI_CALL(c, Operations, Rebalance, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}

int cli__command_pause(struct cli *c)
{
    static const char *const names[] = {"", "placement", "membership", "balance"};
    struct thole_status st;
    const thole_v1_Operation *reply = NULL;
    thole_v1_PauseControllersRequest *request = thole_v1_PauseControllersRequest_new(c->arena);
    for (size_t i = 0; i < c->arg_count; i++) {
        int32_t controller = 3;
        while (controller > 0 && strcmp(names[controller], c->args[i]) != 0) {
            controller--;
        }
        if (controller == 0) {
            return cli__say_usage(c, "\"%s\" is not one of placement, membership, balance",
                                  c->args[i]);
        }
        thole_v1_PauseControllersRequest_add_controllers(request, controller, c->arena);
    }
    thole_v1_PauseControllersRequest_set_request_id(request, cli__request_id(c));
    enum thole_code code =
        CLI_CALL(c, Operations, PauseControllers, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}

int cli__command_resume(struct cli *c)
{
    struct thole_status st;
    const thole_v1_Operation *reply = NULL;
    thole_v1_ResumeControllersRequest *request = thole_v1_ResumeControllersRequest_new(c->arena);
    thole_v1_ResumeControllersRequest_set_request_id(request, cli__request_id(c));
    enum thole_code code =
        CLI_CALL(c, Operations, ResumeControllers, request, &reply, Operation, &st);
    return operation_started(c, code, reply, &st);
}
