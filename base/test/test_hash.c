#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/rand.h"

/* Known answers: stored checksums must keep their meaning whatever library is installed. */
static void test_hash_of_known_inputs_is_xxh3(void **state)
{
    (void)state;
    assert_true(hash64("", 0, 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(hash64(NULL, 0, 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(hash64("abc", 3, 0) == UINT64_C(0x78af5f94892f3950));
}

static void test_hash_seed_and_every_bit_matter(void **state)
{
    (void)state;
    uint8_t data[300] = {0};
    for (size_t size = 1; size <= sizeof data; size++) {
        uint64_t h = hash64(data, size, 7);
        assert_true(h != hash64(data, size, 8));
        assert_true(h != hash64(data, size - 1, 7));
        for (unsigned bit = 0; bit < 8; bit++) {
            data[size / 2] ^= (uint8_t)(1u << bit);
            assert_true(h != hash64(data, size, 7));
            data[size / 2] ^= (uint8_t)(1u << bit);
        }
    }
}

static void test_hash_of_pieces_equals_hash_of_the_whole(void **state)
{
    (void)state;
    static uint8_t data[5000];
    struct rand r;
    rand_seed(&r, 3);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)rand_u64(&r);
    }
    for (int round = 0; round < 300; round++) {
        size_t size = (size_t)rand_below(&r, sizeof data + 1);
        uint64_t seed = rand_chance(&r, 0.5) ? 0 : rand_u64(&r);
        struct hash_state *h = hash_state_new(seed);
        for (size_t at = 0; at < size;) {
            size_t n = (size_t)rand_between(&r, 0, rand_chance(&r, 0.5) ? 20 : 2000);
            if (n > size - at) {
                n = size - at;
            }
            hash_state_update(h, n > 0 ? data + at : NULL, n);
            at += n;
        }
        assert_true(hash_state_digest(h) == hash64(data, size, seed));
        assert_true(hash_state_digest(h) == hash64(data, size, seed));
        hash_state_free(h);
    }
    hash_state_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_of_known_inputs_is_xxh3),
        cmocka_unit_test(test_hash_seed_and_every_bit_matter),
        cmocka_unit_test(test_hash_of_pieces_equals_hash_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
