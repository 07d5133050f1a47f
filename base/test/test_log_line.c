#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log_internal.h"

#define WALL_MS UINT64_C(1769853600123) /* 2026-01-31T10:00:00.123Z */

static struct log_line line_of(const char *message)
{
    return (struct log_line){
        .wall_ms = WALL_MS, .level = LOG_LEVEL_INFO, .subject = LOG_RAFT, .message = message};
}

static void check_text(const struct log_line *line, const char *expected)
{
    struct bytes out = {0};
    log__render_text(&out, line);
    bytes_append(&out, "", 1);
    assert_string_equal((char *)out.data, expected);
    bytes_deinit(&out);
}

static void check_json(const struct log_line *line, const char *expected)
{
    struct bytes out = {0};
    log__render_json(&out, line);
    bytes_append(&out, "", 1);
    assert_string_equal((char *)out.data, expected);
    bytes_deinit(&out);
}

static void test_log_line_text_shows_what_is_known(void **state)
{
    (void)state;
    struct log_line line = line_of("became leader term=4");
    check_text(&line, "2026-01-31T10:00:00.123Z INFO  raft  became leader term=4\n");
    line.shard_id = 7;
    line.replica_id = 12;
    check_text(&line,
               "2026-01-31T10:00:00.123Z INFO  raft  became leader term=4 shard=7 replica=12\n");
    line.host = "h1";
    line.thread = "loop-0";
    line.replica_id = 0;
    line.level = LOG_LEVEL_ERROR;
    line.subject = LOG_REGISTRY;
    check_text(&line, "2026-01-31T10:00:00.123Z ERROR registry  became leader term=4 host=h1 "
                      "thread=loop-0 shard=7\n");
}

static bool shard_named(void *ctx, uint64_t id, char ret[static LOG_NAME_BYTES])
{
    (void)ctx;
    snprintf(ret, LOG_NAME_BYTES, "orders");
    return id == 7;
}

static bool peer_named(void *ctx, const struct uuid *id, char ret[static LOG_NAME_BYTES])
{
    (void)ctx;
    snprintf(ret, LOG_NAME_BYTES, "h2");
    return id->bytes[15] == 2;
}

static const struct log_names names = {.host = "h1", .shard = shard_named, .peer = peer_named};

static void check_named(const char *message, const char *expected)
{
    struct bytes out = {0};
    bool named = log__add_names(&names, message, &out);
    assert_int_equal(named, expected != NULL);
    if (expected != NULL) {
        assert_string_equal((const char *)out.data, expected);
    }
    bytes_deinit(&out);
}

#define PEER_ID(n) "00000000-0000-4000-8000-00000000000" n

static void test_log_line_numbers_get_names(void **state)
{
    (void)state;
    check_named("moved shard=7 replica=3", "moved shard=orders shard_id=7 replica=3");
    check_named("lost peer=" PEER_ID("2") "; retrying",
                "lost peer=h2 peer_id=" PEER_ID("2") "; retrying");
    check_named("a shard=7 to=" PEER_ID("2"),
                "a shard=orders shard_id=7 to=h2 to_id=" PEER_ID("2"));
    check_named("unknown shard=8 peer=" PEER_ID("3"), NULL);
    check_named("named already shard=7 shard_id=7", NULL); /* a shard may be called 7 */
    check_named("quoted why=\"shard=7\"", NULL);
    check_named("quoted peer=\"" PEER_ID("2") "\"", NULL);
    check_named("no numbers shard=7a shard=\"7\" replica=7 shard=", NULL);
    check_named("", NULL);
    struct log_line line = line_of("paused");
    line.shard_id = 7;
    line.shard = "orders";
    check_text(&line, "2026-01-31T10:00:00.123Z INFO  raft  paused shard=orders shard_id=7\n");
    check_json(&line,
               "{\"time\":\"2026-01-31T10:00:00.123Z\",\"level\":\"info\",\"subject\":\"raft\","
               "\"message\":\"paused\",\"shard\":\"orders\",\"shard_id\":7}\n");
}

