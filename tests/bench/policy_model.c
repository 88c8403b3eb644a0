/* policy_model.c - a model of nodes and of the worker's choice, for scripts/bench-policy. */
/*
 * Replays a schedule against simulated engines (sim/model/sim_model.h) in model time, so
 * an hour of trace takes a second.  The choice is policy/route/balance.c itself; what it is
 * fed is kept as the worker keeps it: exact gauges, speeds learned from requests that had a
 * slot, the queue in order of arrival with a look behind its head for matches.
 *
 * It is a model.  There is one worker, no network and no time passes between a decision and its
 * effect; tokens are known exactly; the prefix index is a list of blocks for each node, as long
 * as the node's cache, where the real one is common to all and a lookup is no use.
 *
 *   policy_model --fleet GROUPS --policy NAME [--push] --seed N SCHEDULE
 *
 * The policy `oracle` knows the engines: of all places, those beyond the slots included, it
 * takes the one with the earliest first token, by roll-out (policy_oracle.h).
 *
 * GROUPS: COUNTxSLOTS:PREFILL:BASE_MS:SLOPE_MS:BLOCKS,...  A line of SCHEDULE: arrival in us,
 * prompt tokens, output tokens, key (hexadecimal), blocks with commas between, or "-".  Prints
 * a line for each request: node, us from arrival to first token and to last, cached tokens.
 */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "policy/route/balance.h"
#include "policy/route/estimate.h"
#include "policy/route/order.h"
#include "sim/model/sim_model.h"
#include "tests/bench/policy_oracle.h"

#define MAX_NODES    64
#define BLOCK_TOKENS 512
#define CHUNK_TOKENS 512
#define LOOK_BEHIND  16 /* as PRICED in worker/queue/queue.c */
#define HOLD_ALPHA   0.1

struct request {
    struct sim_seq seq;
    uint64_t arrival_us;
    uint32_t prompt, output;
    uint64_t key;
    uint64_t *blocks; /* owned */
    size_t n_blocks;

    struct request *wait_next; /* in the queue */
    uint64_t key_us;           /* there */
    struct node *node;         /* NULL = not dispatched yet */
    uint64_t dispatch_us, first_us, last_us;
    uint32_t tokens;      /* given so far */
    uint32_t uncached;    /* u: what it added to the node's pending tokens */
    uint32_t charge_us;   /* of these */
    double left_s, speed; /* of the node when it was sent: its backlog, and p */
    bool had_slot;
};

struct node {
    struct sim_model model;
    struct sim_cache index; /* what the coordinator believes to be in the model's cache */
    uint64_t next_us;       /* when to advance the model; 0 = never */
    uint32_t slots, queue;
    double reported_tokens_per_s;
    uint32_t inflight;
    uint64_t charged_us;
    uint64_t work_us; /* since then the engine is at what is now its first */
    struct estimate_speed speed;
    double hold_s; /* moving average; 0 = no sample */
    uint64_t tried_us;
};

struct world {
    struct node nodes[MAX_NODES];
    size_t n_nodes;
    struct request *requests; /* owned; by arrival */
    size_t n_requests;
    struct request *wait_first; /* by key */
    enum policy_kind policy;
    bool push;   /* commit to slots + queue of any node, match or none */
    bool oracle; /* see above */
    uint32_t cursor;
    uint64_t random;
    uint64_t now_us;
    bool released; /* a place came free in the present step */
};

static struct route_times times; /* real ones: model time is that of the engines */

/* ---- the choice ------------------------------------------------------------------------ */

static void describe(struct balance_candidate *c, struct world *world, struct node *node,
                     const struct request *r)
{
    size_t hit = 0;
    struct estimate_backlog backlog =
        estimate_backlog(node->charged_us, node->work_us, world->now_us, &times);

    if (world->policy == POLICY_FASTEST && r->n_blocks != 0)
        hit = sim_cache_peek(&node->index, r->blocks, r->n_blocks);
    *c = (struct balance_candidate){
        .id = (uint32_t)(node - world->nodes),
        .inflight = node->inflight,
        .cap = node->slots + node->queue,
        .slots = node->slots,
        .weight = 100,
        .matched_tokens = (uint32_t)hit * BLOCK_TOKENS,
        .backlog_s = backlog.left_s,
        .slowdown = (float)backlog.slowdown,
        .prefill_tokens_per_s =
            estimate_tokens_per_s(node->speed, node->reported_tokens_per_s, &times),
        .hold_s = (float)node->hold_s,
        .regret_s = -1,
    };
    if (node->charged_us == 0)
        c->regret_s = (float)estimate_regret_s(node->tried_us, node->inflight != 0,
                                               world->now_us, &times);
}

