#include "integration/test/scrape.h"

#include <ctype.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define FAMILIES_MAX 512
#define SERIES_MAX 8192
#define NAME_BYTES 128

const char *http_get(const struct host *h, const char *path)
{
    static char answer[1024 * 1024];
    char request[256];
    size_t size = 0;
    ssize_t got;
    int fd = host_dial(h, HTTP_PORT);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    assert_int_equal(send(fd, request, (size_t)n, MSG_NOSIGNAL), n);
    while ((got = recv(fd, answer + size, sizeof answer - 1 - size, 0)) > 0) {
        size += (size_t)got;
    }
    answer[size] = '\0';
    close(fd);
    return answer;
}

const char *scrape(const struct host *h)
{
    const char *answer = http_get(h, "/metrics");
    const char *body = strstr(answer, "\r\n\r\n");
    if (strncmp(answer, "HTTP/1.1 200 OK", 15) != 0 || body == NULL) {
        fail_msg("GET /metrics: %.200s", answer);
        return "";
    }
    scrape_check(body + 4);
    return body + 4;
}

bool scrape_find(const char *text, const char *series, double *ret)
{
    size_t size = strlen(series);
    for (const char *at = text; (at = strstr(at, series)) != NULL; at++) {
        if ((at == text || at[-1] == '\n') && at[size] == ' ') {
            *ret = strtod(at + size, NULL);
            return true;
        }
    }
    return false;
}

double scrape_value(const char *text, const char *series)
{
    double value = 0;
    if (!scrape_find(text, series, &value)) {
        fail_msg("there is no series %s", series);
    }
    return value;
}

/* ---- The format ------------------------------------------------------------------------------ */

struct reader {
    char family[NAME_BYTES], type[16]; /* of the last head */
    bool has_help;
    char families[FAMILIES_MAX][NAME_BYTES];
    size_t family_count;
    char *series[SERIES_MAX];
    size_t series_count;
    double bucket_bound, bucket_count; /* the last one of this histogram */
};

static size_t name_size(const char *s)
{
    size_t n = 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '_' || s[n] == ':') {
        n++;
    }
    return isdigit((unsigned char)s[0]) ? 0 : n;
}

static void begin_family(struct reader *r, const char *line)
{
    char name[NAME_BYTES];
    bool help = strncmp(line, "# HELP ", 7) == 0;
    size_t size = name_size(line + 7);
    if ((!help && strncmp(line, "# TYPE ", 7) != 0) || size == 0 || size >= sizeof name ||
        line[7 + size] != ' ') {
        fail_msg("no head: %s", line);
    }
    snprintf(name, sizeof name, "%.*s", (int)size, line + 7);
    if (!help) {
        assert_string_equal(name, r->family); /* right after its HELP */
        assert_true(r->has_help && r->type[0] == '\0');
        snprintf(r->type, sizeof r->type, "%s", line + 7 + size + 1);
        assert_true(strcmp(r->type, "counter") == 0 || strcmp(r->type, "gauge") == 0 ||
                    strcmp(r->type, "histogram") == 0);
        return;
    }
    for (size_t i = 0; i < r->family_count; i++) {
        assert_string_not_equal(r->families[i], name);
    }
    assert_true(r->family_count < FAMILIES_MAX);
    snprintf(r->families[r->family_count++], NAME_BYTES, "%s", name);
    snprintf(r->family, sizeof r->family, "%s", name);
    r->type[0] = '\0';
    r->has_help = true;
    r->bucket_bound = -INFINITY;
    r->bucket_count = 0;
}

/* `{key="value",...}` at `s`; returns its end. */
static const char *skip_labels(const char *s, const char *line)
{
    for (s++; *s != '}'; s += *s == ',') {
        size_t size = name_size(s);
        if (size == 0 || s[size] != '=' || s[size + 1] != '"') {
            fail_msg("no label: %s", line);
        }
        for (s += size + 2; *s != '"'; s++) {
            assert_true(*s != '\0' && (unsigned char)*s >= ' ');
            s += *s == '\\';
        }
        s++;
        if (*s != ',' && *s != '}') {
            fail_msg("no end of the labels: %s", line);
        }
    }
    return s + 1;
}

static void check_bucket(struct reader *r, const char *line, double count)
{
    const char *le = strstr(line, "le=\"");
    assert_non_null(le);
    double bound = strtod(le + 4, NULL);
    if (bound <= r->bucket_bound || count < r->bucket_count) {
        fail_msg("buckets do not ascend: %s", line);
    }
    r->bucket_bound = bound;
    r->bucket_count = count;
}

static void check_sample(struct reader *r, const char *line)
{
    size_t size = name_size(line), family = strlen(r->family);
    const char *at = line + size, *suffix = line + family;
    char *end;
    if (size < family || family == 0 || strncmp(line, r->family, family) != 0) {
        fail_msg("not of the family %s: %s", r->family, line);
    }
    at = *at == '{' ? skip_labels(at, line) : at;
    assert_true(*at == ' ');
    double value = strtod(at + 1, &end);
    if (end == at + 1 || *end != '\0') {
        fail_msg("no number: %s", line);
    }
    if (strcmp(r->type, "histogram") == 0) {
        if (strncmp(suffix, "_bucket{", 8) == 0) {
            check_bucket(r, line, value);
        } else if (strncmp(suffix, "_count ", 7) == 0) {
            assert_true(isinf(r->bucket_bound) && value == r->bucket_count);
        } else {
            assert_true(strncmp(suffix, "_sum ", 5) == 0);
        }
    } else {
        assert_int_equal(size, family);
        bool total = family > 6 && strcmp(r->family + family - 6, "_total") == 0;
        if (total != (strcmp(r->type, "counter") == 0) || (total && value < 0)) {
            fail_msg("counters end in _total and are not negative: %s", line);
        }
    }
    assert_true(r->series_count < SERIES_MAX);
    r->series[r->series_count++] = strndup(line, (size_t)(at - line));
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void scrape_check(const char *text)
{
    struct reader *r = calloc(1, sizeof *r);
    char *copy = strdup(text), *rest = copy, *line;
    assert_non_null(r);
    assert_non_null(copy);
    assert_true(copy[0] != '\0' && copy[strlen(copy) - 1] == '\n');
    copy[strlen(copy) - 1] = '\0';
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (line[0] == '#') {
            begin_family(r, line);
        } else {
            check_sample(r, line);
        }
    }
    qsort(r->series, r->series_count, sizeof r->series[0], compare);
    for (size_t i = 0; i + 1 < r->series_count; i++) {
        assert_string_not_equal(r->series[i], r->series[i + 1]);
    }
    for (size_t i = 0; i < r->series_count; i++) {
        free(r->series[i]);
    }
    free(copy);
    free(r);
}
