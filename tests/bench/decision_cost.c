/* decision_cost.c - what one routing decision costs, on a real scoreboard. */
/*
 * Places a request as select_node() does, with the same code (worker/select/gather.c):
 * gathers all nodes for a prompt of 16 windows and a session, asks the policy, claims, records
 * the decision, and notes in sessions and gauges where the request went; then, as at its first
 * token, that the node has the prompt.  The release at the end of a request is counted too.
 * Left out: the look-up of the model's name, and what the worker keeps of its own requests.
 *
 * Prompts change from decision to decision.  Every node has requests of half the workers, all
 * of them waiting for a first token, so nothing is skipped for being empty.
 *
 * Time is taken over many short repetitions, of which the shortest counts: longer ones had
 * other work of the machine in them.  In the rows with writers, other processes go on claiming
 * and releasing on the same scoreboard meanwhile, so that cache lines move, and processor time
 * is taken instead of time.
 *
 *   decision_cost                   exits with 1 when a target is missed
 *   decision_cost NODES WORKERS N [alone]
 *                                   takes N decisions and says nothing: for a profiler; alone:
 *                                   without what is noted at the first token
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "policy/route/times.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/decisions.h"
#include "shm/facts/nodes.h"
#include "shm/facts/speeds.h"
#include "shm/facts/stats.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"
#include "shm/share/prefix.h"
#include "worker/select/gather.h"
#include "worker/upstreams/upstreams.h"

#define MAX_NODES      256
#define MAX_WORKERS    16
#define WINDOWS        16
#define PROMPTS        1024
#define WINDOW_TOKENS  512
#define SLOTS          16
#define REPETITIONS    300
#define WORKER         0 /* the one that decides */
#define WRITER_REST_NS 50000
#define MODEL_HASH     UINT64_C(0x123456789abcdef)

struct scene {
    struct scoreboard *board;
    unsigned nodes, workers;
    struct upstream *node[MAX_NODES]; /* owned */
    struct upstream_server server[MAX_NODES];
    struct upstream_model model;
    uint64_t windows[PROMPTS][WINDOWS];
    uint64_t random;
    uint64_t now_us;
    struct route_times times;
    bool alone; /* see above */
    /* The last request at work, released when the next has been placed. */
    const struct upstream_server *held;
    uint32_t held_us;
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "decision_cost: %s\n", what);
    exit(2);
}

static uint64_t next_random(uint64_t *random)
{
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *random;
}

/* ---- one decision ---------------------------------------------------------------------- */

static void record(const struct scene *scene, const struct eligible *candidates,
                   const struct select_request *request, int chosen)
{
    static struct decision d;

    memset(&d, 0, offsetof(struct decision, candidate));
    select_copy_name(d.id, sizeof(d.id), "req-0123456789abcdef0123");
    select_copy_name(d.model, sizeof(d.model), "sim-small");
    d.policy = POLICY_FASTEST;
    select_record(candidates, scene->board, WORKER, request, chosen, &d);
}

static void decide(struct scene *scene)
{
    static struct eligible candidates;
    const uint64_t *windows = scene->windows[next_random(&scene->random) >> 33 & (PROMPTS - 1)];
    struct select_request request = {
        .policy = {.tokens = WINDOWS * WINDOW_TOKENS, .key = windows[1]},
        .operation = DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS,
        .model_hash = MODEL_HASH,
        .session_hash = windows[0],
        .windows = windows,
        .windows_count = WINDOWS,
        .tokens_per_window = WINDOW_TOKENS,
        .now_mono_us = ++scene->now_us,
        .times = &scene->times,
    };
    struct eligible_place place;
    const struct upstream_server *server;

    select_gather(&candidates, scene->board, &scene->model, &request);
    if (!select_claim(&candidates, scene->board, WORKER, POLICY_FASTEST, &request,
                      &scene->model.cursor, &scene->random, &place))
        die("no node was chosen");
    record(scene, &candidates, &request, place.at);
    server = candidates.server[place.at];
    speeds_note_sent(scene->board, candidates.speeds_row, server->node_id, server->generation,
                     scene->now_us, scene->times.trial_gap_us);
    if (!scene->alone)
        prefix_note(scene->board, server->node_id, server->generation, windows, WINDOWS,
                    scene->now_us);
    prefix_session_set(scene->board, request.session_hash, server->node_id, server->generation,
                       scene->now_us);

    if (scene->held != NULL)
        gauges_release(scene->board, WORKER, scene->held->node_id, scene->held->generation,
                       scene->held_us);
    scene->held = server;
    scene->held_us = place.charge_us;
}

