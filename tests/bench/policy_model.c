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
 *   policy_model --nodes GROUPS --policy NAME [--push] [--hold MS] --seed N SCHEDULE
 *
 * Long prompts are held at the coordinator as the worker holds them (policy/route/hold.h), up
 * to
 * --hold MS of work at a node; 0 = off, and 1000 by default, of use to `fastest` only.  A
 * request that waits looks at the nodes when one opens and ten times a second.
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
#include "policy/queue/order.h"
#include "policy/route/balance.h"
#include "policy/route/estimate.h"
#include "policy/route/hold.h"
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

    struct node *plan; /* where it is planned while it waits; NULL = it is unbound */
    uint32_t plan_us;  /* ... and charged */
    uint64_t promised_us, planned_at_us, looked_us;
    uint64_t held_us;  /* from then on it counts as holding a slot */
    uint64_t declined; /* open nodes that it passed over in this pass: bits */
};

struct node {
    struct sim_model model;
    struct sim_cache index; /* what the coordinator believes to be in the model's cache */
    uint64_t next_us;       /* when to advance the model; 0 = never */
    uint32_t slots, queue;
    double reported_tokens_per_s;
    uint32_t inflight;
    uint64_t charged_us;
    uint32_t planned; /* requests, and their charge */
    uint64_t planned_us;
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
    bool push;        /* commit to slots + queue of any node, match or none */
    bool oracle;      /* see above */
    uint64_t hold_us; /* 0 = requests are sent at once */
    uint32_t cursor;
    uint64_t random;
    uint64_t now_us;
    bool released;    /* a place came free in the present step, or a window may have opened */
    uint64_t look_us; /* when those that wait look at the nodes again */
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
static int select_push(const struct balance_candidate *candidates, size_t n,
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

static int select_by_oracle(struct world *world, struct request *r)
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
    r->held_us = r->plan == node ? r->planned_at_us : world->now_us;
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
        at = select_by_oracle(world, r);
    else if (world->push)
        at = select_push(candidates, world->n_nodes, &request, next_random(world));
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

/* ---- hold ------------------------------------------------------------------------------ */

static double left_s(const struct world *world, const struct node *node)
{
    return estimate_backlog(node->charged_us, node->work_us, world->now_us, &times).left_s;
}

static bool is_open(const struct world *world, const struct node *node)
{
    return node->inflight < node->slots &&
           hold_window_open(left_s(world, node), world->hold_us);
}

static void drop_plan(struct request *r)
{
    if (r->plan == NULL)
        return;
    r->plan->planned--;
    r->plan->planned_us -= r->plan_us;
    r->plan = NULL;
}

static void make_plan(struct world *world, struct request *r, struct node *node,
                      const struct balance_candidate *c, const struct balance_terms *terms)
{
    drop_plan(r);
    r->plan = node;
    r->plan_us = estimate_charge_us(terms->uncached_tokens, c->prefill_tokens_per_s);
    r->planned_at_us = world->now_us;
    r->promised_us = hold_promise(terms->cost_s, world->now_us);
    node->planned++;
    node->planned_us += r->plan_us;
}

/* Does nothing that waits go before it there, by more than `lead_us`? */
static bool goes_first(const struct world *world, const struct request *r,
                       const struct node *node, uint64_t lead_us)
{
    for (const struct request *w = world->wait_first; w != NULL && w != r; w = w->wait_next)
        if ((w->plan == NULL || w->plan == node) &&
            w->key_us + lead_us < r->key_us + (lead_us == 0 ? 1 : 0))
            return false;
    return true;
}

/* As describe(), and what may be sent and planned there. */
static void describe_held(struct balance_candidate *c, struct world *world, struct node *node,
                          const struct request *r, bool any_slot)
{
    bool own = r->plan == node;

    describe(c, world, node, r);
    c->plan_cap = c->cap;
    c->planned = node->planned - own;
    if ((!hold_window_open(c->backlog_s, world->hold_us) &&
         !(any_slot && hold_is_short(balance_own_prefill_s(c, r->prompt), world->hold_us))) ||
        (c->inflight < c->slots ? !any_slot || !goes_first(world, r, node, 0)
                                : !goes_first(world, r, node, times.overcommit_us)))
        c->cap = 0;
    c->backlog_s += (double)(node->planned_us - (own ? r->plan_us : 0)) * 1e-6;
}

/* True: it was sent.  Else its plan is what it should be now. */
static bool try_held(struct world *world, struct request *r, bool any_slot)
{
    struct balance_candidate candidates[MAX_NODES];
    struct balance_request request = {.tokens = r->prompt, .key = r->key};
    struct hold_choice choice;
    struct balance_candidate *c;
    struct node *node;

    for (size_t i = 0; i < world->n_nodes; i++)
        describe_held(&candidates[i], world, &world->nodes[i], r, any_slot);
    r->looked_us = world->now_us;
    hold_choose(&choice, candidates, world->n_nodes, &request,
                r->plan == NULL ? -1 : (int)(r->plan - world->nodes), r->promised_us,
                next_random(world), NULL, world->now_us, &times);
    c = &candidates[choice.at < 0 ? 0 : choice.at];
    node = &world->nodes[choice.at < 0 ? 0 : choice.at];
    switch (choice.verdict) {
    case HOLD_NOWHERE:
        drop_plan(r);
        return false;
    case HOLD_STAY:
        return false;
    case HOLD_PLAN:
        make_plan(world, r, node, c, &choice.terms);
        return false;
    case HOLD_SEND:
        break;
    }
    c->backlog_s = left_s(world, node);
    dispatch(world, r, node, c, &choice.terms);
    drop_plan(r);
    return true;
}

static void leave_queue(struct world *world, struct request *r)
{
    struct request **link = &world->wait_first;

    while (*link != r)
        link = &(*link)->wait_next;
    *link = r->wait_next;
}

/* The first that waits for the node and has not passed it over. */
static struct request *first_for(const struct world *world, const struct node *node)
{
    uint64_t bit = UINT64_C(1) << (node - world->nodes);

    for (struct request *r = world->wait_first; r != NULL; r = r->wait_next)
        if ((r->plan == NULL || r->plan == node) && (r->declined & bit) == 0)
            return r;
    return NULL;
}

/* Gives open nodes to the least keys.  True: a plan was changed meanwhile. */
static bool serve(struct world *world, struct node *node)
{
    struct request *r;
    bool changed = false;

    while (is_open(world, node) && (r = first_for(world, node)) != NULL) {
        const struct node *plan = r->plan;

        if (try_held(world, r, true))
            leave_queue(world, r);
        else if (r->plan == plan)
            r->declined |= UINT64_C(1) << (node - world->nodes);
        else
            changed = true;
    }
    return changed;
}

static void serve_all(struct world *world)
{
    bool changed = true;

    for (struct request *r = world->wait_first; r != NULL; r = r->wait_next)
        r->declined = 0;
    while (changed) {
        changed = false;
        for (size_t i = 0; i < world->n_nodes; i++)
            changed |= serve(world, &world->nodes[i]);
    }
}

/* The first few look whether another node, or a place beyond the slots, would do them good. */
static void look_again(struct world *world)
{
    struct request *r = world->wait_first, *next;

    for (unsigned looks = 0; r != NULL && looks < LOOK_BEHIND; looks++, r = next) {
        next = r->wait_next;
        if ((r->plan != NULL || r->n_blocks == 0) &&
            world->now_us - r->looked_us < times.look_us)
            continue;
        if (try_held(world, r, false))
            leave_queue(world, r);
    }
}

static void pass_held(struct world *world)
{
    serve_all(world);
    look_again(world);
    serve_all(world);
}

/* When something happens for those that wait that no node says: a window opens by time, or it
 * is time to look.  0 = never. */
static uint64_t next_look_us(const struct world *world)
{
    uint64_t next_us = world->now_us + times.look_us;

    if (world->hold_us == 0 || world->wait_first == NULL)
        return 0;
    for (size_t i = 0; i < world->n_nodes; i++) {
        const struct node *node = &world->nodes[i];
        uint64_t at_us = node->work_us + node->charged_us - world->hold_us + 1;

        if (node->charged_us > world->hold_us && at_us > world->now_us && at_us < next_us)
            next_us = at_us;
    }
    return next_us;
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
    world->released |= world->hold_us != 0;
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
    learn(&node->hold_s, (double)(world->now_us - r->held_us) / (double)US_PER_S);
    node->inflight--;
    sim_model_remove(&node->model, seq);
    world->released = true;
}

static void on_change(struct world *world)
{
    if (world->hold_us == 0)
        pass(world);
    else
        pass_held(world);
    world->look_us = next_look_us(world);
}

static void arrive(struct world *world, struct request *r)
{
    world->now_us = r->arrival_us;
    join_line(world, r);
    if (world->hold_us != 0 && try_held(world, r, true))
        leave_queue(world, r);
    on_change(world);
}

static void run(struct world *world)
{
    size_t arrived = 0;

    for (;;) {
        struct node *next = NULL;
        uint64_t next_us;

        for (size_t i = 0; i < world->n_nodes; i++) {
            struct node *node = &world->nodes[i];

            if (node->next_us != 0 && (next == NULL || node->next_us < next->next_us))
                next = node;
        }
        next_us = next == NULL ? UINT64_MAX : next->next_us;
        if (arrived < world->n_requests && world->requests[arrived].arrival_us <= next_us &&
            (world->look_us == 0 || world->requests[arrived].arrival_us <= world->look_us)) {
            arrive(world, &world->requests[arrived++]);
            continue;
        }
        if (world->look_us != 0 && world->look_us < next_us) {
            world->now_us = world->look_us;
            on_change(world);
            continue;
        }
        if (next == NULL)
            return;
        world->now_us = next->next_us;
        world->released = false;
        next->next_us = sim_model_advance(&next->model, world->now_us, on_token, world);
        if (world->released)
            on_change(world);
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

static void read_nodes(struct world *world, const char *text)
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
            die("--nodes is not COUNTxSLOTS:PREFILL:BASE_MS:SLOPE_MS:BLOCKS,...");
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
        {"nodes", required_argument, NULL, 'n'}, {"policy", required_argument, NULL, 'p'},
        {"push", no_argument, NULL, 'u'},        {"hold", required_argument, NULL, 'h'},
        {"seed", required_argument, NULL, 's'},  {0},
    };
    static struct world world = {.policy = POLICY_FASTEST, .hold_us = 1000 * US_PER_MS};
    int option;

    times = route_times(1);
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'n':
            read_nodes(&world, optarg);
            break;
        case 'p':
            world.oracle = strcmp(optarg, "oracle") == 0;
            world.policy = world.oracle ? POLICY_FASTEST : policy_named(optarg);
            break;
        case 'u':
            world.push = true;
            break;
        case 'h':
            world.hold_us = strtoull(optarg, NULL, 10) * US_PER_MS;
            break;
        case 's':
            world.random = mix(strtoull(optarg, NULL, 10));
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || world.n_nodes == 0)
        die("wants --nodes, and a schedule");
    if (world.policy != POLICY_FASTEST || world.oracle || world.push)
        world.hold_us = 0;
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
