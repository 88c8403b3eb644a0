/* decision_cost.c - what one routing decision costs, on a real scoreboard. */
/*
 * Does what choose_node() in worker/routing/choose.c does for a request, in that order and with
 * the same functions: state, status, gauges and averages of each node, the prefix index for a
 * prompt of 16 windows, the session, the policy, the claim, the record of the decision and the
 * notes that it leaves in gauges and index.  choose.c itself wants a loop, channels and a
 * client, so its loop is written again here; when that changes, this must.  Left out: what is
 * done once for a model and not per node (a hash look-up), whether the channel to the node is
 * open, and nodes that failed for the request before.
 *
 * The release at the end of a request is counted too.  Prompts change from decision to
 * decision; every worker has requests everywhere, so nothing is skipped for being empty.  One
 * process: the cost of cache lines that other workers have just written is not in it.
 *
 *   decision_cost       exits with 1 when a target is missed
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "shm/nodes.h"
#include "shm/routing/decisions.h"
#include "shm/routing/gauges.h"
#include "shm/routing/prefix.h"
#include "shm/scoreboard.h"
#include "shm/stats.h"
#include "worker/routing/policy.h"

#define MAX_NODES     256
#define WINDOWS       16
#define PROMPTS       1024
#define WINDOW_TOKENS 512
#define SLOTS         16
#define RUNS          15
#define WORKER        0

struct scene {
    struct scoreboard *board;
    unsigned nodes, workers;
    struct node_info info[MAX_NODES]; /* the worker's own copies */
    uint64_t tried_us[MAX_NODES];
    uint64_t windows[PROMPTS][WINDOWS];
    uint32_t matched[MAX_NODES];
    uint32_t cursor;
    uint64_t random;
    uint64_t now_us;
    /* The last request at work, released when the next has been placed. */
    unsigned held_node;
    uint32_t held_generation, held_tokens;
};

struct choice {
    struct policy_candidate candidates[MAX_NODES];
    bool unproven[MAX_NODES];
    unsigned node[MAX_NODES];
    size_t count;
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "decision_cost: %s\n", what);
    exit(2);
}

static uint64_t next_random(struct scene *scene)
{
    scene->random =
        scene->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return scene->random;
}

/* ---- one decision --------------------------------------------------------------------------
 */

static void describe(struct policy_candidate *c, const struct scene *scene, unsigned node,
                     const struct node_status *status, int session_node)
{
    const struct scoreboard *board = scene->board;
    const struct node_info *info = &scene->info[node];
    struct gauge gauge = gauges_sum_oldest(board, node, status->generation);

    c->id = node;
    c->inflight = gauge.inflight;
    c->slots = status->slots_now == 0 ? 1 : status->slots_now;
    c->cap = c->slots + info->queue;
    c->weight = info->weight == 0 ? 1 : info->weight;
    c->pending_tokens = gauge.pending_tokens;
    c->matched_tokens = WINDOW_TOKENS * scene->matched[node];
    c->prefill_tokens_per_s = policy_prefill_speed(
        stats_read_average(board, node, STATS_AVG_BACKLOG),
        stats_read_average(board, node, STATS_AVG_TTFT_S), (double)info->prefill_tokens_per_s,
        gauge.pending_tokens,
        gauge.oldest_mono_us == 0 || gauge.oldest_mono_us > scene->now_us
            ? 0
            : (double)(scene->now_us - gauge.oldest_mono_us) / (double)US_PER_S);
    c->hold_s = stats_read_average(board, node, STATS_AVG_HOLD_S);
    c->load_s = 0;
    c->same_session = session_node == (int)node;
}

static void gather(struct scene *scene, struct choice *choice, const uint64_t *windows)
{
    int session_node = prefix_session_get(scene->board, windows[0]);
    double best = 0;

    choice->count = 0;
    (void)prefix_match(scene->board, windows, WINDOWS, scene->matched);
    for (unsigned node = 0; node < scene->nodes; node++) {
        struct policy_candidate *c = &choice->candidates[choice->count];
        struct node_status status;

        if (nodes_state(scene->board, node) != NODE_UP ||
            !nodes_status(scene->board, node, &status) ||
            status.generation != scene->info[node].generation)
            continue;
        describe(c, scene, node, &status, session_node);
        choice->unproven[choice->count] =
            c->inflight == 0 &&
            (stats_read_average(scene->board, node, STATS_AVG_TTFT_S) == 0 ||
             scene->now_us - scene->tried_us[node] > 10 * US_PER_S);
        choice->node[choice->count++] = node;
    }
    for (size_t i = 0; i < choice->count; i++)
        best = fmax(best, choice->candidates[i].prefill_tokens_per_s);
    for (size_t i = 0; i < choice->count; i++) {
        if (choice->unproven[i])
            choice->candidates[i].prefill_tokens_per_s = best;
    }
}

