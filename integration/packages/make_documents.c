/* Writes what packages have and the programs' tables know: the manual pages, the completions, and
 * the daemon's configuration file.
 *
 *   make_documents DIR */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

#include "agent/cli/cli.h"
#include "agent/tholed/daemon_options.h"

static FILE *open_in(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        fprintf(stderr, "make_documents: cannot write %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return file;
}

static void close_written(FILE *file)
{
    if (ferror(file) != 0 || fclose(file) != 0) {
        fprintf(stderr, "make_documents: cannot write: %s\n", strerror(errno));
        exit(1);
    }
}

static void write_completion(const char *dir, const char *shell)
{
    char name[64];
    snprintf(name, sizeof name, "thole.%s", shell);
    FILE *file = open_in(dir, name);
    fputs(cli__completion_script(shell), file);
    close_written(file);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: make_documents DIR\n", stderr);
        return 2;
    }
    FILE *file = open_in(argv[1], "thole.1");
    cli__print_manual(file);
    close_written(file);
    file = open_in(argv[1], "tholed.8");
    daemon_options_print_manual(file, THOLE_VERSION);
    close_written(file);
    file = open_in(argv[1], "tholed.yaml");
    daemon_options_print_example(file, "/var/lib/thole");
    close_written(file);
    write_completion(argv[1], "bash");
    write_completion(argv[1], "zsh");
    write_completion(argv[1], "fish");
    return 0;
}