static void test_log_levels_text_sets_the_same_levels(void **state)
{
    (void)state;
    static const char *const texts[] = {"info", "debug", "error,raft=debug",
                                        "warn,bus=info,daemon=error"};
    char text[LOG_LEVELS_BYTES];
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_true(log_configure_text(texts[i]));
        log_levels_text(text);
        assert_string_equal(text, texts[i]);
    }
    assert_true(
        log_configure_text("info,base=error,store=warn,raft=debug,engine=error,machine=warn"));
    log_levels_text(text);
    assert_string_equal(text, "info,base=error,store=warn,raft=debug,engine=error,machine=warn");
    assert_true(log_configure_text("info"));
}

static void ignore(void *ctx, const struct log_line *line)
{
    (void)ctx;
    (void)line;
}

static void test_log_recent_has_the_newest_whole_lines(void **state)
{
    (void)state;
    struct bytes text = {0};
    char last[64];
    log_set_sink(ignore, NULL);
    LOG_INFO(RAFT, "the first line");
    log_recent(&text);
    bytes_append(&text, "", 1);
    assert_non_null(strstr((const char *)text.data, "INFO  raft  the first line\n"));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4000; i++) { /* more than the ring holds */
            LOG_INFO(RAFT, "filling round=%d line=%d %.*s", round, i, i % 50,
                     "..................................................");
        }
        text.size = 0;
        log_recent(&text);
        assert_true(text.size <= LOG_RECENT_BYTES && text.size > LOG_RECENT_BYTES - 200);
        assert_memory_equal(text.data, "20", 2);
        bytes_append(&text, "", 1);
        snprintf(last, sizeof last, "filling round=%d line=3999 ", round);
        assert_non_null(strstr((const char *)text.data, last));
        assert_null(strstr((const char *)text.data, "the first line"));
    }
    log_set_sink(NULL, NULL);
    bytes_deinit(&text);
}

static void test_log_line_json_shows_what_is_known(void **state)
{
    (void)state;
    struct log_line line = line_of("became leader term=4");
    check_json(&line,
               "{\"time\":\"2026-01-31T10:00:00.123Z\",\"level\":\"info\",\"subject\":\"raft\","
               "\"message\":\"became leader\",\"term\":4}\n");
    line.shard_id = UINT64_MAX;
    line.replica_id = 12;
    line.host = "h\"1";
    line.thread = "loop-0";
    check_json(&line,
               "{\"time\":\"2026-01-31T10:00:00.123Z\",\"level\":\"info\",\"subject\":\"raft\","
               "\"message\":\"became leader\",\"host\":\"h\\\"1\","
               "\"thread\":\"loop-0\",\"shard\":18446744073709551615,\"replica\":12,"
               "\"term\":4}\n");
}

static void test_log_line_text_with_control_characters_is_one_line(void **state)
{
    (void)state;
    struct log_line line = line_of("a\nb\r\tc\x1b[31m\x7f \xc3\xa9 \"q\" \\");
    check_text(&line, "2026-01-31T10:00:00.123Z INFO  raft  a\\nb\\r\\tc\\x1b[31m\\x7f \xc3\xa9 "
                      "\"q\" \\\n");
}

static void check_message(const char *message, const char *expected)
{
    struct log_line line = line_of(message);
    struct bytes all = {0};
    bytes_printf(&all,
                 "{\"time\":\"2026-01-31T10:00:00.123Z\",\"level\":\"info\",\"subject\":\"raft\","
                 "\"message\":\"%s\"}\n",
                 expected);
    bytes_append(&all, "", 1);
    check_json(&line, (const char *)all.data);
    bytes_deinit(&all);
}

static void test_log_line_json_escapes_what_json_reserves(void **state)
{
    (void)state;
    check_message("", "");
    check_message("a\"b\\c/", "a\\\"b\\\\c/");
    check_message("\n\r\t", "\\n\\r\\t");
    check_message("\x01\x1f\x7f\b", "\\u0001\\u001f\\u007f\\u0008");
}

