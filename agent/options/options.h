/* Options of a program, from its flags, its environment and its configuration file.
 *
 * One table of `struct option_def` makes the parser, the help and the completion. A flag beats the
 * environment, the environment beats the file, the file beats the default. Every refusal is
 * INVALID_ARGUMENT with a message that names the option as the user gave it (its origin):
 * "--listen", "THOLED_LISTEN" or "thole.yaml:3: listen".
 *
 * Not here: which command may have which option, and what values mean together (the programs).
 * Threads: none; one caller. */
#ifndef AGENT_OPTIONS_OPTIONS_H
#define AGENT_OPTIONS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <thole/status.h>

#include "base/buf.h"

#define OPTIONS_FILE_BYTES_MAX (64 * 1024)
#define OPTIONS_ITEMS_MAX 64 /* of one list */

enum option_kind {
    OPTION_FLAG, /* true or false; the flag needs no value */
    OPTION_TEXT,
    OPTION_NUMBER,   /* decimal, from `min` to `max` */
    OPTION_DURATION, /* "250ms", "10s", "5m", "1h"; a bare number is seconds */
    OPTION_CHOICE,   /* one of `value` */
    OPTION_LIST,     /* separated by commas; the flag may be repeated; a list or map in the file */
};

struct option_def {
    const char *name; /* without the dashes; also the key in the file; NULL: the id is not used */
    char letter;      /* the flag's short form; 0: none */
    enum option_kind kind;
    bool in_file;            /* may it stand in the configuration file? */
    uint8_t exclusive;       /* at most one option of each number is given; 0: no such rule */
    uint64_t min, max;       /* of a NUMBER; `max` 0: no limit */
    const char *value;       /* what the value is, for help: "FILE"; the choices: "a|b|c" */
    const char *standard;    /* the default, as text; NULL: none */
    const char *environment; /* the variable; NULL: none */
    const char *help;
    /* What the kind does not say about a value, or about one item of a list. The message begins
     * with `origin`. NULL: nothing. */
    enum thole_code (*check)(const char *origin, const char *text, struct thole_status *st);
};

enum option_source {
    OPTION_UNSET,
    OPTION_DEFAULT,
    OPTION_FILE,
    OPTION_ENVIRONMENT,
    OPTION_ARGUMENT
};

struct option_value {
    enum option_source source;
    const char *origin; /* what the user wrote it as, for messages */
    const char *text;   /* NULL while unset; of a LIST: its last part */
    uint64_t number;    /* NUMBER; DURATION in ms; FLAG: 0 or 1 */
    const char **items; /* LIST */
    size_t item_count;
};

struct options {
    const struct option_def *defs;
    size_t count;                /* of defs and of values: ids are 0 to count-1 */
    struct option_value *values; /* by id */
    const char **arguments;      /* what is no option, in order; NULL at the end */
    size_t argument_count;
    struct arena *arena; /* keeps all text */
};

/* `defs` outlives `o`. */
void options_init(struct options *o, const struct option_def *defs, size_t count);
void options_deinit(struct options *o);

/* Call these in this order: what was read before is kept. A value that a stronger source gave is
 * not checked in the weaker one, so that a flag helps against a wrong setting. */
THOLE_MUST_CHECK enum thole_code options_read_arguments(struct options *o, int argc,
                                                        const char *const *argv,
                                                        struct thole_status *st);
THOLE_MUST_CHECK enum thole_code options_read_environment(struct options *o,
                                                          struct thole_status *st);
/* NOT_FOUND if the file is absent or may not be read; the caller knows whether that is an error. */
THOLE_MUST_CHECK enum thole_code options_read_file(struct options *o, const char *path,
                                                   struct thole_status *st);
/* The same for the content of a file. */
THOLE_MUST_CHECK enum thole_code options_read_yaml(struct options *o, const char *path,
                                                   struct slice text, struct thole_status *st);
/* Last: defaults for what is unset, and a refusal of options that exclude each other. */
THOLE_MUST_CHECK enum thole_code options_complete(struct options *o, struct thole_status *st);

/* Did the user give it, by any source? A default is not given. */
bool options_given(const struct options *o, size_t id);
/* Is this FLAG true? */
bool options_on(const struct options *o, size_t id);
/* `size` bytes of `name`, without dashes; SIZE_MAX if there is none. */
size_t options_find(const struct options *o, const char *name, size_t size);

/* One entry of a help text, wrapped: "  -o, --output table|json   what it is (default: table)". */
void options_print_help(FILE *out, const struct option_def *def);
/* The same as an entry of a manual page (roff). */
void options_print_manual(FILE *out, const struct option_def *def);
/* Text of a help in a manual page: paragraphs, and lines that begin with a blank as they are. */
void options_print_roff(FILE *out, const char *text);
/* The same as an entry of a configuration file, in comments: what it does, and its default. */
void options_print_example(FILE *out, const struct option_def *def);

bool options_parse_number(const char *text, uint64_t *ret);
bool options_parse_duration(const char *text, uint64_t max_ms, uint64_t *ret_ms);

#endif