/* ---- the scene ------------------------------------------------------------------------- */

static void learn(struct scoreboard *board, unsigned node_id, uint32_t generation,
                  struct speed speed)
{
    struct speed seen = {0};

    if (!speeds_swap(board, speeds_take(board, MODEL_HASH, OP_CLASS_GENERATION), node_id,
                     generation, &seen, speed))
        die("a speed cannot be written");
}

static void add_node(struct scene *scene, unsigned node_id)
{
    struct node_info info = {.slots = SLOTS, .queue = SLOTS / 2, .weight = 100};
    struct scoreboard *board = scene->board;
    struct upstream *node = calloc(1, sizeof(*node));

    if (node == NULL || nodes_claim(board, scene->now_us) != (int)node_id)
        die("no slot for a node");
    (void)snprintf(info.name, sizeof(info.name), "node-%u", node_id);
    (void)strlcpy(info.address, "127.0.0.1:7000", sizeof(info.address));
    info.prefill_tokens_per_s = 8000;
    nodes_publish(board, node_id, &info);
    nodes_set_state(board, node_id, NODE_UP, NODE_REASON_PROBES_PASS, scene->now_us);
    if (!nodes_read(board, node_id, &node->info))
        die("a node cannot be read");
    node->node_id = node_id;
    node->reachable = true;
    scene->node[node_id] = node;
    scene->server[node_id] = (struct upstream_server){
        .model_hash = MODEL_HASH,
        .node = node,
        .state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY,
        .operations = 1u << DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS,
        .node_id = node_id,
        .generation = node->info.generation,
        .slots = info.slots,
        .queue = info.queue,
        .weight = (uint16_t)info.weight,
        .prefill_tokens_per_s = info.prefill_tokens_per_s,
    };
    learn(board, node_id, node->info.generation,
          (struct speed){.tokens = 2000, .seconds = 0.2f + (float)(node_id % 7) * 0.05f});
    stats_average(board, node_id, node->info.generation, STATS_AVG_HOLD_S, 4, 0.1);
    /* Every worker has had requests everywhere; with 16 of them 8 are on each node now. */
    for (unsigned worker = 0; worker < scene->workers; worker++) {
        if (!gauges_claim(board, worker, node_id, node->info.generation, 100, SLOTS))
            die("no place for a request");
        if ((worker + node_id) % 2 == 0)
            speeds_note_work(board, node_id, node->info.generation, scene->now_us);
        else
            gauges_release(board, worker, node_id, node->info.generation, 100);
    }
}

/* Prompts that share their first windows in groups, each known to some nodes. */
static void fill_index(struct scene *scene)
{
    for (unsigned p = 0; p < PROMPTS; p++) {
        for (unsigned k = 0; k < WINDOWS; k++) {
            if (k < 4 && p % 16 != 0)
                scene->windows[p][k] = scene->windows[p - p % 16][k];
            else
                scene->windows[p][k] = next_random(&scene->random) ^ next_random(&scene->random)
                                                                         << 32;
        }
    }
    for (unsigned p = 0; p < PROMPTS; p++) {
        const struct upstream_server *server =
            &scene->server[(next_random(&scene->random) >> 33) % scene->nodes];

        prefix_note(scene->board, server->node_id, server->generation, scene->windows[p],
                    WINDOWS, scene->now_us);
    }
}

static struct scene *make_scene(unsigned nodes, unsigned workers)
{
    static struct scene scene;
    struct scoreboard_params params = {
        .max_nodes = nodes, .max_workers = workers, .requests_per_worker = 16};
    char folder[] = "/dev/shm/decision-cost-XXXXXX", path[64];
    struct error err;

    memset(&scene, 0, sizeof(scene));
    scene.nodes = nodes;
    scene.workers = workers;
    scene.now_us = clock_mono_us();
    scene.times = route_times(1);
    if (mkdtemp(folder) == NULL)
        die("no folder in /dev/shm");
    (void)snprintf(path, sizeof(path), "%s/%s", folder, SCOREBOARD_FILE_NAME);
    if (scoreboard_create(&scene.board, path, &params, &err) != 0)
        die("no scoreboard");
    (void)unlink(path); /* the mapping stays */
    (void)rmdir(folder);
    for (unsigned node_id = 0; node_id < nodes; node_id++)
        add_node(&scene, node_id);
    scene.model.servers = scene.server;
    scene.model.servers_count = nodes;
    fill_index(&scene);
    return &scene;
}