static void test_log_line_json_of_any_bytes_is_utf8(void **state)
{
    (void)state;
    check_message("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
                  "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
    check_message("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80",
                  "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80");
    check_message("\x80", "\\ufffd");                                  /* no lead */
    check_message("\xc0\xaf", "\\ufffd\\ufffd");                       /* overlong */
    check_message("\xe0\x80\xaf", "\\ufffd\\ufffd\\ufffd");            /* overlong */
    check_message("\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd");            /* surrogate */
    check_message("\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"); /* above 10FFFF */
    check_message("\xf5", "\\ufffd");
    check_message("\xff\xfe", "\\ufffd\\ufffd");
    check_message("\xe2\x82", "\\ufffd\\ufffd"); /* cut at the end */
    check_message("\xf0\x9f\x98", "\\ufffd\\ufffd\\ufffd");
    check_message("\xc3(", "\\ufffd(");
}

/* Checks the members after "message": the text without pairs, then the pairs. */
static void check_members(const char *message, const char *expected)
{
    struct log_line line = line_of(message);
    struct bytes out = {0};
    log__render_json(&out, &line);
    bytes_append(&out, "", 1);
    const char *at = strstr((const char *)out.data, "\"message\":");
    assert_non_null(at);
    struct bytes all = {0};
    bytes_printf(&all, "\"message\":%s}\n", expected);
    bytes_append(&all, "", 1);
    assert_string_equal(at, (const char *)all.data);
    bytes_deinit(&all);
    bytes_deinit(&out);
}

static void test_log_line_json_has_a_member_for_each_pair(void **state)
{
    (void)state;
    check_members("peer disconnected peer=h2 retry_ms=200",
                  "\"peer disconnected\",\"peer\":\"h2\",\"retry_ms\":200");
    check_members("cannot write file=a/b error=\"No such file\"; trying again in 5 ms",
                  "\"cannot write; trying again in 5 ms\",\"file\":\"a/b\","
                  "\"error\":\"No such file\"");
    check_members("refused error=\"shard \"x\"y is gone\"", /* an inner quote */
                  "\"refused\",\"error\":\"shard \\\"x\\\"y is gone\"");
    check_members("n=18446744073709551615 m=007 o=", /* JSON readers would round the first value */
                  "\"\",\"n\":\"18446744073709551615\",\"m\":\"007\",\"o\":\"\"");
    check_members("a=1 a=2 host=h3 level=x", "\" a=2 host=h3 level=x\",\"a\":1");
    check_members("a=\"open", "\"a=\\\"open\"");
    check_members("k=\xc3 x", "\" x\",\"k\":\"\\ufffd\"");
    check_members("x==1 =2 A=3", "\" =2 A=3\",\"x\":\"=1\"");
}

static void test_log_line_has_each_key_once(void **state)
{
    (void)state;
    struct log_line line = line_of("became leader shard=orders");
    line.shard_id = 7;
    line.replica_id = 12;
    check_text(&line, "2026-01-31T10:00:00.123Z INFO  raft  became leader shard=orders "
                      "replica=12\n");
    check_json(&line,
               "{\"time\":\"2026-01-31T10:00:00.123Z\",\"level\":\"info\",\"subject\":\"raft\","
               "\"message\":\"became leader\",\"replica\":12,\"shard\":\"orders\"}\n");
}

static void test_log_configure_text_sets_all_or_nothing(void **state)
{
    (void)state;
    log_configure(LOG_LEVEL_INFO, false);
    assert_true(log_configure_text("warn"));
    for (int i = 0; i < LOG_SUBJECT_COUNT; i++) {
        assert_int_equal(log_levels[i], LOG_LEVEL_WARN);
    }
    assert_true(log_configure_text("info,raft=debug,bus=error"));
    assert_int_equal(log_levels[LOG_RAFT], LOG_LEVEL_DEBUG);
    assert_int_equal(log_levels[LOG_BUS], LOG_LEVEL_ERROR);
    assert_int_equal(log_levels[LOG_BASE], LOG_LEVEL_INFO);
    assert_true(log_configure_text("daemon=error"));
    assert_int_equal(log_levels[LOG_DAEMON], LOG_LEVEL_ERROR);
    assert_int_equal(log_levels[LOG_RAFT], LOG_LEVEL_DEBUG);
    const char *const bad[] = {"",
                               "loud",
                               "info,",
                               ",info",
                               "raft=",
                               "=debug",
                               "rafts=debug",
                               "raft=loud",
                               "INFO",
                               "info raft=debug",
                               "raft=debug=info",
                               "warn,raft=debug,what=info",
                               "inf",
                               "infos"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (log_configure_text(bad[i])) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(log_levels[LOG_RAFT], LOG_LEVEL_DEBUG);
        assert_int_equal(log_levels[LOG_BASE], LOG_LEVEL_INFO);
    }
    log_configure(LOG_LEVEL_INFO, false);
}

/* Returns the text that `f` writes to stderr; the caller frees it. */
static char *captured(void (*f)(void))
{
    char path[] = "/tmp/thole-log-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    f();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    size_t size = (size_t)lseek(fd, 0, SEEK_END);
    char *text = xcalloc(size + 1, 1);
    assert_int_equal(pread(fd, text, size, 0), size);
    (void)close(fd);
    return text;
}

struct sunk {
    int lines;
    char last[64];
    char host[16];
};

static void sink(void *ctx, const struct log_line *line)
{
    struct sunk *s = ctx;
    s->lines++;
    snprintf(s->last, sizeof s->last, "%s", line->message);
    snprintf(s->host, sizeof s->host, "%s", line->host);
}

static struct sunk sunk;

static void write_to_sink(void)
{
    (void)log_context_host("h1");
    log_set_sink(sink, &sunk);
    LOG_INFO(RAFT, "to the sink n=%d", 1);
    LOG_DEBUG(RAFT, "below the level");
    log_set_sink(NULL, NULL);
    LOG_INFO(RAFT, "to stderr");
    (void)log_context_host(NULL);
}

static void test_log_sink_takes_the_lines(void **state)
{
    (void)state;
    sunk = (struct sunk){0};
    char *text = captured(write_to_sink);
    assert_int_equal(sunk.lines, 1);
    assert_string_equal(sunk.last, "to the sink n=1");
    assert_string_equal(sunk.host, "h1");
    assert_null(strstr(text, "sink"));
    assert_non_null(strstr(text, "to stderr host=h1\n"));
    free(text);
}

static int evaluated;

static int evaluate(void)
{
    return ++evaluated;
}

static void write_below_level(void)
{
    LOG_DEBUG(RAFT, "n=%d", evaluate());
    log_configure_text("error,bus=debug");
    LOG_WARN(RAFT, "n=%d", evaluate());
    LOG_ERROR(RAFT, "n=%d", evaluate());
    LOG_DEBUG(BUS, "n=%d", evaluate());
    log_configure(LOG_LEVEL_INFO, false);
}

static void test_log_below_the_level_evaluates_nothing(void **state)
{
    (void)state;
    evaluated = 0;
    char *text = captured(write_below_level);
    assert_int_equal(evaluated, 2);
    assert_non_null(strstr(text, "ERROR raft  n=1\n"));
    assert_non_null(strstr(text, "DEBUG bus  n=2\n"));
    free(text);
}

static void write_with_context(void)
{
    const char *host = log_context_host("h1");
    assert_null(host);
    log_context(7, 12);
    const char *before = log__thread("loop-0");
    errno = ENOENT;
    LOG_INFO(RAFT, "in context");
    assert_int_equal(errno, ENOENT);
    log__thread(before);
    log_context(0, 0);
    assert_string_equal(log_context_host("h2"), "h1");
    LOG_INFO(RAFT, "renamed");
    (void)log_context_host(NULL);
    LOG_INFO(RAFT, "without");
}

static void test_log_context_is_shown_until_it_is_cleared(void **state)
{
    (void)state;
    char *text = captured(write_with_context);
    assert_non_null(strstr(text, "raft  in context host=h1 thread=loop-0 shard=7 replica=12\n"));
    assert_non_null(strstr(text, "raft  renamed host=h2\n"));
    assert_non_null(strstr(text, "raft  without\n"));
    free(text);
}

static void write_long(void)
{
    static char text[10000];
    memset(text, 'y', sizeof text - 1);
    LOG_INFO(BASE, "%s", text);
    log_set_json(true);
    LOG_INFO(BASE, "%s", text);
    log_set_json(false);
}

static void test_log_message_too_long_is_cut(void **state)
{
    (void)state;
    char *text = captured(write_long);
    assert_true(strlen(text) < 5000);
    assert_non_null(strstr(text, "yyy...\n"));
    assert_non_null(strstr(text, "yyy...\"}\n"));
    free(text);
}

#define THREADS 4
#define LINES 300

static void *write_many(void *arg)
{
    int id = *(int *)arg;
    char filler[200];
    memset(filler, 'a' + id, sizeof filler);
    log_context((uint64_t)id + 1, 1);
    for (int i = 0; i < LINES; i++) {
        LOG_INFO(BASE, "<%.*s>", (int)sizeof filler, filler);
    }
    return NULL;
}

static void write_in_parallel(void)
{
    pthread_t threads[THREADS];
    int ids[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &ids[i]), 0);
    }
    for (int i = 0; i < 100; i++) {
        log_configure_text(i % 2 ? "info" : "debug");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    log_configure(LOG_LEVEL_INFO, false);
}

