/* The configuration file: one YAML mapping from the names of options to their values. A list may
 * be a sequence, or a mapping (tag: {zone: a}). See options.h.
 *
 * The file is read event by event and nothing is nested deeper than a list, so that neither depth
 * nor anchors, in which libyaml's documents cost quadratic time, can be used against the reader. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "agent/options/options_internal.h"

struct file_reader {
    struct options *o;
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    bool has_event;
    size_t *lines; /* by option id: where its key stands; 0: nowhere yet */
    struct thole_status *st;
};

static size_t line_of(const struct file_reader *r)
{
    return r->event.start_mark.line + 1;
}

static enum thole_code refuse_event(struct file_reader *r, const char *what)
{
    return OPTIONS_REFUSE(r->st, "%.120s:%zu: %s", r->path, line_of(r), what);
}

static enum thole_code next_event(struct file_reader *r)
{
    if (r->has_event) {
        yaml_event_delete(&r->event);
    }
    r->has_event = yaml_parser_parse(&r->parser, &r->event) != 0;
    if (!r->has_event) {
        return OPTIONS_REFUSE(r->st, "%.120s:%zu: is not YAML: %s", r->path,
                              r->parser.problem_mark.line + 1,
                              r->parser.problem != NULL ? r->parser.problem : "cannot be read");
    }
    return r->event.type == YAML_ALIAS_EVENT ? refuse_event(r, "aliases are not supported")
                                             : THOLE_OK;
}

/* The current event's text; NULL if it is no scalar, or a plain null, which is no text. */
static const char *scalar(const struct file_reader *r)
{
    static const char *const nothing[] = {"", "~", "null", "Null", "NULL"};
    if (r->event.type != YAML_SCALAR_EVENT) {
        return NULL;
    }
    const char *text = (const char *)r->event.data.scalar.value;
    bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        if (plain && strcmp(text, nothing[i]) == 0) {
            return NULL;
        }
    }
    return strlen(text) == r->event.data.scalar.length ? text : NULL;
}

static enum thole_code set(struct file_reader *r, size_t id, const char *text)
{
    char origin[200];
    if (options__outranked(r->o, id, OPTION_FILE)) {
        return THOLE_OK;
    }
    snprintf(origin, sizeof origin, "%.120s:%zu: %s", r->path, line_of(r), r->o->defs[id].name);
    return options__set(r->o, id, OPTION_FILE, origin, text, r->st);
}

