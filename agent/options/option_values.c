/* Values of options: their kinds, their precedence, their defaults, and which exclude each other.
 * See options.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/options/options_internal.h"
#include "base/assert.h"

void options_init(struct options *o, const struct option_def *defs, size_t count)
{
    *o = (struct options){.defs = defs, .count = count, .arena = arena_new()};
    o->values = xcalloc(count, sizeof *o->values);
}

void options_deinit(struct options *o)
{
    for (size_t id = 0; id < o->count; id++) {
        free(o->values[id].items);
    }
    free(o->values);
    free(o->arguments);
    if (o->arena != NULL) {
        arena_free(o->arena);
    }
    *o = (struct options){0};
}

size_t options_find(const struct options *o, const char *name, size_t size)
{
    for (size_t id = 0; id < o->count; id++) {
        const char *known = o->defs[id].name;
        if (known != NULL && strlen(known) == size && memcmp(known, name, size) == 0) {
            return id;
        }
    }
    return SIZE_MAX;
}

bool options_given(const struct options *o, size_t id)
{
    ASSERT(id < o->count);
    return o->values[id].source > OPTION_DEFAULT;
}

bool options_on(const struct options *o, size_t id)
{
    ASSERT(id < o->count && o->defs[id].kind == OPTION_FLAG);
    return o->values[id].number != 0;
}

bool options__outranked(const struct options *o, size_t id, enum option_source source)
{
    ASSERT(id < o->count);
    return o->values[id].source > source;
}

/* ---- Kinds ----------------------------------------------------------------------------------- */