static void test_log_lines_of_many_threads_stay_whole(void **state)
{
    (void)state;
    char *text = captured(write_in_parallel);
    int lines = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        char *open = strchr(line, '<');
        assert_non_null(open);
        size_t same = strspn(open + 1, (char[]){open[1], '\0'});
        assert_int_equal(same, 200);
        assert_int_equal(open[201], '>');
        assert_int_equal(strstr(line, "shard=")[6], open[1] - 'a' + '1');
        lines++;
    }
    assert_int_equal(lines, THREADS * LINES);
    free(text);
}

static void write_to_closed(void)
{
    int saved = dup(STDERR_FILENO);
    (void)close(STDERR_FILENO);
    LOG_ERROR(BASE, "nobody hears this");
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
}

static void test_log_to_a_closed_stderr_is_lost_quietly(void **state)
{
    (void)state;
    char *text = captured(write_to_closed);
    assert_string_equal(text, "");
    free(text);
}

#define FLOOD_LINES 5000

/* The pipe's content; it never blocks, since it reads only what is there. */
static char *drained(int fd)
{
    struct bytes out = {0};
    char piece[4096];
    ssize_t n;
    while ((n = read(fd, piece, sizeof piece)) > 0) {
        bytes_append(&out, piece, (size_t)n);
    }
    bytes_append(&out, "", 1);
    return (char *)out.data;
}

