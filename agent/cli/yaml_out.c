/* YAML from JSON: the same names and values, in blocks, with quotes only where they are needed. */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "agent/cli/cli.h"

/* Would a YAML reader take this plain scalar for something other than a string? */
static bool needs_quotes(const char *text, size_t size)
{
    static const char *const words[] = {"",  "~",  "null",  "Null",  "NULL", "true", "True", "TRUE",
                                        "y", "Y",  "yes",   "Yes",   "YES",  "on",   "On",   "ON",
                                        "n", "N",  "no",    "No",    "NO",   "off",  "Off",  "OFF",
                                        "=", "<<", "false", "False", "FALSE"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strlen(words[i]) == size && memcmp(words[i], text, size) == 0) {
            return true;
        }
    }
    /* A number, a date, or anything else that begins like one. */
    const char *first = strchr("+-.0123456789", text[0]);
    if (first == NULL || size > 64) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (strchr("+-.0123456789eExXabcdefABCDEFo_:TZ ", text[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static int append(void *data, unsigned char *buffer, size_t size)
{
    bytes_append(data, buffer, size);
    return 1;
}

/* Converts each event of the JSON to the event of the block form. */
static bool emit_event(yaml_emitter_t *emitter, yaml_event_t *in)
{
    yaml_event_t out;
    int ok = 1;
    switch (in->type) {
    case YAML_MAPPING_START_EVENT:
        ok = yaml_mapping_start_event_initialize(&out, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE);
        break;
    case YAML_SEQUENCE_START_EVENT:
        ok = yaml_sequence_start_event_initialize(&out, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE);
        break;
    case YAML_SCALAR_EVENT: {
        const char *text = (const char *)in->data.scalar.value;
        size_t size = in->data.scalar.length;
        bool plain = in->data.scalar.style == YAML_PLAIN_SCALAR_STYLE || !needs_quotes(text, size);
        ok = yaml_scalar_event_initialize(
            &out, NULL, NULL, in->data.scalar.value, (int)size, plain, 1,
            plain ? YAML_ANY_SCALAR_STYLE : YAML_DOUBLE_QUOTED_SCALAR_STYLE);
        break;
    }
    case YAML_DOCUMENT_START_EVENT:
        ok = yaml_document_start_event_initialize(&out, NULL, NULL, NULL, 1);
        break;
    case YAML_DOCUMENT_END_EVENT:
        ok = yaml_document_end_event_initialize(&out, 1);
        break;
    case YAML_NO_EVENT:
    case YAML_ALIAS_EVENT:
        return false;
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        out = *in; /* the event borrows everything */
        break;
    }
    return ok && yaml_emitter_emit(emitter, &out);
}

bool cli__yaml(const char *kind, struct slice json, struct bytes *out)
{
    yaml_parser_t parser;
    yaml_emitter_t emitter;
    if (!yaml_parser_initialize(&parser) || !yaml_emitter_initialize(&emitter)) {
        abort(); /* out of memory */
    }
    if (kind != NULL) {
        bytes_printf(out, "kind: %s\n", kind);
    }
    yaml_parser_set_input_string(&parser, json.data, json.size);
    yaml_emitter_set_output(&emitter, append, out);
    yaml_emitter_set_unicode(&emitter, 1);
    yaml_emitter_set_width(&emitter, -1);
    bool ok = true, end = false;
    while (ok && !end) {
        yaml_event_t event;
        ok = yaml_parser_parse(&parser, &event);
        if (ok) {
            end = event.type == YAML_STREAM_END_EVENT;
            ok = emit_event(&emitter, &event);
            yaml_event_delete(&event);
        }
    }
    yaml_emitter_delete(&emitter);
    yaml_parser_delete(&parser);
    return ok;
}