/* The items of a list, from behind its beginning to its end. */
static enum thole_code read_items(struct file_reader *r, size_t id, bool pairs)
{
    yaml_event_type_t end = pairs ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    for (;;) {
        if (next_event(r) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
        if (r->event.type == end) {
            return THOLE_OK;
        }
        const char *text = scalar(r);
        if (text == NULL) {
            return refuse_event(r, "expected a value; text is put in quotes");
        }
        char *item = xstrdup(text);
        enum thole_code code = THOLE_OK;
        if (pairs) {
            code = next_event(r);
            const char *value = code == THOLE_OK ? scalar(r) : NULL;
            if (code == THOLE_OK && value == NULL) {
                code = refuse_event(r, "expected a value; text is put in quotes");
            } else if (code == THOLE_OK) {
                char *pair = xasprintf("%s=%s", item, value);
                free(item);
                item = pair;
            }
        }
        if (code == THOLE_OK) {
            code = set(r, id, item);
        }
        free(item);
        if (code != THOLE_OK) {
            return code;
        }
    }
}

static enum thole_code read_value(struct file_reader *r, size_t id)
{
    const struct option_def *d = &r->o->defs[id];
    const char *text = scalar(r);
    if (text != NULL) {
        return set(r, id, text);
    }
    bool pairs = r->event.type == YAML_MAPPING_START_EVENT;
    if (d->kind == OPTION_LIST && (pairs || r->event.type == YAML_SEQUENCE_START_EVENT)) {
        return read_items(r, id, pairs);
    }
    return OPTIONS_REFUSE(r->st, "%.120s:%zu: %s: expected %s: %s", r->path, line_of(r), d->name,
                          d->kind == OPTION_LIST ? "a list of values" : "one value",
                          d->value != NULL ? d->value : "true or false");
}

static enum thole_code read_key(struct file_reader *r, size_t *ret_id)
{
    const char *name = scalar(r);
    if (name == NULL) {
        return refuse_event(r, "expected \"name: value\"");
    }
    size_t id = options_find(r->o, name, strlen(name));
    if (id == SIZE_MAX || !r->o->defs[id].in_file) {
        return OPTIONS_REFUSE(r->st, "%.120s:%zu: there is no setting \"%.64s\"", r->path,
                              line_of(r), name);
    }
    if (r->lines[id] != 0) {
        return OPTIONS_REFUSE(r->st, "%.120s:%zu: %s is set twice, first at line %zu", r->path,
                              line_of(r), name, r->lines[id]);
    }
    r->lines[id] = line_of(r);
    *ret_id = id;
    return THOLE_OK;
}

static enum thole_code read_mapping(struct file_reader *r)
{
    for (;;) {
        size_t id = 0;
        enum thole_code code = next_event(r);
        if (code != THOLE_OK || r->event.type == YAML_MAPPING_END_EVENT) {
            return code;
        }
        if (read_key(r, &id) != THOLE_OK || next_event(r) != THOLE_OK ||
            read_value(r, id) != THOLE_OK) {
            return THOLE_INVALID_ARGUMENT;
        }
    }
}

/* One document at most; without content it sets nothing. */
static enum thole_code read_stream(struct file_reader *r)
{
    enum thole_code code = next_event(r); /* the stream's start */
    for (unsigned documents = 0; code == THOLE_OK;) {
        code = next_event(r);
        if (code != THOLE_OK || r->event.type == YAML_STREAM_END_EVENT) {
            break;
        }
        if (r->event.type == YAML_DOCUMENT_START_EVENT) {
            if (++documents > 1) {
                return refuse_event(r, "has a second document; one mapping is expected");
            }
        } else if (r->event.type == YAML_MAPPING_START_EVENT) {
            code = read_mapping(r);
        } else if (r->event.type != YAML_DOCUMENT_END_EVENT &&
                   (r->event.type != YAML_SCALAR_EVENT || scalar(r) != NULL)) {
            return refuse_event(r, "expected lines such as \"name: value\"");
        }
    }
    return code;
}

enum thole_code options_read_yaml(struct options *o, const char *path, struct slice text,
                                  struct thole_status *st)
{
    struct file_reader r = {.o = o, .path = path, .st = st};
    if (text.size > OPTIONS_FILE_BYTES_MAX) {
        return OPTIONS_REFUSE(st, "%.120s: has more than %d bytes", path, OPTIONS_FILE_BYTES_MAX);
    }
    if (!yaml_parser_initialize(&r.parser)) {
        abort(); /* out of memory */
    }
    yaml_parser_set_input_string(&r.parser, text.data, text.size);
    r.lines = xcalloc(o->count, sizeof *r.lines);
    enum thole_code code = read_stream(&r);
    if (r.has_event) {
        yaml_event_delete(&r.event);
    }
    yaml_parser_delete(&r.parser);
    free(r.lines);
    return code;
}

/* Any kind of file, such as the pipe of a shell's <(...). One byte too much is read at most. */
enum thole_code options_read_file(struct options *o, const char *path, struct thole_status *st)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        bool absent = errno == ENOENT || errno == ENOTDIR || errno == EACCES;
        return THOLE_FAIL(st, absent ? THOLE_NOT_FOUND : THOLE_INVALID_ARGUMENT,
                          THOLE_REASON_BAD_REQUEST, "cannot read %.120s: %s", path,
                          strerror(errno));
    }
    char *text = xmalloc(OPTIONS_FILE_BYTES_MAX + 1);
    errno = 0;
    size_t size = fread(text, 1, OPTIONS_FILE_BYTES_MAX + 1, file);
    enum thole_code code;
    if (ferror(file)) {
        code = OPTIONS_REFUSE(st, "cannot read %.120s: %s", path, strerror(errno));
    } else {
        code = options_read_yaml(o, path, slice_of(text, size), st);
    }
    fclose(file);
    free(text);
    return code;
}