static void test_log_to_a_full_pipe_is_lost_counted_and_never_waits(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
    char filler[1900];
    memset(filler, 'x', sizeof filler);
    alarm(20); /* a child that hangs is killed */
    for (int i = 0; i < FLOOD_LINES; i++) {
        LOG_INFO(BASE, "line=%d %.*s", i, (int)sizeof filler, filler);
    }
    log_print("dying words\n");
    char *first = drained(fds[0]);
    LOG_INFO(BASE, "reading again");
    LOG_INFO(BASE, "and again");
    char *second = drained(fds[0]);
    alarm(0);
    (void)dup2(saved, STDERR_FILENO);
    int lines = 0;
    for (const char *p = first; (p = strstr(p, "line=")) != NULL; p++) {
        lines++;
    }
    assert_in_range(lines, 10, FLOOD_LINES / 10);
    char expected[64];
    snprintf(expected, sizeof expected, "lines=%d why=", FLOOD_LINES - lines);
    assert_non_null(strstr(second, expected));
    const char *again = strstr(second, "reading again");
    assert_non_null(again);
    assert_non_null(strstr(again, "and again"));
    assert_null(strstr(again, "lost"));
    free(first);
    free(second);
    (void)close(saved);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* ---- The journal ----------------------------------------------------------------------------- */

static int listen_at(char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    memcpy(address.sun_path, path, strlen(path) + 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void test_log_line_journal_has_a_field_for_each_pair(void **state)
{
    (void)state;
    struct log_line line = line_of("became\nleader term=4 peer=\"h 2\"");
    struct bytes out = {0};
    line.shard_id = 7;
    line.shard = "orders";
    line.host = "h1";
    line.thread = "loop-0";
    line.level = LOG_LEVEL_WARN;
    log__render_journal(&out, &line);
    bytes_append(&out, "", 1);
    assert_string_equal(
        (char *)out.data,
        "MESSAGE=became\\nleader term=4 peer=\"h 2\" shard=orders shard_id=7\nPRIORITY=4\n"
        "THOLE_SUBJECT=raft\nSYSLOG_IDENTIFIER=test_log_line\nTHOLE_HOST=h1\n"
        "THOLE_THREAD=loop-0\nTHOLE_TERM=4\nTHOLE_PEER=h 2\nTHOLE_SHARD=orders\n"
        "THOLE_SHARD_ID=7\n");
    bytes_deinit(&out);
}

/* The journal gets the lines; what it does not take goes to stderr, and nobody waits. */
static void test_log_to_the_journal_falls_back_to_stderr(void **state)
{
    (void)state;
    char dir[] = "/tmp/journal-XXXXXX", path[64], got[4096] = "";
    int pipes[2], saved = dup(STDERR_FILENO);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/socket", dir);
    assert_false(log_to_journal(path)); /* there is none yet */
    int journal = listen_at(path);
    assert_true(log_to_journal(path));
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    assert_true(dup2(pipes[1], STDERR_FILENO) >= 0);
    LOG_INFO(DAEMON, "first n=1");
    assert_true(recv(journal, got, sizeof got - 1, 0) > 0);
    assert_non_null(strstr(got, "MESSAGE=first n=1\n"));
    assert_non_null(strstr(got, "\nTHOLE_N=1\n"));
    assert_true(read(pipes[0], got, sizeof got) < 0);
    for (int i = 0; i < 2000; i++) { /* nobody reads: its queue is full after a while */
        LOG_INFO(DAEMON, "more n=%d", i);
    }
    assert_true(read(pipes[0], got, sizeof got) > 0);
    assert_non_null(strstr(got, "daemon  more n="));
    close(journal);
    while (read(pipes[0], got, sizeof got) > 0) {
    }
    LOG_INFO(DAEMON, "after its end");
    memset(got, 0, sizeof got);
    assert_true(read(pipes[0], got, sizeof got - 1) > 0);
    assert_non_null(strstr(got, "after its end"));
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    assert_int_equal(unlink(path), 0);
    assert_false(log_to_journal(path));
    assert_int_equal(rmdir(dir), 0);
    (void)close(saved);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
}

static void test_log_stderr_is_the_journal_only_by_its_inode(void **state)
{
    (void)state;
    struct stat st;
    char stream[64];
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    unsetenv("JOURNAL_STREAM");
    assert_false(log_stderr_is_journal());
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    assert_true(log_stderr_is_journal());
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino + 1);
    setenv("JOURNAL_STREAM", stream, 1);
    assert_false(log_stderr_is_journal());
    setenv("JOURNAL_STREAM", "x", 1);
    assert_false(log_stderr_is_journal());
    unsetenv("JOURNAL_STREAM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_line_text_shows_what_is_known),
        cmocka_unit_test(test_log_line_json_shows_what_is_known),
        cmocka_unit_test(test_log_line_numbers_get_names),
        cmocka_unit_test(test_log_levels_text_sets_the_same_levels),
        cmocka_unit_test(test_log_recent_has_the_newest_whole_lines),
        cmocka_unit_test(test_log_line_text_with_control_characters_is_one_line),
        cmocka_unit_test(test_log_line_json_escapes_what_json_reserves),
        cmocka_unit_test(test_log_line_json_of_any_bytes_is_utf8),
        cmocka_unit_test(test_log_line_json_has_a_member_for_each_pair),
        cmocka_unit_test(test_log_line_has_each_key_once),
        cmocka_unit_test(test_log_sink_takes_the_lines),
        cmocka_unit_test(test_log_configure_text_sets_all_or_nothing),
        cmocka_unit_test(test_log_below_the_level_evaluates_nothing),
        cmocka_unit_test(test_log_context_is_shown_until_it_is_cleared),
        cmocka_unit_test(test_log_message_too_long_is_cut),
        cmocka_unit_test(test_log_lines_of_many_threads_stay_whole),
        cmocka_unit_test(test_log_to_a_closed_stderr_is_lost_quietly),
        cmocka_unit_test(test_log_to_a_full_pipe_is_lost_counted_and_never_waits),
        cmocka_unit_test(test_log_line_journal_has_a_field_for_each_pair),
        cmocka_unit_test(test_log_to_the_journal_falls_back_to_stderr),
        cmocka_unit_test(test_log_stderr_is_the_journal_only_by_its_inode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
