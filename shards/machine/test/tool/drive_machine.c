/* Drives the kv machine for a program in another language: requests on standard input, answers on
 * standard output. A request is [kind 1][size BE 4][payload], an answer [code BE 4][size BE 4] and
 * bytes.
 *
 *   c  a command of the log: the proposal's code, and its result
 *   q  a query: the status code, and the answer or the message
 *   s  save, and restore into another generation, which is used from then on
 *   r  close, and open again */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "shards/machine/builtin.h"
#include "shards/machine/test/machine_fixture.h"

#define REQUEST_BYTES_MAX (16 * 1024 * 1024)

static uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (24 - 8 * i));
    }
}

static void answer(uint32_t code, struct slice bytes)
{
    uint8_t head[8];

    put_be32(head, code);
    put_be32(head + 4, (uint32_t)bytes.size);
    ASSERT(fwrite(head, 1, sizeof head, stdout) == sizeof head);
    ASSERT(fwrite(bytes.data, 1, bytes.size, stdout) == bytes.size);
    ASSERT(fflush(stdout) == 0);
}

static void query(struct test_machine *t, struct slice payload)
{
    struct thole_status st = {0};
    struct test_sink sink;
    void *view = NULL;

    test_sink_init(&sink);
    ASSERT(t->type->view_acquire(t->m, &view, NULL) == THOLE_OK);
    enum thole_code code = t->type->query(
        t->m, view, (struct thole_slice){payload.data, payload.size}, &sink.base, &st);
    t->type->view_release(t->m, view);
    answer((uint32_t)code, code == THOLE_OK ? bytes_slice(&sink.out) : slice_str(st.message));
    bytes_deinit(&sink.out);
}

static void save_and_restore(struct test_machine *t)
{
    struct bytes snapshot = {0};

    test_save(t, &snapshot);
    t->type->close(t->m);
    t->env.generation++;
    ASSERT(t->type->open(&t->env, &t->m, NULL) == THOLE_OK);
    ASSERT(test_restore(t, bytes_slice(&snapshot), 0, NULL) == THOLE_OK);
    bytes_deinit(&snapshot);
    answer(0, (struct slice){0});
}

static void handle(struct test_machine *t, uint8_t kind, struct slice payload)
{
    struct bytes out = {0};

    switch (kind) {
    case 'c': {
        uint64_t code = test_apply(t, payload, &out);
        answer((uint32_t)code, bytes_slice(&out));
        break;
    }
    case 'q':
        query(t, payload);
        break;
    case 's':
        save_and_restore(t);
        break;
    case 'r':
        test_machine_reopen(t);
        answer(0, (struct slice){0});
        break;
    default:
        ASSERT(false);
    }
    bytes_deinit(&out);
}

int main(void)
{
    struct test_machine t;
    uint8_t head[5];

    test_machine_init(&t, &machine_kv);
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        uint32_t size = get_be32(head + 1);
        ASSERT(size <= REQUEST_BYTES_MAX);
        uint8_t *payload = xmalloc(size + 1);
        ASSERT(fread(payload, 1, size, stdin) == size);
        handle(&t, head[0], slice_of(payload, size));
        free(payload);
    }
    test_machine_deinit(&t);
    return 0;
}