static uint64_t next_random(struct world *world)
{
    world->random =
        world->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return world->random;
}

/* The published form of the formula: the least cost of all that have any place. */
static int choose_push(const struct balance_candidate *candidates, size_t n,
                       const struct balance_request *request, uint64_t random)
{
    int best = -1;
    double best_cost_s = 0;

    for (size_t step = 0; step < n; step++) {
        size_t i = (step + (random >> 33)) % n; /* equals are not always taken in one order */
        struct balance_terms terms;

        if (candidates[i].inflight >= candidates[i].cap)
            continue;
        balance_terms(&terms, &candidates[i], request);
        if (best == -1 || terms.cost_s < best_cost_s) {
            best = (int)i;
            best_cost_s = terms.cost_s;
        }
    }
    return best;
}

static uint32_t left_of(const struct sim_seq *seq)
{
    const struct request *r = (const struct request *)(const void *)seq;

    return r->output - r->tokens;
}

static int choose_by_oracle(struct world *world, struct request *r)
{
    uint64_t best_us = UINT64_MAX;
    int best = -1;

    for (size_t i = 0; i < world->n_nodes; i++) {
        struct node *node = &world->nodes[i];
        uint64_t first_us;

        if (node->inflight >= node->slots + node->queue)
            continue;
        first_us = oracle_first_token_us(&node->model, &r->seq, world->now_us, left_of);
        if (first_us < best_us) {
            best = (int)i;
            best_us = first_us;
        }
    }
    return best;
}

static void dispatch(struct world *world, struct request *r, struct node *node,
                     const struct balance_candidate *c, const struct balance_terms *terms)
{
    r->node = node;
    r->dispatch_us = world->now_us;
    r->had_slot = node->inflight < node->slots;
    r->uncached = terms->uncached_tokens;
    r->left_s = c->backlog_s;
    r->speed = c->prefill_tokens_per_s;
    r->charge_us = estimate_charge_us(r->uncached, r->speed);
    node->inflight++;
    if (node->charged_us == 0)
        node->work_us = world->now_us;
    node->charged_us += r->charge_us;
    node->tried_us = world->now_us;
    sim_model_add(&node->model, &r->seq);
    node->next_us = world->now_us;
}

/* False: no node may take it now. */
static bool try_start(struct world *world, struct request *r)
{
    struct balance_candidate candidates[MAX_NODES];
    struct balance_request request = {.tokens = r->prompt, .key = r->key};
    struct balance_terms terms;
    int at;

    for (size_t i = 0; i < world->n_nodes; i++)
        describe(&candidates[i], world, &world->nodes[i], r);
    if (world->oracle)
        at = choose_by_oracle(world, r);
    else if (world->push)
        at = choose_push(candidates, world->n_nodes, &request, next_random(world));
    else
        at = balance_choose(world->policy, candidates, world->n_nodes, &request, &world->cursor,
                            next_random(world), NULL);
    if (at < 0)
        return false;
    balance_terms(&terms, &candidates[at], &request);
    dispatch(world, r, &world->nodes[at], &candidates[at], &terms);
    return true;
}

/* ---- the queue ------------------------------------------------------------------------- */

/* Seconds of prefill where it takes least. */
static double own_prefill_s(struct world *world, const struct request *r)
{
    double least_s = INFINITY;

    for (size_t i = 0; i < world->n_nodes; i++) {
        struct balance_candidate c;

        describe(&c, world, &world->nodes[i], r);
        least_s = fmin(least_s, balance_own_prefill_s(&c, r->prompt));
    }
    return least_s;
}

/* By key, and those with equal keys as they came. */
static void join_line(struct world *world, struct request *r)
{
    struct request **link = &world->wait_first;

    r->key_us =
        order_key_us(r->arrival_us, REQUEST_PRIORITY_DEFAULT,
                     world->policy == POLICY_FASTEST ? own_prefill_s(world, r) : 0, &times);
    while (*link != NULL && (*link)->key_us <= r->key_us)
        link = &(*link)->wait_next;
    r->wait_next = *link;
    *link = r;
}