static bool parse_digits(const char **text, uint64_t *ret)
{
    if (**text < '0' || **text > '9') {
        return false;
    }
    char *end = NULL;
    errno = 0;
    *ret = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

bool options_parse_number(const char *text, uint64_t *ret)
{
    return parse_digits(&text, ret) && *text == '\0';
}

bool options_parse_duration(const char *text, uint64_t max_ms, uint64_t *ret_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"", 1000}, {"s", 1000}, {"ms", 1}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    uint64_t n = 0;
    if (!parse_digits(&text, &n)) {
        return false;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text, units[i].unit) == 0 && n <= max_ms / units[i].ms) {
            *ret_ms = n * units[i].ms;
            return true;
        }
    }
    return false;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t size = strcspn(text, "|");
    if (size == 0 || text[size] != '\0') {
        return false;
    }
    for (const char *at = choices; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, text, size) == 0 && (at[size] == '|' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

static enum thole_code refuse(const struct option_def *d, const char *origin, const char *text,
                              struct thole_status *st)
{
    switch (d->kind) {
    case OPTION_FLAG:
        return OPTIONS_REFUSE(st, "%s \"%.64s\": must be true or false", origin, text);
    case OPTION_NUMBER:
        if (d->max != 0) {
            return OPTIONS_REFUSE(st, "%s \"%.64s\": must be a number from %" PRIu64 " to %" PRIu64,
                                  origin, text, d->min, d->max);
        }
        return OPTIONS_REFUSE(st, "%s \"%.64s\": must be a number", origin, text);
    case OPTION_DURATION:
        return OPTIONS_REFUSE(st, "%s \"%.64s\": must be a time such as 500ms, 10s, 5m", origin,
                              text);
    case OPTION_CHOICE:
        return OPTIONS_REFUSE(st, "%s \"%.64s\": must be one of %s", origin, text, d->value);
    case OPTION_TEXT:
    case OPTION_LIST:
        break;
    }
    return OPTIONS_REFUSE(st, "%s \"%.64s\": must be %s", origin, text, d->value);
}

static bool parse(const struct option_def *d, const char *text, uint64_t *ret)
{
    switch (d->kind) {
    case OPTION_FLAG:
        *ret = is_choice("true|yes|1", text);
        return *ret != 0 || is_choice("false|no|0", text);
    case OPTION_NUMBER:
        return options_parse_number(text, ret) && *ret >= d->min && (d->max == 0 || *ret <= d->max);
    case OPTION_DURATION:
        return options_parse_duration(text, d->max != 0 ? d->max : UINT32_MAX, ret);
    case OPTION_CHOICE:
        return is_choice(d->value, text);
    case OPTION_TEXT:
    case OPTION_LIST:
        break;
    }
    return true;
}

static enum thole_code check(const struct option_def *d, const char *origin, const char *text,
                             struct thole_status *st)
{
    return d->check != NULL ? d->check(origin, text, st) : THOLE_OK;
}

/* The parts between commas, each an item. */
static enum thole_code add_items(struct options *o, size_t id, const char *origin, char *text,
                                 struct thole_status *st)
{
    struct option_value *v = &o->values[id];
    char *save = NULL;
    for (char *item = strtok_r(text, ",", &save); item != NULL; item = strtok_r(NULL, ",", &save)) {
        if (check(&o->defs[id], origin, item, st) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
        if (v->item_count == OPTIONS_ITEMS_MAX) {
            return OPTIONS_REFUSE(st, "%s \"%.64s\": more than %d are given", origin, item,
                                  OPTIONS_ITEMS_MAX);
        }
        v->items = xrealloc(v->items, (v->item_count + 1) * sizeof *v->items);
        v->items[v->item_count++] = item;
    }
    return THOLE_OK;
}

enum thole_code options__set(struct options *o, size_t id, enum option_source source,
                             const char *origin, const char *text, struct thole_status *st)
{
    ASSERT(id < o->count && !options__outranked(o, id, source));
    const struct option_def *d = &o->defs[id];
    struct option_value *v = &o->values[id];
    uint64_t number = 0;
    if (!parse(d, text, &number)) {
        return refuse(d, origin, text, st);
    }
    char *copy = arena_strdup(o->arena, text);
    enum thole_code code =
        d->kind == OPTION_LIST ? add_items(o, id, origin, copy, st) : check(d, origin, text, st);
    if (code == THOLE_OK) {
        v->source = source;
        v->origin = arena_strdup(o->arena, origin);
        v->text = copy;
        v->number = number;
    }
    return code;
}

/* ---- Environment, defaults, conflicts -------------------------------------------------------- */

enum thole_code options_read_environment(struct options *o, struct thole_status *st)
{
    for (size_t id = 0; id < o->count; id++) {
        const char *variable = o->defs[id].environment;
        const char *text = variable != NULL ? getenv(variable) : NULL;
        if (text == NULL || text[0] == '\0' || options__outranked(o, id, OPTION_ENVIRONMENT)) {
            continue;
        }
        if (options__set(o, id, OPTION_ENVIRONMENT, variable, text, st) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
    }
    return THOLE_OK;
}

/* A flag that is false is as good as not given. */
static bool is_on(const struct options *o, size_t id)
{
    return options_given(o, id) && (o->defs[id].kind != OPTION_FLAG || o->values[id].number != 0);
}

static enum thole_code check_exclusive(const struct options *o, struct thole_status *st)
{
    for (size_t a = 0; a < o->count; a++) {
        for (size_t b = a + 1; b < o->count; b++) {
            if (o->defs[a].exclusive != 0 && o->defs[a].exclusive == o->defs[b].exclusive &&
                is_on(o, a) && is_on(o, b)) {
                return OPTIONS_REFUSE(st, "%s and %s exclude each other; give only one of them",
                                      o->values[a].origin, o->values[b].origin);
            }
        }
    }
    return THOLE_OK;
}

enum thole_code options_complete(struct options *o, struct thole_status *st)
{
    for (size_t id = 0; id < o->count; id++) {
        const char *text = o->defs[id].standard;
        if (o->values[id].source == OPTION_UNSET && text != NULL &&
            options__set(o, id, OPTION_DEFAULT, "the default", text, st) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
    }
    return check_exclusive(o, st);
}
