/* A file can be opened even when all other descriptors are in use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"

#define LIMIT 64

static void test_file_open_without_descriptors_uses_the_reserve(void **state)
{
    (void)state;
    const struct rlimit limit = {LIMIT, LIMIT};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(file_descriptors_max(), LIMIT);
    int first = file_open("/dev/null", O_RDONLY, 0); /* fills the reserve */
    assert_true(first >= 0);
    int held[LIMIT], files[4];
    for (int round = 0; round < 3; round++) {
        int n = 0;
        while ((held[n] = open("/dev/null", O_RDONLY)) >= 0) {
            n++;
        }
        assert_int_equal(errno, EMFILE);
        for (int i = 0; i < 4; i++) {
            files[i] = file_open("/dev/zero", O_RDONLY, 0);
            assert_true(files[i] >= 0);
        }
        assert_int_equal(file_open("/does/not/exist", O_RDONLY, 0), -1);
        while (n > 0) {
            close(held[--n]);
        }
        for (int i = 0; i < 4; i++) {
            close(files[i]);
        }
        int again = file_open("/dev/null", O_RDONLY, 0); /* fills it again */
        assert_true(again >= 0);
        close(again);
    }
    close(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_open_without_descriptors_uses_the_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
