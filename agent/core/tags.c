/* The tags that a host is started with: "key=value", and all of them as one text, "k=v,k=v". */
#include <string.h>

#include "agent/core/agent_internal.h"
#include "agent/core/tags.h"
#include "base/text.h"

/* Both have a "=". */
static bool same_key(const char *a, const char *b)
{
    size_t n = (size_t)(strchr(a, '=') - a);
    return strncmp(a, b, n + 1) == 0;
}

const char *agent__tags_problem(struct slice tag)
{
    const uint8_t *eq = tag.size > 0 ? memchr(tag.data, '=', tag.size) : NULL;
    if (eq == NULL || memchr(tag.data, ',', tag.size) != NULL ||
        memchr(tag.data, ' ', tag.size) != NULL) {
        return "is not KEY=VALUE without spaces and commas";
    }
    size_t n = (size_t)(eq - tag.data);
    const char *problem = text_label_problem(slice_of(tag.data, n), 1);
    return problem != NULL ? problem : text_label_problem(slice_of(eq + 1, tag.size - n - 1), 0);
}

enum thole_code agent__tags_check(const char *const *tags, size_t count, struct thole_status *st)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const char *problem = agent__tags_problem(slice_str(tags[i]));
        bytes += strlen(tags[i]) + 1;
        for (size_t k = 0; k < i && problem == NULL; k++) {
            if (same_key(tags[i], tags[k])) {
                problem = "has a key that is given twice";
            }
        }
        if (problem != NULL) {
            return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_BAD_REQUEST,
                              "tag \"%.64s\": %s", tags[i], problem);
        }
    }
    if (bytes >= DATADIR_TAGS_BYTES) {
        return THOLE_FAIL(st, THOLE_INVALID_ARGUMENT, THOLE_REASON_TOO_LARGE,
                          "tags take more than %d bytes in all", DATADIR_TAGS_BYTES - 1);
    }
    return THOLE_OK;
}

void agent__tags_set(thole_v1_HostSpec *spec, const char *tags, upb_Arena *arena)
{
    size_t size = strlen(tags);
    char *copy = upb_Arena_Malloc(arena, size + 1);
    memcpy(copy, tags, size + 1);
    const char *end = copy + size;
    for (const char *p = copy; p < end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma != NULL ? comma : end;
        const char *eq = memchr(p, '=', (size_t)(stop - p));
        if (eq != NULL) {
            thole_v1_HostSpec_tags_set(
                spec, upb_StringView_FromDataAndSize(p, (size_t)(eq - p)),
                upb_StringView_FromDataAndSize(eq + 1, (size_t)(stop - eq - 1)), arena);
        }
        p = stop + 1;
    }
}
