/* Values that were not given as flags: from the environment, then from the configuration file,
 * then the defaults. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "agent/cli/cli.h"

/* The file is one mapping from option names to values. */
static int read_mapping(struct cli *c, const char *path, yaml_document_t *doc)
{
    yaml_node_t *root = yaml_document_get_root_node(doc);
    if (root == NULL) {
        return CLI_OK;
    }
    if (root->type != YAML_MAPPING_NODE) {
        return cli__say_usage(c, "%s: expected lines such as \"endpoints: HOST:PORT\"", path);
    }
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top;
         p++) {
        yaml_node_t *key = yaml_document_get_node(doc, p->key);
        yaml_node_t *value = yaml_document_get_node(doc, p->value);
        if (key->type != YAML_SCALAR_NODE || value->type != YAML_SCALAR_NODE) {
            return cli__say_usage(c, "%s:%zu: expected \"name: value\"", path,
                                  key->start_mark.line + 1);
        }
        const char *name = (const char *)key->data.scalar.value;
        enum cli_option_id id = cli__option_find(name, key->data.scalar.length);
        if (id == OPT_NONE || !cli__option_global(id) || cli_options[id].kind == OPTION_FLAG) {
            return cli__say_usage(c, "%s:%zu: there is no setting \"%s\"", path,
                                  key->start_mark.line + 1, name);
        }
        char from[256];
        snprintf(from, sizeof from, "%s:%zu: %s", path, value->start_mark.line + 1, name);
        if (c->values[id].set) {
            continue;
        }
        size_t size = value->data.scalar.length;
        char *text = upb_Arena_Malloc(c->arena, size + 1);
        memcpy(text, value->data.scalar.value, size + 1);
        if (!cli__set(c, id, text, from)) {
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

static int read_file(struct cli *c, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        if (errno == ENOENT || errno == ENOTDIR || errno == EACCES) {
            return CLI_OK;
        }
        return cli__say_failed("cannot read %s: %s", path, strerror(errno));
    }
    yaml_parser_t parser;
    yaml_document_t doc;
    if (!yaml_parser_initialize(&parser)) {
        abort(); /* out of memory */
    }
    yaml_parser_set_input_file(&parser, file);
    int result = CLI_OK;
    if (yaml_parser_load(&parser, &doc)) {
        result = read_mapping(c, path, &doc);
        yaml_document_delete(&doc);
    } else {
        result =
            cli__say_usage(c, "%s:%zu: %s", path, parser.problem_mark.line + 1, parser.problem);
    }
    yaml_parser_delete(&parser);
    fclose(file);
    return result;
}

static int read_default_file(struct cli *c)
{
    const char *base = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    char path[512];
    if (base != NULL && base[0] == '/') {
        snprintf(path, sizeof path, "%s/thole/config.yaml", base);
    } else if (home != NULL) {
        snprintf(path, sizeof path, "%s/.config/thole/config.yaml", home);
    } else {
        return CLI_OK;
    }
    return read_file(c, path);
}

int cli__defaults(struct cli *c, const char *config_path)
{
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        const char *name = cli_options[id].environment;
        const char *text = name != NULL ? getenv(name) : NULL;
        if (!c->values[id].set && text != NULL && text[0] != '\0' &&
            !cli__set(c, (enum cli_option_id)id, text, name)) {
            return CLI_USAGE;
        }
    }
    int result = config_path != NULL ? read_file(c, config_path) : read_default_file(c);
    if (result != CLI_OK) {
        return result;
    }
    for (unsigned id = 1; id < OPT_OPTIONS; id++) {
        struct cli_value *v = &c->values[id];
        if (!v->set && cli_options[id].standard != NULL) {
            if (!cli__set(c, (enum cli_option_id)id, cli_options[id].standard, "default")) {
                return CLI_USAGE;
            }
            v->set = cli__option_global((enum cli_option_id)id); /* "set" stays: by the user */
        }
    }
    return CLI_OK;
}
