#include "shards/store/test/log_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

char *log_file(const char *dir, const char *name)
{
    return xasprintf("%s/log/%s", dir, name);
}

char *log_segment(const char *dir, const struct segment *g)
{
    return xasprintf("%s/log/%08" PRIu32 ".seg", dir, g->file);
}

struct segment *log_newest(struct log_store *s)
{
    return segments_newest(&((struct disk_log *)s)->files);
}

const struct log_replica *log_replica_of(struct log_store *s, uint64_t id)
{
    return map_get(&((struct disk_log *)s)->replicas, id);
}

struct bytes file_load(const char *path)
{
    struct bytes b = {0};
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return b;
    }
    assert_int_equal(fstat(fd, &info), 0);
    if (info.st_size > 0) {
        size_t size = (size_t)info.st_size;
        assert_int_equal(pread(fd, bytes_extend(&b, size), size, 0), info.st_size);
    }
    close(fd);
    return b;
}

void file_save(const char *path, struct slice bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    if (bytes.size > 0) {
        assert_int_equal(pwrite(fd, bytes.data, bytes.size, 0), bytes.size);
    }
    close(fd);
}

void file_flip_bit(const char *path, uint64_t at, unsigned bit)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= (uint8_t)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

void log_copy(const char *from, const char *to)
{
    char *a = log_file(from, ""), *b = log_file(to, "");
    DIR *d = opendir(a);
    struct dirent *e;

    assert_non_null(d);
    assert_int_equal(mkdir(b, 0700), 0);
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] != '.') {
            char *x = log_file(from, e->d_name), *y = log_file(to, e->d_name);
            struct bytes content = file_load(x);
            file_save(y, bytes_slice(&content));
            bytes_deinit(&content);
            free(x);
            free(y);
        }
    }
    closedir(d);
    free(a);
    free(b);
}
