/* `thole top`: threads, keys, terminal. See top.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/top.h"
#include "base/clock.h"

#define POLL_MS 2000
#define PLAIN_POLL_MS 1000
#define ASK_TIMEOUT_MS 1500 /* of one host */
#define FRAME_MS 100        /* changes are drawn together */

struct top {
    struct top_model model;
    struct cli watcher, poller; /* each has a channel and an arena of its own */
    unsigned poll_ms;
};

/* ---- The watch ------------------------------------------------------------------------------- */

static bool on_row(void *ctx, const thole_v1_WatchClusterResponse *w)
{
    struct top *t = ctx;
    top_model_see(&t->model, w);
    return true;
}

static void *watch_main(void *ctx)
{
    struct top *t = ctx;
    struct thole_status st;
    for (;;) {
        if (rows_watch(&t->watcher, 0, on_row, t, &st) != THOLE_OK) {
            top_model_problem(&t->model, st.message);
        }
        cli__pause_ms(1000);
    }
    return NULL;
}

/* ---- Load ------------------------------------------------------------------------------------ */

static void ask_host(struct top *t, const char *host)
{
    struct cli *c = &t->poller;
    struct thole_status st;
    const thole_v1_StatusResponse *reply = NULL;
    c->arena = upb_Arena_New();
    thole_v1_StatusRequest *q = thole_v1_StatusRequest_new(c->arena);
    thole_v1_StatusRequest_set_host(q, cli__sv(host));
    if (CLI_CALL(c, Cluster, Status, q, &reply, StatusResponse, &st) == THOLE_OK) {
        top_model_load(&t->model, host, reply);
    }
    upb_Arena_Free(c->arena);
}

/* The names of live hosts, malloced. */
static size_t live_hosts(struct top_model *m, char (**ret)[TOP_NAME_BYTES])
{
    size_t n = 0;
    pthread_mutex_lock(&m->lock);
    char(*names)[TOP_NAME_BYTES] = xcalloc(m->host_count + 1, sizeof *names);
    for (size_t i = 0; i < m->host_count; i++) {
        if (m->hosts[i].liveness == thole_v1_HOST_LIVENESS_LIVE) {
            memcpy(names[n++], m->hosts[i].name, TOP_NAME_BYTES);
        }
    }
    pthread_mutex_unlock(&m->lock);
    *ret = names;
    return n;
}

static void *poll_main(void *ctx)
{
    struct top *t = ctx;
    for (;;) {
        char(*names)[TOP_NAME_BYTES];
        size_t n = live_hosts(&t->model, &names);
        for (size_t i = 0; i < n; i++) {
            ask_host(t, names[i]);
        }
        free(names);
        if (n > 0) {
            top_model_settle(&t->model);
        }
        cli__pause_ms(n > 0 ? t->poll_ms : 50);
    }
    return NULL;
}

/* The threads end with the process: they wait for the network. */
static bool begin(struct top *t, struct cli *c)
{
    pthread_t thread;
    struct thole_status st;
    if (cli__connect(c, &st) != THOLE_OK) { /* certificates and token are read once */
        (void)cli__say_status("top", &st);
        return false;
    }
    top_model_init(&t->model);
    t->watcher = t->poller = *c;
    t->watcher.channel = t->poller.channel = NULL;
    t->watcher.arena = upb_Arena_New();
    struct option_value *values = xcalloc(c->options.count, sizeof *values);
    memcpy(values, c->options.values, c->options.count * sizeof *values);
    values[OPT_COMMAND_TIMEOUT].number = ASK_TIMEOUT_MS;
    t->poller.options.values = values;
    return pthread_create(&thread, NULL, watch_main, t) == 0 &&
           pthread_create(&thread, NULL, poll_main, t) == 0;
}

/* ---- Plain text ------------------------------------------------------------------------------ */

