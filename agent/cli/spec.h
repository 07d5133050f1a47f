/* Specs: YAML or JSON documents, read into thole.v1 messages.
 *
 * A document is {kind, name, spec[, etag]}. Fields that the server fills in (status, id, ...) are
 * ignored, so that the output of `thole get -o yaml` can be applied again. Field names come from
 * the messages' descriptors, so a new field of the API needs no change here. */
#ifndef AGENT_CLI_SPEC_H
#define AGENT_CLI_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <upb/reflection.h>
#include <yaml.h>

#include "base/buf.h"

#define SPEC_BYTES_MAX (4 << 20)    /* of one file */
#define SPEC_NODES_MAX (100 * 1000) /* visited in one document: aliases can repeat them */
#define SPEC_DEPTH_MAX 32
#define SPEC_ANCHORS_MAX 1000 /* in one file */

enum spec_kind { SPEC_SHARD, SPEC_HOST, SPEC_POOL, SPEC_ROLE };

struct spec {
    const char *source; /* FILE, for messages */
    size_t line;
    enum spec_kind kind;
    upb_Message
        *row; /* a thole.v1.Shard, Host, ShardPool or Role with name, spec and perhaps etag */
};

struct spec_list {
    struct spec *items; /* xmalloced */
    size_t count;
};

struct spec_error {
    char text[400]; /* "FILE:LINE: what" */
};

struct spec_reader {
    upb_DefPool *pool;
    upb_Arena *arena; /* keeps the rows and the source's name */
    const char *source;
    yaml_document_t *doc;
    size_t nodes; /* visited */
    struct spec_error *error;
};

/* Appends the documents of `text`; false, with `error` filled, if one is wrong. */
bool spec_parse(upb_DefPool *pool, upb_Arena *arena, const char *source, struct slice text,
                struct spec_list *list, struct spec_error *error);
void spec_list_deinit(struct spec_list *list);

/* spec_fields.c: fill a message from a mapping; `path` names the place in messages ("spec"). */
/* Is it null? A plain "null" is, "null" in quotes is text. */
bool spec_is_null(const yaml_node_t *node);
/* A scalar as text: names, tags and the like. */
bool spec_text(struct spec_reader *r, const yaml_node_t *node, const char *path,
               upb_StringView *ret);
bool spec_message(struct spec_reader *r, yaml_node_t *node, const char *path, unsigned depth,
                  upb_Message *message, const upb_MessageDef *def);
/* The field of this name, in snake_case or camelCase. */
const upb_FieldDef *spec_field(const upb_MessageDef *def, const char *name, size_t size);
bool spec_fail(struct spec_reader *r, const yaml_node_t *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Count a visited node; false if the document has too many, or is too deep. */
bool spec_visit(struct spec_reader *r, const yaml_node_t *node, unsigned depth);

#endif
