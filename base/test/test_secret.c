/* Codes by RFC 4231's examples, and passwords by one of bcrypt's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/password.h"
#include "base/secret.h"

static void expect_mac(const char *key, const char *text, const char *expected)
{
    uint8_t mac[SECRET_HASH_BYTES];
    char hex[2 * SECRET_HASH_BYTES + 1];

    secret_mac(slice_str(key), slice_str(text), mac);
    for (size_t i = 0; i < sizeof mac; i++) {
        snprintf(hex + 2 * i, 3, "%02x", mac[i]);
    }
    assert_string_equal(hex, expected);
}

static void test_secret_mac_is_hmac_sha256(void **state)
{
    char key[132] = "";

    (void)state;
    expect_mac("Jefe", "what do ya want for nothing?",
               "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, 131); /* longer than a block */
    expect_mac(key, "Test Using Larger Than Block-Size Key - Hash Key First",
               "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void test_secret_equal_compares_all_bytes(void **state)
{
    (void)state;
    assert_true(secret_equal(slice_str("abc"), slice_str("abc")));
    assert_false(secret_equal(slice_str("abc"), slice_str("abd")));
    assert_false(secret_equal(slice_str("xbc"), slice_str("abc")));
    assert_false(secret_equal(slice_str("ab"), slice_str("abc")));
    assert_true(secret_equal((struct slice){0}, (struct slice){0}));
}

static void test_password_hash_is_bcrypt(void **state)
{
    char hash[PASSWORD_HASH_CHARS + 1], salt[PASSWORD_SALT_CHARS + 1], long_one[81] = "";

    (void)state;
    assert_true(password_hash(slice_str("U*U"), slice_str("$2b$05$CCCCCCCCCCCCCCCCCCCCC."), hash));
    assert_string_equal(hash, "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
    assert_true(password_is_hash(slice_str(hash)));
    password_salt(salt);
    assert_true(password_is_salt(slice_str(salt)));
    assert_true(password_hash((struct slice){0}, slice_str(salt), hash));
    assert_memory_equal(hash, salt, PASSWORD_SALT_CHARS);
    memset(long_one, 'x', 80);
    assert_true(password_hash(slice_str(long_one), slice_str(salt), hash));
}

static void test_password_hash_refuses_what_bcrypt_would_misread(void **state)
{
    static const char *const salts[] = {"",
                                        "$1$abcdefgh",
                                        "$2b$05$CCCCCCCCCCCCCCCCCCCC.",
                                        "$2b$31$CCCCCCCCCCCCCCCCCCCCC.",
                                        "$2b$0x$CCCCCCCCCCCCCCCCCCCCC.",
                                        "$2b$05$CCCCCCCCCC:CCCCCCCCCC."};
    char hash[PASSWORD_HASH_CHARS + 1];

    (void)state;
    for (size_t i = 0; i < sizeof salts / sizeof salts[0]; i++) {
        assert_false(password_is_salt(slice_str(salts[i])));
        assert_false(password_hash(slice_str("x"), slice_str(salts[i]), hash));
    }
    assert_false(
        password_hash(slice_of("a\0b", 3), slice_str("$2b$05$CCCCCCCCCCCCCCCCCCCCC."), hash));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secret_mac_is_hmac_sha256),
        cmocka_unit_test(test_secret_equal_compares_all_bytes),
        cmocka_unit_test(test_password_hash_is_bcrypt),
        cmocka_unit_test(test_password_hash_refuses_what_bcrypt_would_misread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
