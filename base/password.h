/* Passwords as bcrypt hashes ($2b$). A hash takes some 60 ms of a processor: never compute one on a
 * thread for which others wait. */
#ifndef BASE_PASSWORD_H
#define BASE_PASSWORD_H

#include <stdbool.h>

#include "base/buf.h"

#define PASSWORD_SALT_CHARS 29 /* "$2b$10$" and 22 of the salt; a hash begins with its salt */
#define PASSWORD_HASH_CHARS 60
/* bcrypt ignores what comes after. */
#define PASSWORD_BYTES_MAX 72

void password_salt(char ret[static PASSWORD_SALT_CHARS + 1]);
/* The salt that these bytes make. */
#define PASSWORD_SALT_BYTES 16
void password_salt_of(const uint8_t bytes[static PASSWORD_SALT_BYTES],
                      char ret[static PASSWORD_SALT_CHARS + 1]);
/* False: not a salt of bcrypt, or the password has a zero byte, at which bcrypt would end it. */
bool password_hash(struct slice password, struct slice salt,
                   char ret[static PASSWORD_HASH_CHARS + 1]);
bool password_is_salt(struct slice text);
bool password_is_hash(struct slice text);

#endif
