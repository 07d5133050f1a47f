/* A temporary directory for one test. */
#ifndef BASE_TEST_TEMP_DIR_H
#define BASE_TEST_TEMP_DIR_H

char *temp_dir_new(void);       /* its path */
void temp_dir_free(char *path); /* deletes it with its content */
/* dir/name; the caller frees it. */
char *path_in(const char *dir, const char *name);

#endif
