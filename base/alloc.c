/* Allocation that ends the process when it fails; see README.md for why. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"

void *xmalloc(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);
    ASSERT(p != NULL);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n > 0 ? n : 1, size > 0 ? size : 1);
    ASSERT(p != NULL);
    return p;
}

void *xrealloc(void *p, size_t size)
{
    void *moved = realloc(p, size > 0 ? size : 1);
    ASSERT(moved != NULL);
    return moved;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t n)
{
    size_t size = strnlen(s, n);
    char *copy = xmalloc(size + 1);
    memcpy(copy, s, size);
    copy[size] = '\0';
    return copy;
}

char *xasprintf(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int size = vasprintf(&text, format, args);
    va_end(args);
    ASSERT(size >= 0 && text != NULL);
    return text;
}
