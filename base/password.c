/* See password.h. */
#include "base/password.h"

#include <crypt.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/secret.h"

#define PREFIX "$2b$"
#define COST 10 /* as etcd's */
#define COST_MAX 16

/* The alphabet of bcrypt's base64. */
static bool is_bcrypt(struct slice text, size_t chars)
{
    static const char prefix[] = PREFIX;

    if (text.size != chars || memcmp(text.data, prefix, sizeof prefix - 1) != 0 ||
        text.data[6] != '$') {
        return false;
    }
    for (size_t i = 7; i < chars; i++) {
        uint8_t c = text.data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '.' && c <= '9')) {
            return false;
        }
    }
    int cost = (text.data[4] - '0') * 10 + (text.data[5] - '0');
    return text.data[4] >= '0' && text.data[4] <= '9' && text.data[5] >= '0' &&
           text.data[5] <= '9' && cost >= 4 && cost <= COST_MAX;
}

bool password_is_salt(struct slice text)
{
    return is_bcrypt(text, PASSWORD_SALT_CHARS);
}

bool password_is_hash(struct slice text)
{
    return is_bcrypt(text, PASSWORD_HASH_CHARS);
}

void password_salt_of(const uint8_t bytes[static PASSWORD_SALT_BYTES],
                      char ret[static PASSWORD_SALT_CHARS + 1])
{
    const char *made = crypt_gensalt_rn(PREFIX, COST, (const char *)bytes, PASSWORD_SALT_BYTES, ret,
                                        PASSWORD_SALT_CHARS + 1);
    ASSERT(made != NULL);
}

void password_salt(char ret[static PASSWORD_SALT_CHARS + 1])
{
    uint8_t random[PASSWORD_SALT_BYTES];

    secret_random(random, sizeof random);
    password_salt_of(random, ret);
}

bool password_hash(struct slice password, struct slice salt,
                   char ret[static PASSWORD_HASH_CHARS + 1])
{
    char text[PASSWORD_BYTES_MAX + 1], setting[PASSWORD_SALT_CHARS + 1];
    size_t size = password.size < PASSWORD_BYTES_MAX ? password.size : PASSWORD_BYTES_MAX;

    if (!password_is_salt(salt) ||
        (password.size > 0 && memchr(password.data, '\0', password.size) != NULL)) {
        return false;
    }
    if (size > 0) {
        memcpy(text, password.data, size);
    }
    text[size] = '\0';
    memcpy(setting, salt.data, salt.size);
    setting[salt.size] = '\0';
    struct crypt_data *scratch = xcalloc(1, sizeof *scratch);
    const char *hash = crypt_r(text, setting, scratch);
    bool ok = hash != NULL && password_is_hash(slice_str(hash));
    if (ok) {
        memcpy(ret, hash, PASSWORD_HASH_CHARS + 1);
    }
    explicit_bzero(scratch, sizeof *scratch);
    explicit_bzero(text, sizeof text);
    free(scratch);
    return ok;
}
