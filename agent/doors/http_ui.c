/* The pages of /ui/: files of the folder ui/, embedded. They are the same for everybody and ask for
 * nothing but this host's calls in JSON, which judge who asks.
 *
 * The policy of the pages lets a browser load nothing from elsewhere, run no script but theirs, and
 * show them in no frame of another page, which could make somebody click in them. */
#include <string.h>

#include "agent/doors/http_internal.h"
#include "agent/doors/ui_pages.h"

#define POLICY                                                                      \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " \
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

static const struct page {
    const char *url, *type;
    const unsigned char *data;
    const size_t *size;
} pages[] = {
    {"/ui/", "text/html; charset=utf-8", ui_page_index_html, &ui_page_index_html_size},
    {"/ui/ui.css", "text/css; charset=utf-8", ui_page_ui_css, &ui_page_ui_css_size},
    {"/ui/ui.js", "text/javascript; charset=utf-8", ui_page_ui_js, &ui_page_ui_js_size},
    {"/ui/ui_model.js", "text/javascript; charset=utf-8", ui_page_ui_model_js,
     &ui_page_ui_model_js_size},
};

static enum MHD_Result redirect(struct MHD_Connection *c)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (r == NULL) {
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_LOCATION, "/ui/");
    enum MHD_Result result = MHD_queue_response(c, MHD_HTTP_FOUND, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result serve(struct MHD_Connection *c, const struct page *p)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(*p->size, (void *)(uintptr_t)p->data,
                                                             MHD_RESPMEM_PERSISTENT);
    if (r == NULL) {
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, p->type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(r, "Content-Security-Policy", POLICY);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    enum MHD_Result result = MHD_queue_response(c, MHD_HTTP_OK, r);
    MHD_destroy_response(r);
    return result;
}

enum MHD_Result http__ui(struct MHD_Connection *c, const char *url)
{
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        if (strcmp(url, pages[i].url) == 0) {
            return serve(c, &pages[i]);
        }
    }
    if (strcmp(url, "/") == 0 || strcmp(url, "/ui") == 0) {
        return redirect(c);
    }
    return http__reply(c, MHD_HTTP_NOT_FOUND, "text/plain; charset=utf-8",
                       slice_str("there is no such page; /ui/ is the first one\n"));
}
