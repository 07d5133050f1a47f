/* The pages of /ui/ as a browser gets them: with a policy, nothing from elsewhere, and only calls
 * that exist. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "integration/test/pki.h"
#include "integration/test/scrape.h"

static const char *body_of(const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");
    assert_non_null(body);
    return body + 4;
}

/* The page, malloced, after its head was checked. */
static char *get_page(const struct host *h, const char *path, const char *type)
{
    const char *answer = http_get(h, path);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "Content-Type: %s", type);
    assert_memory_equal(answer, "HTTP/1.1 200 OK", 15);
    assert_non_null(strstr(answer, wanted));
    assert_non_null(
        strstr(answer, "Content-Security-Policy: default-src 'none'; script-src 'self'; "));
    assert_non_null(strstr(answer, "frame-ancestors 'none'"));
    assert_non_null(strstr(answer, "X-Content-Type-Options: nosniff"));
    assert_null(strstr(answer, "unsafe"));
    return xstrdup(body_of(answer));
}

/* What the policy would stop, so that the page lacked it. */
static void check_source(const char *text)
{
    static const char *const never[] = {"http://",  "https://",   "innerHTML", "eval(",
                                        "style=\"", "onclick=\"", "<style",    "document.write"};
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        if (strstr(text, never[i]) != NULL) {
            fail_msg("a page has %s", never[i]);
        }
    }
}

static void test_pages_load_from_this_host_only(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    const struct host *h = &c->hosts[0];
    c->http = true;
    cluster_start_dev(c);
    assert_non_null(strstr(http_get(h, "/"), "Location: /ui/\r\n"));
    assert_non_null(strstr(http_get(h, "/ui"), "Location: /ui/\r\n"));
    assert_memory_equal(http_get(h, "/ui/../metrics"), "HTTP/1.1 404", 12);
    assert_memory_equal(http_get(h, "/uix"), "HTTP/1.1 404", 12);
    char *index = get_page(h, "/ui/", "text/html; charset=utf-8\r\n");
    check_source(index);
    int files = 0;
    for (const char *at = index; (at = strpbrk(at, "<")) != NULL; at++) {
        char name[64], path[80];
        const char *type = NULL;
        if (sscanf(at, "<script src=\"%63[^\"]\"", name) == 1) {
            type = "text/javascript";
        } else if (sscanf(at, "<link rel=\"stylesheet\" href=\"%63[^\"]\"", name) == 1) {
            type = "text/css";
        }
        if (type != NULL) {
            snprintf(path, sizeof path, "/ui/%s", name);
            char *text = get_page(h, path, type);
            check_source(text);
            free(text);
            files++;
        }
    }
    assert_int_equal(files, 3);
    free(index);
    cluster_free(c);
}

/* Every "Service/Call" of the scripts. */
static void test_calls_of_the_scripts_exist(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    const struct host *h = &c->hosts[0];
    int calls = 0;
    c->http = true;
    cluster_start_dev(c);
    static const char *const scripts[] = {"/ui/ui.js", "/ui/ui_model.js"};
    for (size_t i = 0; i < 2; i++) {
        char *text = get_page(h, scripts[i], "text/javascript");
        for (const char *at = text; (at = strstr(at, "api.")) != NULL; at++) {
            char call[64];
            if (sscanf(at, "api.call(\"%63[A-Za-z/]\"", call) != 1 &&
                sscanf(at, "api.stream(\"%63[A-Za-z/]\"", call) != 1) {
                continue;
            }
            calls++;
            shell("curl -s -m 1 -d '{}' http://%s:%d/v1/%s > %s/answer; test -s %s/answer && "
                  "! grep -qE 'no such call|UNIMPLEMENTED' %s/answer",
                  h->ip, HTTP_PORT, call, c->dir, c->dir, c->dir);
        }
        free(text);
    }
    assert_true(calls >= 5);
    cluster_free(c);
}

/* Pages are for everybody; what they show is not. */
static void test_under_tls_rows_need_a_token(void **state)
{
    (void)state;
    struct cluster *c = cluster_new();
    c->http = true;
    pki_make(c, 1);
    cluster_start_dev(c);
    char url[64];
    snprintf(url, sizeof url, "https://%s:%d", c->hosts[0].ip, HTTP_PORT);
    const char *token = pki_token(c, "admin", "1h");
    shell("curl -sf --cacert %s/ca.crt %s/ui/ | grep -q '<title>Thole'", pki, url);
    shell("test $(curl -s -o /dev/null -w '%%{http_code}' --cacert %s/ca.crt -d '{}' "
          "%s/v1/Hosts/ListHosts) = 401",
          pki, url);
    shell("curl -sf --cacert %s/ca.crt -H 'Authorization: Bearer %s' -H 'Origin: %s' -d '{}' "
          "%s/v1/Hosts/ListHosts | grep -q '\"name\":\"h1\"'",
          pki, token, url, url);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_load_from_this_host_only),
        cmocka_unit_test(test_calls_of_the_scripts_exist),
        cmocka_unit_test(test_under_tls_rows_need_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