/* One screen, when two answers of all hosts have shown how busy they are. */
static int run_plain(struct top *t, struct cli *c)
{
    struct top_view v = {.columns = 80};
    uint64_t deadline = clock_now(&clock_system) + cli__timeout_ms(c) * NS_PER_MS;
    struct pollfd p = {.fd = t->model.changed, .events = POLLIN};
    bool done = false;
    while (!done && clock_now(&clock_system) < deadline) {
        uint64_t count;
        if (poll(&p, 1, 100) == 1) {
            (void)!read(t->model.changed, &count, sizeof count);
        }
        pthread_mutex_lock(&t->model.lock);
        done = t->model.complete && t->model.polls >= 2;
        pthread_mutex_unlock(&t->model.lock);
    }
    pthread_mutex_lock(&t->model.lock);
    bool complete = t->model.complete;
    if (!complete) {
        cli__note("top: no host sent its rows in time%s%s", t->model.problem[0] ? ": " : "",
                  t->model.problem);
    }
    pthread_mutex_unlock(&t->model.lock);
    if (!complete) {
        return CLI_UNAVAILABLE;
    }
    struct bytes out = {0};
    top_draw(&t->model, &v, &out);
    cli__print(bytes_slice(&out));
    bytes_deinit(&out);
    return cli__flush();
}

/* ---- The terminal ---------------------------------------------------------------------------- */

static struct termios terminal_before;

static void terminal_restore(void)
{
    static const char leave[] = "\x1b[?25h\x1b[?1049l";
    (void)!write(STDOUT_FILENO, leave, sizeof leave - 1);
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &terminal_before);
}

static bool terminal_take(void)
{
    static const char enter[] = "\x1b[?1049h\x1b[?25l";
    if (tcgetattr(STDIN_FILENO, &terminal_before) != 0) {
        return false;
    }
    struct termios raw = terminal_before;
    cfmakeraw(&raw);
    if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) != 0) {
        return false;
    }
    (void)atexit(terminal_restore);
    (void)!write(STDOUT_FILENO, enter, sizeof enter - 1);
    return true;
}

static void draw(struct top *t, struct top_view *v)
{
    struct bytes out = {0};
    struct winsize size = {0};
    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    v->columns = size.ws_col > 0 ? size.ws_col : 80;
    v->rows = size.ws_row > 5 ? size.ws_row : 24;
    bytes_append_str(&out, "\x1b[H");
    top_draw(&t->model, v, &out);
    cli__print(bytes_slice(&out));
    bytes_deinit(&out);
    (void)fflush(stdout);
}

/* The keys in what a read returned. Escape sequences come in one piece. */
static bool take_keys(struct top_view *v, const char *text, size_t size)
{
    static const struct {
        const char *text;
        int key;
    } sequences[] = {
        {"\x1b[A", TOP_KEY_UP},   {"\x1b[B", TOP_KEY_DOWN},     {"\x1bOA", TOP_KEY_UP},
        {"\x1bOB", TOP_KEY_DOWN}, {"\x1b[5~", TOP_KEY_PAGE_UP}, {"\x1b[6~", TOP_KEY_PAGE_DOWN},
        {"\x1b[H", TOP_KEY_HOME}, {"\x1b[F", TOP_KEY_END},
    };
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        if (size == strlen(sequences[i].text) && memcmp(text, sequences[i].text, size) == 0) {
            return top_key(v, sequences[i].key);
        }
    }
    if (size > 1 && text[0] == 0x1b) {
        return true; /* another key */
    }
    for (size_t i = 0; i < size; i++) {
        if (!top_key(v, (unsigned char)text[i])) {
            return false;
        }
    }
    return true;
}

static int run_terminal(struct top *t)
{
    struct top_view v = {.colours = getenv("NO_COLOR") == NULL};
    struct pollfd p[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                         {.fd = t->model.changed, .events = POLLIN}};
    char keys[64];
    uint64_t count;
    if (!terminal_take()) {
        return cli__say_failed("cannot use the terminal: %s", strerror(errno));
    }
    for (;;) {
        draw(t, &v);
        if (poll(p, 2, (int)POLL_MS) < 0 && errno != EINTR) { /* also if its size has changed */
            return CLI_FAILED;
        }
        if ((p[1].revents & POLLIN) != 0) {
            (void)!read(t->model.changed, &count, sizeof count);
        }
        if ((p[0].revents & (POLLIN | POLLHUP)) != 0) {
            ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
            if (n <= 0 || !take_keys(&v, keys, (size_t)n)) {
                return CLI_OK;
            }
        } else {
            cli__pause_ms(FRAME_MS);
        }
    }
}

int cli__command_top(struct cli *c)
{
    static struct top t; /* its threads outlive this function */
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    t.poll_ms = terminal ? POLL_MS : PLAIN_POLL_MS;
    if (!begin(&t, c)) {
        return CLI_UNAVAILABLE;
    }
    return terminal ? run_terminal(&t) : run_plain(&t, c);
}