/* Takes out the one after `before`, or the first if that is NULL. */
static void leave_line(struct world *world, struct request *before)
{
    struct request **link = before == NULL ? &world->wait_first : &before->wait_next;

    *link = (*link)->wait_next;
}

static void pass(struct world *world)
{
    struct request *before;

    while (world->wait_first != NULL && try_start(world, world->wait_first))
        leave_line(world, NULL);
    if (world->wait_first == NULL || world->policy != POLICY_FASTEST)
        return;
    before = world->wait_first;
    for (unsigned looks = 0; before->wait_next != NULL && looks < LOOK_BEHIND; looks++) {
        if (before->wait_next->n_blocks != 0 && try_start(world, before->wait_next))
            leave_line(world, before);
        else
            before = before->wait_next;
    }
}

/* ---- the answers ----------------------------------------------------------------------- */

static void learn(double *average, double sample)
{
    *average = *average == 0 ? sample : *average + HOLD_ALPHA * (sample - *average);
}

static void first_token(struct world *world, struct request *r)
{
    struct node *node = r->node;

    r->first_us = world->now_us;
    node->charged_us -= r->charge_us;
    node->work_us = world->now_us;
    sim_cache_insert(&node->index, r->blocks, r->n_blocks);

    if (r->had_slot)
        node->speed = estimate_learn(
            node->speed,
            estimate_sample(r->uncached, r->left_s, r->speed,
                            (double)(world->now_us - r->dispatch_us) / (double)US_PER_S));
}

static void on_token(struct sim_seq *seq, void *data)
{
    struct world *world = data;
    /* The sequence is the first field. */
    struct request *r = (struct request *)(void *)seq;
    struct node *node = r->node;

    if (r->tokens++ == 0)
        first_token(world, r);
    if (r->tokens < r->output)
        return;
    r->last_us = world->now_us;
    learn(&node->hold_s, (double)(world->now_us - r->dispatch_us) / (double)US_PER_S);
    node->inflight--;
    sim_model_remove(&node->model, seq);
    world->released = true;
}

static void run(struct world *world)
{
    size_t arrived = 0;

    for (;;) {
        struct node *next = NULL;

        for (size_t i = 0; i < world->n_nodes; i++) {
            struct node *node = &world->nodes[i];

            if (node->next_us != 0 && (next == NULL || node->next_us < next->next_us))
                next = node;
        }
        if (arrived < world->n_requests &&
            (next == NULL || world->requests[arrived].arrival_us <= next->next_us)) {
            struct request *r = &world->requests[arrived++];

            world->now_us = r->arrival_us;
            join_line(world, r);
            pass(world);
            continue;
        }
        if (next == NULL)
            return;
        world->now_us = next->next_us;
        world->released = false;
        next->next_us = sim_model_advance(&next->model, world->now_us, on_token, world);
        if (world->released)
            pass(world);
    }
}

/* ---- input ----------------------------------------------------------------------------- */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "policy_model: %s\n", what);
    exit(1);
}

static void add_node(struct world *world, const struct sim_model_config *config)
{
    struct node *node = &world->nodes[world->n_nodes++];

    if (sim_model_init(&node->model, config) != 0 ||
        sim_cache_init(&node->index, config->cache_blocks) != 0)
        die("out of memory");
    node->slots = config->slots;
    node->queue = (config->slots + 1) / 2; /* the coordinator's default */
    node->reported_tokens_per_s = config->prefill_tokens_per_s;
}

static void read_fleet(struct world *world, const char *text)
{
    while (*text != '\0') {
        struct sim_model_config config = {.chunk_tokens = CHUNK_TOKENS,
                                          .cache = SIM_CACHE_BLOCK,
                                          .block_tokens = BLOCK_TOKENS,
                                          .spread = 1};
        double base_ms, slope_ms;
        unsigned count;
        int used = 0;

        if (sscanf(text, "%ux%" SCNu32 ":%lf:%lf:%lf:%" SCNu32 "%n", &count, &config.slots,
                   &config.prefill_tokens_per_s, &base_ms, &slope_ms, &config.cache_blocks,
                   &used) != 6 ||
            config.slots == 0 || !(config.prefill_tokens_per_s > 0) || !(base_ms >= 0) ||
            !(slope_ms >= 0) || count > MAX_NODES - world->n_nodes)
            die("--fleet is not COUNTxSLOTS:PREFILL:BASE_MS:SLOPE_MS:BLOCKS,...");
        config.base_us = base_ms * (double)US_PER_MS;
        config.slope_us = slope_ms * (double)US_PER_MS;
        while (count-- > 0)
            add_node(world, &config);
        text += used;
        text += *text == ',';
    }
    if (world->n_nodes == 0)
        die("no nodes");
}

