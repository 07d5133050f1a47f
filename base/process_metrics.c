/* The metrics of the process: processor time, memory, descriptors, start. */
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"

#define STAT_START_FIELD 22 /* of /proc/self/stat, counted from 1 */

static void render_cpu(struct bytes *out)
{
    struct timespec t;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0) {
        metrics_single(out, METRIC_COUNTER, "process_cpu_seconds_total",
                       (double)t.tv_sec + (double)t.tv_nsec / 1e9,
                       "Processor time of the process, user and system, in seconds");
    }
}

static void render_memory(struct bytes *out)
{
    double page = (double)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");
    char line[128];
    if (f == NULL) {
        return;
    }
    if (fgets(line, sizeof line, f) != NULL) {
        char *rest = line;
        double all = (double)strtoull(rest, &rest, 10), resident = (double)strtoull(rest, NULL, 10);
        metrics_single(out, METRIC_GAUGE, "process_resident_memory_bytes", resident * page,
                       "Memory of the process that is in main memory");
        metrics_single(out, METRIC_GAUGE, "process_virtual_memory_bytes", all * page,
                       "Address space of the process");
    }
    fclose(f);
}

static void render_descriptors(struct bytes *out)
{
    struct rlimit limit;
    DIR *d = opendir("/proc/self/fd");
    if (d != NULL) {
        size_t count = 0;
        for (const struct dirent *e; (e = readdir(d)) != NULL;) {
            count += e->d_name[0] != '.';
        }
        closedir(d);
        metrics_single(out, METRIC_GAUGE, "process_open_fds", (double)(count > 0 ? count - 1 : 0),
                       "Open file descriptors");
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        metrics_single(out, METRIC_GAUGE, "process_max_fds", (double)limit.rlim_cur,
                       "Limit of open file descriptors");
    }
}

static double start_s; /* in seconds since 1970; 0: unknown */
static pthread_once_t start_known = PTHREAD_ONCE_INIT;

/* In seconds after the machine's start; negative: unknown. The second field, the name, may
 * contain spaces and parentheses. */
static double started_after_boot(void)
{
    FILE *f = fopen("/proc/self/stat", "re");
    char line[1024] = "";
    if (f == NULL) {
        return -1;
    }
    const char *at = fgets(line, sizeof line, f) != NULL ? strrchr(line, ')') : NULL;
    fclose(f);
    for (int field = 2; at != NULL && field < STAT_START_FIELD; field++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK) : -1;
}

static void find_start(void)
{
    struct timespec wall, boot;
    double after_boot = started_after_boot();
    if (after_boot < 0 || clock_gettime(CLOCK_REALTIME, &wall) != 0 ||
        clock_gettime(CLOCK_BOOTTIME, &boot) != 0) {
        return;
    }
    start_s = (double)(wall.tv_sec - boot.tv_sec) + (double)(wall.tv_nsec - boot.tv_nsec) / 1e9 +
              after_boot;
}

/* Found once: the clocks drift apart, and a start that moves looks like a restart. */
static void render_start(struct bytes *out)
{
    (void)pthread_once(&start_known, find_start);
    if (start_s <= 0) {
        return;
    }
    metrics_head(out, METRIC_GAUGE, "process_start_time_seconds",
                 "Start of the process, in seconds since 1970");
    bytes_printf(out, "process_start_time_seconds %.2f\n", start_s);
}

void metrics_render_process(struct bytes *out)
{
    render_cpu(out);
    render_descriptors(out);
    render_memory(out);
    render_start(out);
}
