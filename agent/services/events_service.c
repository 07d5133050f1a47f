/* thole.v1.Events. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/services/services_internal.h"

/* Is the event about this object, or about an object below it? An empty object matches every event.
 * */
bool services__events_is_about(const thole_v1_Event *event, upb_StringView object)
{
    upb_StringView is = thole_v1_Event_object(event);
    if (object.size == 0) {
        return true;
    }
    return is.size >= object.size && memcmp(is.data, object.data, object.size) == 0 &&
           (is.size == object.size || is.data[object.size] == '/');
}

bool services__events_all_kept(const struct registry_view *v, uint64_t after,
                               struct thole_status *st, char ret_oldest[static EVENTS_OLDEST_BYTES])
{
    uint64_t oldest = registry_oldest_event(v);
    if (after == 0 || after >= oldest) {
        return true;
    }
    snprintf(ret_oldest, EVENTS_OLDEST_BYTES, "%" PRIu64, oldest);
    (void)THOLE_FAIL(st, THOLE_OUT_OF_RANGE, THOLE_REASON_COMPACTED,
                     "some events after revision %" PRIu64
                     " were dropped: the oldest kept event has revision %" PRIu64,
                     after, oldest);
    return false;
}

/* A key is (revision, how many events of this revision were seen). */
static void list_run(struct call *c)
{
    struct registry_event_buf event_buf;
    const thole_v1_ListEventsRequest *q = c->request;
    struct page p;
    struct bytes key = {0};
    if (!services__page_begin(&p, c, PAGE_EVENTS, thole_v1_ListEventsRequest_page_size(q),
                              thole_v1_ListEventsRequest_page_token(q), &key)) {
        bytes_deinit(&key);
        return;
    }
    uint64_t at = thole_v1_ListEventsRequest_after_revision(q);
    uint64_t seen = 0, skip = 0;
    uint64_t after = at;
    if (key.size == 16) {
        at = get_be64(key.data);
        skip = get_be64(key.data + 8);
        after = at - 1; /* events of revision `at` from the start, less the first `skip` */
    }
    bytes_deinit(&key);
    uint64_t newest = registry_view_revision(c->view);
    if (at > newest && !thole_v1_ListEventsRequest_stale(q)) {
        struct thole_status future;
        (void)THOLE_FAIL(&future, THOLE_OUT_OF_RANGE, THOLE_REASON_BAD_REQUEST,
                         "after_revision: revision %" PRIu64
                         " does not exist yet: the newest is %" PRIu64,
                         at, newest);
        services__call_about(c, "field", upb_StringView_FromString("after_revision"));
        services__call_fail(c, &future);
        return;
    }
    char oldest[EVENTS_OLDEST_BYTES];
    struct thole_status st;
    if (!services__events_all_kept(c->view, at, &st, oldest)) {
        services__call_about(c, EVENTS_OLDEST, upb_StringView_FromString(oldest));
        services__call_fail(c, &st);
        return;
    }
    uint64_t it = 0;
    const thole_v1_Event *event = NULL;
    while ((event = registry_next_event(c->view, after, &it, &event_buf)) != NULL) {
        uint64_t revision = thole_v1_Event_revision(event);
        if (revision != at) {
            at = revision;
            seen = skip = 0;
        }
        if (seen >= skip &&
            services__events_is_about(event, thole_v1_ListEventsRequest_object(q)) &&
            !services__page_add(&p, c, event, &thole_v1_Event_msginit)) {
            break;
        }
        seen++;
    }
    uint8_t last_key[16];
    put_be64(last_key, at);
    put_be64(last_key + 8, seen);
    struct slice token = slice_of(last_key, sizeof last_key);
    services__page_reply(&p, c, PAGE_EVENTS, event != NULL ? &token : NULL);
}

void services__events_list(struct call *c)
{
    const thole_v1_ListEventsRequest *q = c->request;
    services__call_read(c, thole_v1_ListEventsRequest_stale(q), list_run);
}
