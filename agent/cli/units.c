/* Numbers, times, sizes and base64, as people write and read them. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "agent/cli/cli.h"
#include "base/clock.h"

void cli__pause_ms(uint64_t ms)
{
    const struct timespec pause = {.tv_sec = (time_t)(ms / 1000),
                                   .tv_nsec = (long)(ms % 1000 * NS_PER_MS)};

    (void)nanosleep(&pause, NULL);
}

const char *cli__age(int64_t since_ms, char *ret, size_t size)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t s = (int64_t)now.tv_sec - since_ms / 1000;
    if (since_ms <= 0) {
        snprintf(ret, size, "-");
    } else if (s < 120) {
        snprintf(ret, size, "%" PRId64 "s", s < 0 ? 0 : s);
    } else if (s < 120 * 60) {
        snprintf(ret, size, "%" PRId64 "m", s / 60);
    } else if (s < 48 * 3600) {
        snprintf(ret, size, "%" PRId64 "h", s / 3600);
    } else {
        snprintf(ret, size, "%" PRId64 "d", s / 86400);
    }
    return ret;
}

const char *cli__time(int64_t time_ms, char *ret, size_t size)
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm tm;
    char text[32];
    if (time_ms <= 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        snprintf(ret, size, "-");
    } else {
        snprintf(ret, size, "%s.%03dZ", text, (int)(time_ms % 1000));
    }
    return ret;
}

const char *cli__bytes(uint64_t bytes, char *ret, size_t size)
{
    static const char units[] = "BKMGTPE";
    size_t unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit + 1 < sizeof units - 1) {
        value /= 1024;
        unit++;
    }
    snprintf(ret, size, unit == 0 || value >= 10 ? "%.0f%c" : "%.1f%c", value, units[unit]);
    return ret;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Both alphabets, with or without padding. */
bool cli__base64_decode(const char *text, size_t size, struct bytes *out)
{
    uint32_t v = 0;
    unsigned bits = 0;
    size_t padding = 0;
    while (size > 0 && text[size - 1] == '=' && padding < 2) {
        size--;
        padding++;
    }
    if (size % 4 == 1 || (padding > 0 && (size + padding) % 4 != 0)) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char ch = text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
        const char *at = ch != '\0' ? strchr(alphabet, ch) : NULL;
        if (at == NULL) {
            return false;
        }
        v = (v << 6 | (uint32_t)(at - alphabet)) & 0xffffff;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            uint8_t byte = (uint8_t)(v >> bits);
            bytes_append(out, &byte, 1);
        }
    }
    return true;
}

void cli__base64_encode(struct slice bytes, struct bytes *out)
{
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t n = bytes.size - i < 3 ? bytes.size - i : 3;
        uint32_t v = (uint32_t)bytes.data[i] << 16;
        v |= n > 1 ? (uint32_t)bytes.data[i + 1] << 8 : 0;
        v |= n > 2 ? bytes.data[i + 2] : 0;
        for (size_t k = 0; k < 4; k++) {
            bytes_append(out, k <= n ? &alphabet[(v >> (18 - 6 * k)) & 63] : "=", 1);
        }
    }
}

upb_StringView cli__sv(const char *text)
{
    return upb_StringView_FromString(text);
}

const char *cli__strip(const char *name, const char *kind)
{
    size_t size = strlen(kind);
    if (strncmp(name, kind, size) != 0) {
        return name;
    }
    const char *rest = name + size;
    rest += *rest == 's';
    return *rest == '/' && rest[1] != '\0' ? rest + 1 : name;
}
