/* A host's report: metrics, newest log lines, options, files, system. See host_report.h.
 *
 * Options are listed one by one, so that no secret gets in with a new option: of certificates the
 * report says only that there are some. */
#include "agent/core/host_report.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/core/agent_internal.h"
#include "agent/core/host_metrics.h"
#include "base/metrics.h"
#include "base/text.h"

#define FILES_MAX 1000
#define DEPTH_MAX 4

static upb_StringView copy_bytes(struct slice s, upb_Arena *arena)
{
    char *copy = upb_Arena_Malloc(arena, s.size + 1);
    if (s.size > 0) {
        memcpy(copy, s.data, s.size);
    }
    return (upb_StringView){copy, s.size};
}

struct writer {
    thole_v1_HostReport *report;
    upb_Arena *arena;
    size_t files;
};

static void setting(struct writer *w, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void setting(struct writer *w, const char *name, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    thole_v1_Setting *s = thole_v1_HostReport_add_settings(w->report, w->arena);
    thole_v1_Setting_set_name(s, upb_StringView_FromString(name));
    thole_v1_Setting_set_value(s, copy_bytes(slice_str(text), w->arena));
}

static const char *or_empty(const char *text)
{
    return text != NULL ? text : "";
}

static void add_settings(struct writer *w, const struct agent *a)
{
    const struct agent_options *o = &a->o;
    setting(w, "data-dir", "%s", a->dir.path);
    setting(w, "listen", "%s", or_empty(a->listen));
    setting(w, "advertise", "%s", or_empty(a->advertise));
    setting(w, "addresses", "%s", or_empty(a->addresses));
    setting(w, "tags", "%s", or_empty(a->tags));
    setting(w, "tls", "%s", a->tls != NULL ? "yes" : "no");
    setting(w, "insecure", "%s", o->insecure ? "yes" : "no");
    setting(w, "reflection", "%s", o->reflection_for_all ? "all" : "users");
    /* 0: the default. */
    setting(w, "election-timeout-ms", "%" PRIu32, o->election_timeout_ms);
    setting(w, "heartbeat-ms", "%" PRIu32, o->heartbeat_ms);
    setting(w, "suspect-after-ms", "%" PRIu32, o->suspect_after_ms);
    setting(w, "suspect-after-ms-max", "%" PRIu32, o->suspect_after_ms_max);
    setting(w, "dead-after-ms", "%" PRIu32, o->dead_after_ms);
    setting(w, "loops", "%" PRIu32, o->loop_count);
    setting(w, "appliers", "%" PRIu32, o->applier_count);
    setting(w, "snapshot-bytes-per-s", "%" PRIu64, o->snapshot_bytes_per_s);
}

/* Takes over `fd`. `prefix` is "" or ends in a slash. Links are not followed. */
static void add_files(struct writer *w, int fd, const char *prefix, unsigned depth)
{
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        close(fd);
        return;
    }
    for (const struct dirent *e; (e = readdir(d)) != NULL && w->files < FILES_MAX;) {
        struct stat s;
        char path[1024];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(dirfd(d), e->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0) {
            continue;
        }
        bool is_dir = S_ISDIR(s.st_mode);
        int n = snprintf(path, sizeof path, "%s%s%s", prefix, e->d_name, is_dir ? "/" : "");
        if (n < 0 || (size_t)n >= sizeof path) {
            continue;
        }
        thole_v1_DiskFile *f = thole_v1_HostReport_add_files(w->report, w->arena);
        thole_v1_DiskFile_set_path(f, copy_bytes(slice_str(path), w->arena));
        thole_v1_DiskFile_set_size_bytes(f, is_dir ? 0 : (uint64_t)s.st_size);
        thole_v1_DiskFile_set_change_time_ms(f, (int64_t)s.st_mtim.tv_sec * 1000);
        w->files++;
        int inner =
            is_dir && depth < DEPTH_MAX
                ? openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                : -1;
        if (inner >= 0) {
            add_files(w, inner, path, depth + 1);
        }
    }
    closedir(d);
}

static void add_system(struct writer *w)
{
    struct utsname u = {0};
    char text[sizeof u + 128];
    (void)uname(&u);
    snprintf(text, sizeof text, "%s %s %s %s, %ld processors, %ld MiB of memory", u.sysname,
             u.release, u.version, u.machine, sysconf(_SC_NPROCESSORS_ONLN),
             sysconf(_SC_PHYS_PAGES) / (1024 * 1024 / sysconf(_SC_PAGESIZE)));
    thole_v1_HostReport_set_system(w->report, copy_bytes(slice_str(text), w->arena));
}

void agent_host_report(struct agent *a, thole_v1_HostReport *report, upb_Arena *arena)
{
    struct writer w = {report, arena, 0};
    struct bytes text = {0};
    char levels[LOG_LEVELS_BYTES];
    metrics_render_process(&text);
    agent_metrics(a, &text);
    metrics_render(&text);
    thole_v1_HostReport_set_metrics(report, copy_bytes(bytes_slice(&text), arena));
    bytes_deinit(&text);
    text = (struct bytes){0};
    log_recent(&text);
    if (!text_is_utf8(bytes_slice(&text))) { /* somebody's bytes in a message; a string has none */
        for (size_t i = 0; i < text.size; i++) {
            text.data[i] = text.data[i] < 0x80 ? text.data[i] : '?';
        }
    }
    thole_v1_HostReport_set_log(report, copy_bytes(bytes_slice(&text), arena));
    bytes_deinit(&text);
    log_levels_text(levels);
    thole_v1_HostReport_set_log_levels(report, copy_bytes(slice_str(levels), arena));
    add_settings(&w, a);
    int fd = open(a->dir.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        add_files(&w, fd, "", 1);
    }
    add_system(&w);
}
