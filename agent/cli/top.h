/* `thole top`: what it knows (top_model.c) and how it is shown (top_screen.c).
 *
 * Threads: one follows Cluster.Watch, one asks hosts for their load (there is no stream of it), and
 * the main one reads keys and draws. They meet at the model's lock. */
#ifndef AGENT_CLI_TOP_H
#define AGENT_CLI_TOP_H

#include <pthread.h>

#include "agent/cli/rows.h"
#include "base/map.h"

#define TOP_NAME_BYTES 129
#define TOP_EVENTS 256

struct top_host {
    char name[TOP_NAME_BYTES];
    char zone[32];
    int32_t liveness, state;
    double cpu, cpu_seconds, uptime_seconds; /* `cpu`: processors in use */
    bool asked;                              /* it has said how busy it is */
    size_t leaders, replicas;                /* on it; counted for each screen */
};

struct top_replica {
    struct top_replica *next; /* of its shard */
    uint64_t id, shard_id;
    char host[TOP_NAME_BYTES];
    int32_t role, phase;
    bool removing;
    uint64_t applied;
};

struct top_shard {
    uint64_t id;
    char name[TOP_NAME_BYTES], type[24], leader[TOP_NAME_BYTES];
    char reason[160]; /* why it is not ready; "" */
    bool ready, degraded;
    struct top_replica *replicas;
    uint64_t commit, commit_before, at_ns, before_ns; /* of its leader, at two times */
    uint64_t lag;                                     /* of its slowest replica, in entries */
    double rate;                                      /* entries per second */
};

struct top_operation {
    uint64_t id;
    char text[200];
    bool over;
};

struct top_model {
    pthread_mutex_t lock;
    int changed;            /* an eventfd: the screen is out of date */
    bool complete;          /* the snapshot has come */
    char problem[200];      /* of the watch; "" */
    struct top_host *hosts; /* by name */
    size_t host_count;
    struct map shards;   /* id + 1 -> struct top_shard */
    struct map replicas; /* id -> struct top_replica */
    struct map operations;
    char events[TOP_EVENTS][200]; /* a ring */
    uint64_t event_count;
    uint32_t polls; /* how often all hosts were asked */
};

void top_model_init(struct top_model *m);
/* Forget all rows, but not the events. Takes the lock. */
void top_model_clear(struct top_model *m);
/* A message of Cluster.Watch, or NULL: see rows_watch. Takes the lock. */
void top_model_see(struct top_model *m, const thole_v1_WatchClusterResponse *w);
/* What a host says of its load. Takes the lock. */
void top_model_load(struct top_model *m, const char *host, const thole_v1_StatusResponse *s);
/* Rates and lags, after all hosts have been asked. Takes the lock. */
void top_model_settle(struct top_model *m);
void top_model_problem(struct top_model *m, const char *text);

enum top_pane { TOP_SHARDS, TOP_OPERATIONS, TOP_EVENTS_PANE, TOP_PANES };
enum top_sort { TOP_BY_PROBLEM, TOP_BY_RATE, TOP_BY_LAG, TOP_BY_NAME, TOP_SORTS };

struct top_view {
    enum top_pane pane;
    enum top_sort sort;
    char filter[64];
    bool typing; /* the filter */
    size_t scroll;
    unsigned columns, rows; /* rows 0: all, without end (not a terminal) */
    bool colours;
};
/* Appends a screen; takes the lock. With rows > 0 exactly that many lines, each at most `columns`
 * wide. */
void top_draw(struct top_model *m, struct top_view *v, struct bytes *out);
/* A key was pressed. False: it ends the program. */
bool top_key(struct top_view *v, int key);
enum {
    TOP_KEY_UP = 1000,
    TOP_KEY_DOWN,
    TOP_KEY_PAGE_UP,
    TOP_KEY_PAGE_DOWN,
    TOP_KEY_HOME,
    TOP_KEY_END
};

#endif
