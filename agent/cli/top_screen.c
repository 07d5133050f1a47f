/* The screens of `thole top`: 80 columns suffice; not a terminal: the same as plain text. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/cli/top.h"

#define LINE_BYTES 512
#define MATRIX_HOSTS 12 /* more hosts have no column of their own */
#define NAME_COLUMNS_MIN 12
#define HOST_LINES_MAX 10 /* of a terminal */

enum colour { PLAIN, BOLD, RED, YELLOW, REVERSE };
static const char *const colour_codes[] = {[PLAIN] = "",
                                           [BOLD] = "\x1b[1m",
                                           [RED] = "\x1b[31m",
                                           [YELLOW] = "\x1b[33m",
                                           [REVERSE] = "\x1b[7m"};

struct screen {
    struct top_view *v;
    struct bytes *out;
    unsigned used; /* lines */
};

static bool has_room(const struct screen *s, unsigned reserved)
{
    return s->v->rows == 0 || s->used + reserved < s->v->rows;
}

/* One line, cut to the width. */
static void line(struct screen *s, enum colour colour, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void line(struct screen *s, enum colour colour, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = cli__vtext(format, args);
    va_end(args);
    size_t size = strlen(text), columns = s->v->rows > 0 ? s->v->columns : SIZE_MAX;
    while (size > 0 && text[size - 1] == ' ') {
        size--;
    }
    size = size < columns ? size : columns;
    bool coloured = s->v->colours && colour != PLAIN;
    bytes_append_str(s->out, coloured ? colour_codes[colour] : "");
    bytes_append(s->out, text, size);
    bytes_append_str(s->out, coloured ? "\x1b[0m" : "");
    bytes_append_str(s->out, s->v->rows > 0 ? "\x1b[K\r\n" : "\n");
    s->used++;
    free(text);
}

/* The first of `n` rows to draw in the lines that are left; scrolls back what is behind the end. */
static size_t first_row(struct screen *s, size_t n)
{
    size_t room = n;
    if (s->v->rows > 0) {
        room = s->used + 1 < s->v->rows ? s->v->rows - s->used - 1 : 0;
    }
    size_t last = n > room ? n - room : 0;
    s->v->scroll = s->v->scroll < last ? s->v->scroll : last;
    return s->v->scroll;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

static const char *short_number(double v, char *ret, size_t size)
{
    if (v < 0.05) {
        snprintf(ret, size, "0");
    } else if (v < 1000) {
        snprintf(ret, size, v < 10 ? "%.1f" : "%.0f", v);
    } else {
        snprintf(ret, size, v < 1e6 ? "%.1fk" : "%.1fM", v < 1e6 ? v / 1e3 : v / 1e6);
    }
    return ret;
}

static bool is_problem(const struct top_shard *s)
{
    return !s->ready || s->degraded;
}

static void draw_head(struct top_model *m, struct screen *s)
{
    size_t live = 0, ready = 0, running = 0;
    double rate = 0;
    char text[16];
    const struct top_shard *shard;
    const struct top_operation *o;
    for (size_t i = 0; i < m->host_count; i++) {
        live += m->hosts[i].liveness == thole_v1_HOST_LIVENESS_LIVE;
    }
    for (size_t it = 0; (shard = map_next(&m->shards, &it, NULL)) != NULL;) {
        ready += shard->ready;
        rate += shard->rate;
    }
    for (size_t it = 0; (o = map_next(&m->operations, &it, NULL)) != NULL;) {
        running += !o->over;
    }
    bool well = live == m->host_count && ready == m->shards.count && m->problem[0] == '\0';
    line(s, well ? BOLD : RED, "hosts %zu/%zu live  shards %zu/%zu ready  %s/s  operations %zu%s%s",
         live, m->host_count, ready, m->shards.count, short_number(rate, text, sizeof text),
         running, m->problem[0] != '\0' ? "  " : "", m->problem);
}

/* The sign of a host's column: 1-9, then a-z. */
static char sign_of(size_t i)
{
    return (char)(i < 9 ? '1' + (int)i : 'a' + (int)(i - 9));
}

static int compare_host(const void *name, const void *host)
{
    return strcmp(name, ((const struct top_host *)host)->name);
}

/* NULL: no such row. */
static struct top_host *host_named(const struct top_model *m, const char *name)
{
    return m->host_count > 0
               ? bsearch(name, m->hosts, m->host_count, sizeof *m->hosts, compare_host)
               : NULL;
}

static void count_on_hosts(struct top_model *m)
{
    const struct top_shard *s;
    struct top_host *h;
    for (size_t i = 0; i < m->host_count; i++) {
        m->hosts[i].leaders = m->hosts[i].replicas = 0;
    }
    for (size_t it = 0; (s = map_next(&m->shards, &it, NULL)) != NULL;) {
        if ((h = host_named(m, s->leader)) != NULL) {
            h->leaders++;
        }
        for (const struct top_replica *r = s->replicas; r != NULL; r = r->next) {
            if ((h = host_named(m, r->host)) != NULL) {
                h->replicas++;
            }
        }
    }
}

static void draw_hosts(struct top_model *m, struct screen *s)
{
    size_t most = m->host_count, i = 0;
    line(s, REVERSE, "%-3s %-20s %-9s %-9s %-8s %8s %8s %6s  ", "#", "HOST", "LIVENESS", "STATE",
         "ZONE", "LEADERS", "REPLICAS", "CPU");
    if (s->v->rows > 0 && most > HOST_LINES_MAX) {
        most = HOST_LINES_MAX;
    }
    count_on_hosts(m);
    for (; i < most && has_room(s, 3); i++) {
        const struct top_host *h = &m->hosts[i];
        bool live = h->liveness == thole_v1_HOST_LIVENESS_LIVE;
        line(s,
             !live                                    ? RED
             : h->state != thole_v1_HOST_STATE_ACTIVE ? YELLOW
                                                      : PLAIN,
             "%-3c %-20.20s %-9s %-9s %-8.8s %8zu %8zu %5.0f%%",
             i < MATRIX_HOSTS ? sign_of(i) : ' ', h->name, show_liveness(h->liveness),
             show_host_state(h->state), h->zone, h->leaders, h->replicas, 100 * h->cpu);
    }
    if (i < m->host_count) {
        line(s, PLAIN, "    ... and %zu more", m->host_count - i);
    }
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static enum top_sort sort_by;

static int compare_shards(const void *a, const void *b)
{
    const struct top_shard *x = *(const struct top_shard *const *)a;
    const struct top_shard *y = *(const struct top_shard *const *)b;
    if (sort_by == TOP_BY_PROBLEM && is_problem(x) != is_problem(y)) {
        return is_problem(x) ? -1 : 1;
    }
    if (sort_by <= TOP_BY_RATE && x->rate != y->rate) {
        return x->rate > y->rate ? -1 : 1;
    }
    if (sort_by == TOP_BY_LAG && x->lag != y->lag) {
        return x->lag > y->lag ? -1 : 1;
    }
    return strverscmp(x->name, y->name);
}

static char cell_of(const struct top_shard *s, const struct top_host *h)
{
    char cell = '.';
    for (const struct top_replica *r = s->replicas; r != NULL; r = r->next) {
        if (strcmp(r->host, h->name) != 0) {
            continue;
        }
        cell = r->phase == thole_v1_REPLICA_PHASE_FAILED    ? '!'
               : r->removing                                ? 'x'
               : h->liveness != thole_v1_HOST_LIVENESS_LIVE ? '?'
               : r->phase != thole_v1_REPLICA_PHASE_RUNNING ? '+'
               : strcmp(s->leader, h->name) == 0            ? 'L'
               : r->role == thole_v1_REPLICA_ROLE_WITNESS   ? 'w'
               : r->role == thole_v1_REPLICA_ROLE_VOTER     ? 'v'
                                                            : 'n';
    }
    return cell;
}

static size_t collect(struct top_model *m, const struct top_view *v, const struct top_shard ***ret)
{
    const struct top_shard **all = xcalloc(m->shards.count + 1, sizeof(struct top_shard *));
    const struct top_shard *s;
    size_t n = 0;
    for (size_t it = 0; (s = map_next(&m->shards, &it, NULL)) != NULL;) {
        if (v->filter[0] == '\0' || strstr(s->name, v->filter) != NULL ||
            strstr(s->type, v->filter) != NULL || strstr(s->reason, v->filter) != NULL) {
            all[n++] = s;
        }
    }
    sort_by = v->sort;
    qsort(all, n, sizeof(struct top_shard *), compare_shards);
    *ret = all;
    return n;
}

static void draw_shard(const struct top_model *m, struct screen *s, const struct top_shard *shard,
                       int name_columns, size_t columns)
{
    char cells[2 * MATRIX_HOSTS + 1] = "", rate[16];
    for (size_t i = 0; i < columns; i++) {
        cells[2 * i] = cell_of(shard, &m->hosts[i]);
        cells[2 * i + 1] = ' ';
    }
    line(s,
         !shard->ready     ? RED
         : shard->degraded ? YELLOW
                           : PLAIN,
         "%-*.*s %-8.8s %-10.10s %s%8s %6" PRIu64 "  %s", name_columns, name_columns, shard->name,
         shard->type, shard->leader[0] != '\0' ? shard->leader : "-", cells,
         short_number(shard->rate, rate, sizeof rate), shard->lag,
         shard->reason[0] != '\0' ? shard->reason : "ready");
}

static void draw_shards(struct top_model *m, struct screen *s)
{
    const struct top_shard **all;
    size_t n = collect(m, s->v, &all), columns = m->host_count;
    char heads[2 * MATRIX_HOSTS + 1] = "";
    columns = columns < MATRIX_HOSTS ? columns : MATRIX_HOSTS;
    for (size_t i = 0; i < columns; i++) {
        heads[2 * i] = sign_of(i);
        heads[2 * i + 1] = ' ';
    }
    int longest = NAME_COLUMNS_MIN;
    for (size_t i = 0; i < n; i++) {
        longest = (int)strlen(all[i]->name) > longest ? (int)strlen(all[i]->name) : longest;
    }
    int left = (int)s->v->columns - 49 - 2 * (int)columns;
    int name_columns = left > NAME_COLUMNS_MIN ? left : NAME_COLUMNS_MIN;
    name_columns = name_columns < longest ? name_columns : longest;
    line(s, REVERSE, "%-*s %-8s %-10s %s%8s %6s  %-10s", name_columns, "SHARD", "TYPE", "LEADER",
         heads, "ENTRY/S", "LAG", "READY");
    for (size_t i = first_row(s, n); i < n && has_room(s, 1); i++) {
        draw_shard(m, s, all[i], name_columns, columns);
    }
    free(all);
}

/* ---- Operations and events ------------------------------------------------------------------- */

static int compare_operations(const void *a, const void *b)
{
    const struct top_operation *x = *(const struct top_operation *const *)a;
    const struct top_operation *y = *(const struct top_operation *const *)b;
    if (x->over != y->over) {
        return x->over ? 1 : -1;
    }
    return x->id > y->id ? -1 : x->id < y->id;
}

static void draw_operations(struct top_model *m, struct screen *s, bool running_only)
{
    const struct top_operation **all =
        xcalloc(m->operations.count + 1, sizeof(struct top_operation *));
    const struct top_operation *o;
    size_t n = 0;
    for (size_t it = 0; (o = map_next(&m->operations, &it, NULL)) != NULL;) {
        if (!running_only || !o->over) {
            all[n++] = o;
        }
    }
    qsort(all, n, sizeof(struct top_operation *), compare_operations);
    line(s, REVERSE, "%-6s %-12s %-20s %-9s %-30s", "ID", "OPERATION", "TARGET", "STATE",
         "PROGRESS");
    for (size_t i = first_row(s, n); i < n && has_room(s, 1); i++) {
        line(s, all[i]->over ? PLAIN : BOLD, "%s", all[i]->text);
    }
    free(all);
}

static void draw_events(struct top_model *m, struct screen *s)
{
    uint64_t kept = m->event_count < TOP_EVENTS ? m->event_count : TOP_EVENTS;
    line(s, REVERSE, "%-8s  %-24s %-18s %-20s", "TIME", "OBJECT", "EVENT", "WHAT");
    for (uint64_t i = first_row(s, kept); i < kept && has_room(s, 1); i++) { /* the newest first */
        line(s, PLAIN, "%s", m->events[(m->event_count - 1 - i) % TOP_EVENTS]);
    }
}

/* ---- The screen ------------------------------------------------------------------------------ */

static void draw_foot(const struct top_view *v, struct bytes *out)
{
    static const char *const sorts[] = {"problems", "rate", "lag", "name"};
    static const char *const panes[] = {"shards", "operations", "events"};
    char text[LINE_BYTES];
    if (v->typing) {
        snprintf(text, sizeof text, "filter: %s_   enter: keep, esc: clear", v->filter);
    } else {
        snprintf(text, sizeof text, "[tab] %s  [s]ort: %s  [/] filter%s%s  [arrows] scroll  [q]uit",
                 panes[v->pane], sorts[v->sort], v->filter[0] != '\0' ? ": " : "", v->filter);
    }
    bytes_printf(out, "%s%.*s%s\x1b[K", v->colours ? colour_codes[BOLD] : "", (int)v->columns, text,
                 v->colours ? "\x1b[0m" : "");
}

void top_draw(struct top_model *m, struct top_view *v, struct bytes *out)
{
    struct screen s = {.v = v, .out = out};
    pthread_mutex_lock(&m->lock);
    draw_head(m, &s);
    draw_hosts(m, &s);
    if (v->rows == 0 || v->pane == TOP_SHARDS) {
        draw_shards(m, &s);
    }
    if (v->rows == 0) {
        draw_operations(m, &s, true);
    } else if (v->pane == TOP_OPERATIONS) {
        draw_operations(m, &s, false);
    } else if (v->pane == TOP_EVENTS_PANE) {
        draw_events(m, &s);
    }
    pthread_mutex_unlock(&m->lock);
    if (v->rows > 0) {
        while (s.used + 1 < v->rows) {
            line(&s, PLAIN, "%s", "");
        }
        draw_foot(v, out);
    }
}

static bool type_key(struct top_view *v, int key)
{
    size_t size = strlen(v->filter);
    if (key == '\r' || key == '\n') {
        v->typing = false;
    } else if (key == 0x1b) {
        v->typing = false;
        v->filter[0] = '\0';
    } else if (key == 0x7f || key == '\b') {
        v->filter[size > 0 ? size - 1 : 0] = '\0';
    } else if (key < 0x7f && isprint(key) && size + 1 < sizeof v->filter) {
        v->filter[size] = (char)key;
        v->filter[size + 1] = '\0';
    }
    v->scroll = 0;
    return true;
}

static void scroll_by(struct top_view *v, long lines)
{
    size_t up = lines < 0 ? (size_t)-lines : 0;
    v->scroll = lines < 0 ? (v->scroll > up ? v->scroll - up : 0) : v->scroll + (size_t)lines;
}

bool top_key(struct top_view *v, int key)
{
    long page = v->rows > 8 ? (long)v->rows - 8 : 1;
    if (v->typing) {
        return type_key(v, key);
    }
    switch (key) {
    case 'q':
    case 3: /* ^C */
        return false;
    case '\t':
        v->pane = (enum top_pane)((v->pane + 1) % TOP_PANES);
        v->scroll = 0;
        break;
    case 's':
        v->sort = (enum top_sort)((v->sort + 1) % TOP_SORTS);
        break;
    case '/':
        v->typing = true;
        break;
    case 'k':
    case TOP_KEY_UP:
        scroll_by(v, -1);
        break;
    case 'j':
    case TOP_KEY_DOWN:
        scroll_by(v, 1);
        break;
    case TOP_KEY_PAGE_UP:
        scroll_by(v, -page);
        break;
    case ' ':
    case TOP_KEY_PAGE_DOWN:
        scroll_by(v, page);
        break;
    case 'g':
    case TOP_KEY_HOME:
        v->scroll = 0;
        break;
    case 'G':
    case TOP_KEY_END:
        v->scroll = SIZE_MAX / 2;
        break;
    default:
        break;
    }
    return true;
}