/* splitmix64's finisher: small block numbers must not all fall into one bucket. */
static uint64_t mix(uint64_t x)
{
    return hash_spread(x + HASH_GOLDEN);
}

static void read_blocks(struct request *r, const char *text)
{
    size_t whole = r->prompt / BLOCK_TOKENS; /* the last block may be a part */
    char *end;

    r->blocks = calloc(whole + 1, sizeof(*r->blocks));
    if (r->blocks == NULL)
        die("out of memory");
    while (r->n_blocks < whole && *text >= '0' && *text <= '9') {
        r->blocks[r->n_blocks++] = mix(strtoull(text, &end, 10));
        text = end + (*end == ',');
    }
}

static void read_schedule(struct world *world, const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t line_bytes = 0, room = 0;

    if (file == NULL)
        die("cannot open the schedule");
    while (getline(&line, &line_bytes, file) != -1) {
        struct request r = {0};
        int used = 0;

        if (sscanf(line, "%" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNx64 " %n", &r.arrival_us,
                   &r.prompt, &r.output, &r.key, &used) != 4 ||
            used == 0 || r.prompt == 0 || r.output == 0)
            die("a line of the schedule is no request");
        r.arrival_us++; /* 0 would mean "never" to the nodes */
        read_blocks(&r, line + used);
        r.seq.prompt_tokens = r.prompt;
        r.seq.blocks = r.blocks;
        r.seq.n_blocks = r.n_blocks;
        if (world->n_requests != 0 &&
            r.arrival_us < world->requests[world->n_requests - 1].arrival_us)
            die("the schedule is not in order of arrival");
        if (world->n_requests == room) {
            room = room == 0 ? 1024 : room * 2;
            world->requests = reallocarray(world->requests, room, sizeof(r));
            if (world->requests == NULL)
                die("out of memory");
        }
        world->requests[world->n_requests++] = r;
    }
    free(line);
    (void)fclose(file);
}

static enum policy_kind policy_named(const char *name)
{
    static const struct {
        const char *name;
        enum policy_kind kind;
    } all[] = {{"fastest", POLICY_FASTEST},
               {"least_conn", POLICY_LEAST_CONN},
               {"random2", POLICY_RANDOM2},
               {"prefix_hash", POLICY_PREFIX_HASH},
               {"round_robin", POLICY_ROUND_ROBIN}};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(all[i].name, name) == 0)
            return all[i].kind;
    }
    die("no such policy");
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"fleet", required_argument, NULL, 'f'},
        {"policy", required_argument, NULL, 'p'},
        {"push", no_argument, NULL, 'u'},
        {"seed", required_argument, NULL, 's'},
        {0},
    };
    static struct world world = {.policy = POLICY_FASTEST};
    int option;

    times = route_times(1);
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'f':
            read_fleet(&world, optarg);
            break;
        case 'p':
            world.oracle = strcmp(optarg, "oracle") == 0;
            world.policy = world.oracle ? POLICY_FASTEST : policy_named(optarg);
            break;
        case 'u':
            world.push = true;
            break;
        case 's':
            world.random = mix(strtoull(optarg, NULL, 10));
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || world.n_nodes == 0)
        die("wants --fleet, and a schedule");
    read_schedule(&world, argv[optind]);
    run(&world);
    for (size_t i = 0; i < world.n_requests; i++) {
        struct request *r = &world.requests[i];

        if (r->node == NULL || r->tokens < r->output)
            die("a request was left over");
        printf("%zu %" PRIu64 " %" PRIu64 " %" PRIu32 "\n", (size_t)(r->node - world.nodes),
               r->first_us - r->arrival_us, r->last_us - r->arrival_us, r->seq.cached_tokens);
        free(r->blocks);
    }
    free(world.requests);
    for (size_t i = 0; i < world.n_nodes; i++) {
        sim_model_finish(&world.nodes[i].model);
        sim_cache_finish(&world.nodes[i].index);
    }
    return 0;
}