static void record(const struct scene *scene, const struct choice *choice,
                   const struct policy_request *request, int chosen)
{
    static struct decision d;

    memset(&d, 0, offsetof(struct decision, candidate));
    (void)strlcpy(d.id, "req-0123456789abcdef0123", sizeof(d.id));
    (void)strlcpy(d.model, "sim-small", sizeof(d.model));
    d.at_mono_us = scene->now_us;
    d.policy = POLICY_FASTEST;
    d.prompt_tokens = request->tokens;
    d.node = choice->node[chosen];
    (void)strlcpy(d.name, scene->info[d.node].name, sizeof(d.name));
    d.candidates_total = (uint32_t)choice->count;
    for (size_t i = 0; i < choice->count; i++) {
        const struct policy_candidate *c = &choice->candidates[i];
        struct decision_candidate *to;
        struct policy_terms terms;

        if (d.candidates == DECISIONS_CANDIDATES && (int)i != chosen)
            continue;
        to = &d.candidate[d.candidates == DECISIONS_CANDIDATES ? d.candidates - 1
                                                               : d.candidates++];
        policy_terms(&terms, c, request);
        to->node = choice->node[i];
        (void)strlcpy(to->name, scene->info[to->node].name, sizeof(to->name));
        to->inflight = c->inflight;
        to->slots = c->slots;
        to->cap = c->cap;
        to->pending_tokens =
            c->pending_tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)c->pending_tokens;
        to->matched_tokens = c->matched_tokens;
        to->prefill_per_s = (float)c->prefill_tokens_per_s;
        to->wait_s = (float)terms.wait_s;
        to->prefill_s = (float)terms.prefill_s;
        to->load_s = (float)terms.load_s;
        to->bonus_s = (float)terms.bonus_s;
        to->cost_s = (float)terms.cost_s;
        to->bars = terms.eligible ? 0 : DECISION_BAR_FULL;
    }
    decisions_add(scene->board, WORKER, &d);
}

static void decide(struct scene *scene, const uint64_t *windows)
{
    static struct choice choice;
    struct policy_request request = {.tokens = WINDOWS * WINDOW_TOKENS, .key = windows[1]};
    struct scoreboard *board = scene->board;
    struct policy_terms terms;
    const struct policy_candidate *c;
    unsigned node;
    uint32_t generation;
    int at;

    scene->now_us++;
    gather(scene, &choice, windows);
    at = policy_choose(POLICY_FASTEST, choice.candidates, choice.count, &request,
                       &scene->cursor, next_random(scene));
    if (at < 0)
        die("no node was chosen");
    c = &choice.candidates[at];
    policy_terms(&terms, c, &request);
    node = choice.node[at];
    generation = scene->info[node].generation;
    if (!gauges_claim(board, WORKER, node, generation, terms.uncached_tokens,
                      c->inflight < c->slots ? c->slots : c->cap))
        die("a claim was lost");
    record(scene, &choice, &request, at);
    scene->tried_us[node] = scene->now_us;
    prefix_note(board, node, generation, windows, WINDOWS, scene->now_us);
    prefix_session_set(board, windows[0], node, generation, scene->now_us);
    gauges_set_oldest(board, WORKER, node, generation, scene->now_us);

    gauges_release(board, WORKER, scene->held_node, scene->held_generation, scene->held_tokens);
    scene->held_node = node;
    scene->held_generation = generation;
    scene->held_tokens = terms.uncached_tokens;
}

/* ---- the scene -----------------------------------------------------------------------------
 */