static void free_scene(struct scene *scene)
{
    for (unsigned node_id = 0; node_id < scene->nodes; node_id++)
        free(scene->node[node_id]);
    scoreboard_detach(scene->board);
}

/* ---- writers --------------------------------------------------------------------------- */

/* Lives as a worker whose requests last no time, until it is killed. */
static _Noreturn void write_on(const struct scene *scene, unsigned worker)
{
    const struct timespec rest = {.tv_nsec = WRITER_REST_NS};
    uint64_t random = worker;

    for (;;) {
        const struct upstream_server *s =
            &scene->server[(next_random(&random) >> 33) % scene->nodes];

        if (gauges_claim(scene->board, worker, s->node_id, s->generation, 100, 2 * SLOTS)) {
            gauges_prefill_done(scene->board, worker, s->node_id, s->generation, 100);
            stats_average(scene->board, s->node_id, s->generation, STATS_AVG_HOLD_S, 4, 0.1);
            gauges_release(scene->board, worker, s->node_id, s->generation, 0);
        }
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
    }
}

static void start_writers(const struct scene *scene, pid_t *pids)
{
    for (unsigned worker = 1; worker < scene->workers; worker++) {
        pids[worker] = fork();
        if (pids[worker] == -1)
            die("fork failed");
        if (pids[worker] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            write_on(scene, worker);
        }
    }
}

static void stop_writers(const struct scene *scene, const pid_t *pids)
{
    for (unsigned worker = 1; worker < scene->workers; worker++) {
        (void)kill(pids[worker], SIGKILL);
        (void)waitpid(pids[worker], NULL, 0);
    }
}

/* ---- measuring ------------------------------------------------------------------------- */

static double ns_of(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct cost {
    double least_ns, median_ns; /* for one decision */
};

static struct cost measure(unsigned nodes, unsigned workers, unsigned decisions, bool writers)
{
    struct scene *scene = make_scene(nodes, workers);
    clockid_t clock = writers ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    pid_t pids[MAX_WORKERS];
    double ns[REPETITIONS];

    if (writers)
        start_writers(scene, pids);
    for (unsigned i = 0; i < 10 * decisions; i++)
        decide(scene); /* warms up */
    for (int r = 0; r < REPETITIONS; r++) {
        double begun_ns = ns_of(clock);

        for (unsigned i = 0; i < decisions; i++)
            decide(scene);
        ns[r] = (ns_of(clock) - begun_ns) / decisions;
    }
    if (writers)
        stop_writers(scene, pids);
    free_scene(scene);
    qsort(ns, REPETITIONS, sizeof(ns[0]), compare);
    return (struct cost){.least_ns = ns[0], .median_ns = ns[REPETITIONS / 2]};
}

static int measure_all(void)
{
    static const struct {
        unsigned nodes, workers, decisions;
        bool writers;
        double target_ns; /* 0 = none */
    } rows[] = {{8, 4, 500, false, 1000},
                {256, 16, 50, false, 10000},
                {8, 4, 500, true, 0},
                {256, 16, 50, true, 0}};
    bool passed = true;

    printf("%6s %8s %8s %12s %12s %10s\n", "nodes", "workers", "writers", "least ns",
           "median ns", "target");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct cost cost =
            measure(rows[i].nodes, rows[i].workers, rows[i].decisions, rows[i].writers);
        bool met = cost.least_ns <= rows[i].target_ns;

        printf("%6u %8u %8u %12.0f %12.0f", rows[i].nodes, rows[i].workers,
               rows[i].writers ? rows[i].workers - 1 : 0, cost.least_ns, cost.median_ns);
        if (rows[i].target_ns != 0) {
            printf(" %10.0f  %s", rows[i].target_ns, met ? "PASS" : "FAIL");
            passed = passed && met;
        }
        (void)putchar('\n');
        (void)fflush(stdout); /* before a fork */
    }
    return passed ? 0 : 1;
}

int main(int argc, char **argv)
{
    unsigned nodes, workers, n;
    struct scene *scene;

    if (argc != 4 && argc != 5)
        return measure_all();
    nodes = (unsigned)atoi(argv[1]);
    workers = (unsigned)atoi(argv[2]);
    n = (unsigned)atoi(argv[3]);
    if (nodes == 0 || nodes > MAX_NODES || workers == 0 || workers > MAX_WORKERS)
        die("usage: decision_cost [NODES WORKERS DECISIONS [alone]]");
    scene = make_scene(nodes, workers);
    scene->alone = argc == 5 && strcmp(argv[4], "alone") == 0;
    for (unsigned i = 0; i < n; i++)
        decide(scene);
    free_scene(scene);
    return 0;
}
