/* What may come next on a command line of `thole`, from the tables of commands and options. */
#ifndef AGENT_CLI_COMPLETE_H
#define AGENT_CLI_COMPLETE_H

#include "agent/cli/rows.h"

enum complete_kind {
    COMPLETE_NOTHING,
    COMPLETE_WORDS, /* `words` */
    COMPLETE_NAMES, /* names of the rows of `rows` */
    COMPLETE_FILES,
    COMPLETE_DIRS,
};

struct complete_word {
    char *word;       /* malloced */
    const char *text; /* what it does; "" if there is nothing to say */
};

struct complete {
    enum complete_kind kind;
    enum rows_kind rows;
    struct complete_word *words;
    size_t count;
};

/* `words` are what was typed behind "thole"; its last word, perhaps "", is the one to complete. The
 * words are not filtered by what was typed of it. Release `ret` by complete_deinit. */
void complete_line(const char *const *words, size_t count, struct complete *ret);
void complete_deinit(struct complete *c);

#endif