static void add_node(struct scene *scene, unsigned node)
{
    struct node_info info = {.slots = SLOTS, .queue = SLOTS / 2, .weight = 100};
    struct scoreboard *board = scene->board;

    if (nodes_claim(board, scene->now_us) != (int)node)
        die("no slot for a node");
    (void)snprintf(info.name, sizeof(info.name), "node-%u", node);
    (void)strlcpy(info.address, "127.0.0.1:7000", sizeof(info.address));
    info.prefill_tokens_per_s = 8000;
    nodes_publish(board, node, &info);
    nodes_set_state(board, node, NODE_UP, NODE_REASON_PROBES_PASS, scene->now_us);
    if (!nodes_read(board, node, &scene->info[node]))
        die("a node cannot be read");
    stats_average(board, node, scene->info[node].generation, STATS_AVG_TTFT_S,
                  0.2 + node % 7 * 0.05, 0.1);
    stats_average(board, node, scene->info[node].generation, STATS_AVG_BACKLOG, 2000, 0.1);
    stats_average(board, node, scene->info[node].generation, STATS_AVG_HOLD_S, 4, 0.1);
    /* With 16 workers 8 requests on each node, and a column of every worker in use. */
    for (unsigned worker = 0; worker < scene->workers; worker++) {
        if ((worker + node) % 2 != 0)
            continue;
        if (!gauges_claim(board, worker, node, scene->info[node].generation, 100, SLOTS))
            die("no place for a request");
        gauges_set_oldest(board, worker, node, scene->info[node].generation, scene->now_us);
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
                scene->windows[p][k] = next_random(scene) ^ next_random(scene) << 32;
        }
    }
    for (unsigned p = 0; p < PROMPTS; p++) {
        unsigned node = (unsigned)(next_random(scene) >> 33) % scene->nodes;

        prefix_note(scene->board, node, scene->info[node].generation, scene->windows[p],
                    WINDOWS, scene->now_us);
    }
}

static double ns_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median of some runs, in nanoseconds for one decision. */
static double measure(unsigned nodes, unsigned workers, unsigned decisions, double *least)
{
    static struct scene scene;
    struct scoreboard_params params = {
        .max_nodes = nodes, .max_workers = workers, .requests_per_worker = 16};
    char folder[] = "/dev/shm/decision-cost-XXXXXX", path[64];
    double ns[RUNS];
    struct error err;

    memset(&scene, 0, sizeof(scene));
    scene.nodes = nodes;
    scene.workers = workers;
    scene.now_us = clock_mono_us();
    if (mkdtemp(folder) == NULL)
        die("no folder in /dev/shm");
    (void)snprintf(path, sizeof(path), "%s/%s", folder, SCOREBOARD_FILE_NAME);
    if (scoreboard_create(&scene.board, path, &params, &err) != 0)
        die("no scoreboard");
    (void)unlink(path); /* the mapping stays */
    (void)rmdir(folder);
    for (unsigned node = 0; node < nodes; node++)
        add_node(&scene, node);
    fill_index(&scene);
    if (!gauges_claim(scene.board, WORKER, 0, scene.info[0].generation, 0, SLOTS))
        die("no place for the first request");
    scene.held_generation = scene.info[0].generation;
    for (int run = -1; run < RUNS; run++) { /* the first warms up */
        double begun_ns = ns_now();

        for (unsigned i = 0; i < decisions; i++)
            decide(&scene, scene.windows[next_random(&scene) >> 33 & (PROMPTS - 1)]);
        if (run >= 0)
            ns[run] = (ns_now() - begun_ns) / decisions;
    }
    scoreboard_detach(scene.board);
    qsort(ns, RUNS, sizeof(ns[0]), compare);
    *least = ns[0];
    return ns[RUNS / 2];
}

int main(void)
{
    static const struct {
        unsigned nodes, workers, decisions;
        double target_ns;
    } rows[] = {{8, 4, 50000, 1000}, {256, 16, 5000, 10000}};
    bool passed = true;

    printf("%6s %8s %14s %10s %10s\n", "nodes", "workers", "ns/decision", "least", "target");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        double least,
            median = measure(rows[i].nodes, rows[i].workers, rows[i].decisions, &least);
        bool met = median <= rows[i].target_ns;

        printf("%6u %8u %14.0f %10.0f %10.0f  %s\n", rows[i].nodes, rows[i].workers, median,
               least, rows[i].target_ns, met ? "PASS" : "FAIL");
        passed = passed && met;
    }
    return passed ? 0 : 1;
}
