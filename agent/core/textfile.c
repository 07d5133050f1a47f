/* Small durable text files. See textfile.h. */
#include "agent/core/textfile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"

enum thole_code textfile_write(const char *path, const char *kind, uint32_t format,
                               struct bytes *lines, struct thole_status *st)
{
    struct bytes out = {0};
    bytes_printf(&out, "%s %" PRIu32 "\n", kind, format);
    bytes_append_slice(&out, bytes_slice(lines));
    bytes_printf(&out, "sum %016" PRIx64 "\n", hash64(out.data, out.size, 0));
    bytes_deinit(lines);
    enum thole_code code = file_write_atomic(path, bytes_slice(&out), st);
    bytes_deinit(&out);
    return code;
}

/* The header is checked before the checksum, so that a newer format is called that. */
static enum thole_code check(const char *path, const char *kind, uint32_t format, const char *text,
                             size_t size, size_t *ret_end, struct thole_status *st)
{
    uint32_t found = 0;
    size_t n = strlen(kind);
    if (strncmp(text, kind, n) != 0 || text[n] != ' ' ||
        sscanf(text + n, " %" SCNu32, &found) != 1 || found == 0) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s was not written by Thole", path);
    }
    if (found > format) {
        return THOLE_FAIL(st, THOLE_FAILED_PRECONDITION, THOLE_REASON_FORMAT,
                          "%s has format %" PRIu32
                          " of a newer version; this version knows %" PRIu32,
                          path, found, format);
    }
    const char *sum = NULL;
    for (const char *p = text; (p = strstr(p, "\nsum ")) != NULL; p++) {
        sum = p + 1;
    }
    uint64_t want = 0;
    if (sum == NULL || sscanf(sum, "sum %" SCNx64, &want) != 1 ||
        strchr(sum, '\n') != text + size - 1 || hash64(text, (size_t)(sum - text), 0) != want) {
        return THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT, "%s is damaged", path);
    }
    *ret_end = (size_t)(sum - text);
    return THOLE_OK;
}

enum thole_code textfile_read(const char *path, const char *kind, uint32_t format,
                              bool (*line)(void *ctx, const char *key, char *value), void *ctx,
                              struct thole_status *st)
{
    struct buf *b = NULL;
    enum thole_code code = file_read(path, TEXTFILE_BYTES_MAX, &b, st);
    if (code != THOLE_OK) {
        return code;
    }
    char *text = xstrndup((const char *)b->data, b->size);
    size_t size = strlen(text), end = 0;
    buf_unref(b);
    code = check(path, kind, format, text, size, &end, st);
    if (code == THOLE_OK) {
        text[end] = 0;
        char *save = NULL;
        strtok_r(text, "\n", &save); /* the header */
        for (char *l; code == THOLE_OK && (l = strtok_r(NULL, "\n", &save)) != NULL;) {
            char *space = strchr(l, ' ');
            if (space != NULL) {
                *space = 0;
            }
            if (space == NULL || !line(ctx, l, space + 1)) {
                code = THOLE_FAIL(st, THOLE_DATA_LOSS, THOLE_REASON_CORRUPT,
                                  "%s: bad line \"%.40s\"", path, l);
            }
        }
    }
    free(text);
    return code;
}
