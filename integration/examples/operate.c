/* A program that operates a cluster: any call of the control plane by its name, in JSON.
 *
 *   cc operate.c $(pkg-config --cflags --libs thole) -o operate
 *   ./operate 127.0.0.1:7400 Shards/ListShards
 *   ./operate 127.0.0.1:7400 Operations/DrainHost '{"name": "h1"}'
 *   ./operate 127.0.0.1:7400 Cluster/Watch '{}' 10
 *
 * The last one prints ten answers of a stream. The .proto files say what there is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thole/thole.h>

#define TIMEOUT_MS 10000

static int fail(const struct thole_status *st)
{
    fprintf(stderr, "%s %s: %s\n", thole_code_name(st->code), thole_reason_name(st->reason),
            st->message);
    return 1;
}

static int call(struct thole *t, const char *method, struct thole_slice request)
{
    struct thole_answer answer;
    struct thole_status st;
    if (thole_control(t, method, THOLE_JSON, request, TIMEOUT_MS, &answer, &st) != THOLE_OK) {
        return fail(&st);
    }
    puts(answer.data);
    free(answer.data);
    return 0;
}

static int follow(struct thole *t, const char *method, struct thole_slice request, int answers)
{
    struct thole_stream *stream;
    struct thole_status st;
    int result = 0;
    if (thole_stream_open(t, method, THOLE_JSON, request, &stream, &st) != THOLE_OK) {
        return fail(&st);
    }
    while (answers-- > 0 && result == 0) {
        struct thole_answer answer;
        if (thole_stream_next(stream, TIMEOUT_MS, &answer, &st) == THOLE_OK) {
            puts(answer.data);
            free(answer.data);
        } else {
            result = fail(&st);
        }
    }
    thole_stream_close(stream);
    return result;
}

int main(int argc, char **argv)
{
    struct thole *t;
    struct thole_status st;
    if (argc < 3) {
        fprintf(stderr, "usage: operate ADDRESSES SERVICE/METHOD [JSON [ANSWERS]]\n");
        return 2;
    }
    if (thole_connect(argv[1], &t, &st) != THOLE_OK) {
        return fail(&st);
    }
    const char *json = argc > 3 ? argv[3] : "{}";
    const struct thole_slice request = {json, strlen(json)};
    int result = argc > 4 ? follow(t, argv[2], request, atoi(argv[4])) : call(t, argv[2], request);
    thole_close(t);
    return result;
}
