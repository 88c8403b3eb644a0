/* choose.c - finds a node for an exchange and claims a place there. */
#include "worker/routing/choose.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/config.h"
#include "base/json.h"
#include "base/loop.h"
#include "proto/drover_common.pb-c.h"
#include "shm/nodes.h"
#include "shm/routing/decisions.h"
#include "shm/routing/gauges.h"
#include "shm/routing/loads.h"
#include "shm/routing/prefix.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/request.h"
#include "worker/routing/policy.h"
#include "worker/routing/prompt.h"

#define MAX_CANDIDATES 1024 /* as many as the node table can have */
#define ALPHA          0.1  /* of the moving averages */
/* A load nobody gave a time for. */
#define DEFAULT_LOAD_MS 10000
/* Bytes per token; what is outside is a mistake of the engine's count. */
#define RATIO_MIN 1.0
#define RATIO_MAX 16.0

/* What was learned of an idle node longer ago than this is not held against it. */
#define STALE_US (10 * US_PER_S)

struct choice {
    struct policy_candidate candidates[MAX_CANDIDATES];
    bool unproven[MAX_CANDIDATES]; /* nothing is known of its speed, or nothing new */
    const struct fleet_server *servers[MAX_CANDIDATES];
    size_t count;
    bool any_usable; /* some node could serve it, though it may be full */
    bool any_failed; /* some node could have, but has already failed for this request */
};

/* ---- the request ---------------------------------------------------------------------------
 */

void choose_read_prompt(struct exchange *x)
{
    static struct prompt prompt; /* one thread; too large for the stack */
    const struct infer_request *request = x->request;
    const struct fleet_model *model = fleet_find(x->core->fleet, request->model);
    enum policy_kind policy = config_policy_for(x->core->config, request->model);
    double ratio = model == NULL ? FLEET_BYTES_PER_TOKEN : model->bytes_per_token;
    struct json_value root;

    x->prompt_bytes = request->body_len;
    if ((policy == POLICY_FASTEST || policy == POLICY_PREFIX_HASH) &&
        json_check(&root, request->body, request->body_len, NULL) == 0) {
        prompt_read(&prompt, request->model, &root, x->core->config->prefix.window_bytes);
        x->prompt_bytes = prompt.bytes;
        x->windows = prompt.count == 0 ? NULL : malloc(prompt.count * sizeof(*x->windows));
        if (x->windows != NULL) {
            memcpy(x->windows, prompt.hash, prompt.count * sizeof(*x->windows));
            x->windows_count = prompt.count;
        }
    }
    x->prompt_estimate = (uint32_t)fmin((double)x->prompt_bytes / ratio, 1e9);
    if (x->prompt_estimate == 0)
        x->prompt_estimate = 1;
}

/* ---- the candidates ------------------------------------------------------------------------
 */

static bool can_serve(const struct fleet_server *server, int operation)
{
    return (server->operations & (UINT32_C(1) << operation)) != 0 &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED;
}

bool choose_any_up(struct exchange_core *core, const char *model)
{
    struct fleet_model *found = fleet_find(core->fleet, model);

    for (size_t i = 0; found != NULL && i < found->servers_count; i++) {
        if (fleet_usable(found->servers[i].node))
            return true;
    }
    return false;
}

static const struct exchange_excluded *excluded(const struct exchange *x,
                                                const struct fleet_node *node, uint64_t now)
{
    for (uint32_t i = 0; i < x->excluded_count; i++) {
        const struct exchange_excluded *e = &x->excluded[i];

        if (e->node == node->slot && e->generation == node->info.generation &&
            e->until_mono_us > now)
            return e;
    }
    return NULL;
}

static void describe(struct policy_candidate *c, const struct exchange *x,
                     const struct fleet_server *server, const struct node_status *status,
                     int session_node, uint64_t now)
{
    struct scoreboard *board = x->core->board;
    const struct node_info *info = &server->node->info;
    unsigned slot = server->node->slot;
    struct gauge gauge = gauges_sum_oldest(board, slot, status->generation);
    double window_tokens = x->windows_count == 0 ? 0
                                                 : (double)x->prompt_estimate *
                                                       x->core->config->prefix.window_bytes /
                                                       (double)x->prompt_bytes;

    c->id = slot;
    c->inflight = gauge.inflight;
    c->slots = status->slots_now == 0 ? 1 : status->slots_now;
    c->cap = c->slots + info->queue;
    c->weight = info->weight == 0 ? 1 : info->weight;
    c->pending_tokens = gauge.pending_tokens;
    c->matched_tokens = (uint32_t)(window_tokens * x->core->matched[slot]);
    c->prefill_tokens_per_s =
        policy_prefill_speed(stats_read_average(board, slot, STATS_AVG_BACKLOG),
                             stats_read_average(board, slot, STATS_AVG_TTFT_S),
                             info->prefill_tokens_per_s, gauge.pending_tokens,
                             gauge.oldest_mono_us == 0 || gauge.oldest_mono_us > now
                                 ? 0
                                 : (double)(now - gauge.oldest_mono_us) / (double)US_PER_S);
    c->hold_s = stats_read_average(board, slot, STATS_AVG_HOLD_S);
    c->load_s = 0;
    if (server->state == DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE) {
        c->load_s = (server->load_ms == 0 ? DEFAULT_LOAD_MS : server->load_ms) / 1000.0;
        /* One load at a time: the others wait for it, or go where the model is. */
        if (loads_live(board, slot, status->generation, x->model_hash, now))
            c->cap = 0;
    }
    c->same_session = session_node == (int)slot;
}

/*
 * A node that is never chosen is never measured, so a bad first impression, or none, would
 * last.  One that nothing fresh is known of counts as being as fast as the fastest candidate:
 * it gets a request, and with it an average of its own.
 */
static void trust_unproven(struct choice *choice)
{
    double best = 0;

    for (size_t i = 0; i < choice->count; i++)
        best = fmax(best, choice->candidates[i].prefill_tokens_per_s);
    for (size_t i = 0; i < choice->count; i++) {
        if (choice->unproven[i])
            choice->candidates[i].prefill_tokens_per_s = best;
    }
}

static void gather(const struct exchange *x, const struct fleet_model *model,
                   struct choice *choice)
{
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);
    int session_node =
        x->session_hash == 0 ? -1 : prefix_session_get(core->board, x->session_hash);

    choice->count = 0;
    choice->any_usable = false;
    choice->any_failed = false;
    (void)prefix_match(core->board, x->windows, x->windows_count, core->matched);
    for (size_t i = 0; i < model->servers_count && choice->count < MAX_CANDIDATES; i++) {
        const struct fleet_server *server = &model->servers[i];
        const struct exchange_excluded *e;
        struct node_status status;

        if (!can_serve(server, x->request->operation) || !fleet_usable(server->node))
            continue;
        e = excluded(x, server->node, now);
        if (e != NULL && e->until_mono_us == UINT64_MAX) {
            choice->any_failed = true;
            continue;
        }
        choice->any_usable = true;
        if (e != NULL || !nodes_status(core->board, server->node->slot, &status) ||
            status.generation != server->node->info.generation)
            continue;
        describe(&choice->candidates[choice->count], x, server, &status, session_node, now);
        choice->unproven[choice->count] =
            choice->candidates[choice->count].inflight == 0 &&
            (stats_read_average(core->board, server->node->slot, STATS_AVG_TTFT_S) == 0 ||
             now - server->node->tried_mono_us > STALE_US);
        choice->servers[choice->count++] = server;
    }
    trust_unproven(choice);
}

/* ---- the decision --------------------------------------------------------------------------
 */

static void record(const struct leg *leg, const struct choice *choice,
                   const struct policy_request *request, int chosen)
{
    const struct exchange *x = leg->x;
    static struct decision d; /* one thread; large */
    struct exchange_core *core = x->core;

    memset(&d, 0, offsetof(struct decision, candidate));
    (void)strlcpy(d.id, x->request->id, sizeof(d.id));
    (void)strlcpy(d.model, x->request->model, sizeof(d.model));
    d.at_mono_us = loop_now_us(core->loop);
    d.attempt = x->attempts;
    d.hedge = leg->is_hedge;
    d.policy = config_policy_for(core->config, x->request->model);
    d.prompt_tokens = request->tokens;
    d.waited_us = x->waited_us > UINT32_MAX ? UINT32_MAX : (uint32_t)x->waited_us;
    d.node = DECISIONS_NO_NODE;
    if (chosen >= 0) {
        d.node = choice->servers[chosen]->node->slot;
        (void)strlcpy(d.name, choice->servers[chosen]->node->info.name, sizeof(d.name));
    }
    d.candidates_total = (uint32_t)choice->count;
    for (size_t i = 0; i < choice->count; i++) {
        const struct policy_candidate *c = &choice->candidates[i];
        struct decision_candidate *to;
        struct policy_terms terms;

        /* The chosen one is always kept, in the last place if need be. */
        if (d.candidates == DECISIONS_CANDIDATES && (int)i != chosen)
            continue;
        to = &d.candidate[d.candidates == DECISIONS_CANDIDATES ? d.candidates - 1
                                                               : d.candidates++];
        policy_terms(&terms, c, request);
        to->node = choice->servers[i]->node->slot;
        (void)strlcpy(to->name, choice->servers[i]->node->info.name, sizeof(to->name));
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
    decisions_add(core->board, core->slot, &d);
}

/* The places a claim may use: the slots, or those beyond them if that is what the policy meant.
 */
static bool claim(struct leg *leg, const struct policy_candidate *c, uint32_t tokens)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint32_t cap = c->inflight < c->slots ? c->slots : c->cap;

    if (c->load_s > 0) {
        uint64_t hold_us = (uint64_t)(c->load_s * 2 * (double)US_PER_S) + US_PER_S;

        leg->loads_model = loads_claim(core->board, core->slot, leg->node, leg->generation,
                                       x->model_hash, loop_now_us(core->loop), hold_us);
        if (!leg->loads_model)
            return false;
    }
    if (gauges_claim(core->board, core->slot, leg->node, leg->generation, tokens, cap))
        return true;
    if (leg->loads_model)
        loads_done(core->board, core->slot, leg->node, leg->generation, x->model_hash);
    leg->loads_model = false;
    return false;
}

static void hold(struct leg *leg, struct fleet_node *node, const struct policy_candidate *c,
                 uint32_t tokens)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    leg->claimed = true;
    leg->pending_tokens = tokens;
    leg->backlog_tokens = c->pending_tokens + tokens;
    leg->had_slot = c->inflight < c->slots && c->load_s == 0;
    leg->dispatch_mono_us = now;
    node->tried_mono_us = now;
    (void)strlcpy(leg->node_name, node->info.name, sizeof(leg->node_name));
    if (x->windows != NULL)
        prefix_note(core->board, leg->node, leg->generation, x->windows, x->windows_count, now);
    if (x->session_hash != 0 && !leg->is_hedge)
        prefix_session_set(core->board, x->session_hash, leg->node, leg->generation, now);
    /* The list is in the order of dispatch, so its head is the oldest. */
    fleet_hold(node);
    leg->pending_node = node;
    leg->pending_next = NULL;
    leg->pending_prev = node->pending_last;
    if (node->pending_last != NULL) {
        node->pending_last->pending_next = leg;
    } else {
        node->pending_first = leg;
        gauges_set_oldest(core->board, core->slot, leg->node, leg->generation, now);
    }
    node->pending_last = leg;
}

/* A hedge is a luxury: it goes elsewhere, where it takes no place that anybody waits for and
 * nothing has to be loaded. */
static void only_free_slots(struct choice *choice, unsigned but_not)
{
    for (size_t i = 0; i < choice->count; i++) {
        struct policy_candidate *c = &choice->candidates[i];

        if (choice->servers[i]->node->slot == but_not || c->load_s > 0)
            c->cap = 0;
        else if (c->cap > c->slots)
            c->cap = c->slots;
    }
}

static uint64_t next_random(struct exchange_core *core)
{
    core->random = core->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return core->random;
}

enum choose_result choose_node(struct leg *leg, struct fleet_node **out)
{
    static struct choice choice; /* one thread, no recursion; too large for the stack */
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    struct fleet_model *model = fleet_find(core->fleet, x->request->model);
    enum policy_kind policy = config_policy_for(core->config, x->request->model);
    struct policy_request request = {.tokens = x->prompt_estimate};

    if (model == NULL)
        return CHOOSE_NOBODY;
    /* Two windows tell conversations apart that share their beginning. */
    if (x->windows_count != 0)
        request.key = x->windows[x->windows_count > 1 ? 1 : 0];
    gather(x, model, &choice);
    if (leg->is_hedge)
        only_free_slots(&choice, x->leg->node);
    for (;;) {
        int at = policy_choose(policy, choice.candidates, choice.count, &request,
                               &model->cursor, next_random(core));
        struct policy_candidate *c;
        struct policy_terms terms;

        if (at < 0)
            break;
        c = &choice.candidates[at];
        policy_terms(&terms, c, &request);
        leg->node = choice.servers[at]->node->slot;
        leg->generation = choice.servers[at]->node->info.generation;
        if (claim(leg, c, terms.uncached_tokens)) {
            record(leg, &choice, &request, at);
            hold(leg, choice.servers[at]->node, c, terms.uncached_tokens);
            *out = choice.servers[at]->node;
            return CHOOSE_CLAIMED;
        }
        c->cap = 0; /* another worker was faster */
    }
    if (choice.any_usable)
        return CHOOSE_FULL;
    return choice.any_failed ? CHOOSE_ALL_FAILED : CHOOSE_NOBODY;
}

/* ---- afterwards ----------------------------------------------------------------------------
 */

static void leave_pending(struct leg *leg)
{
    struct exchange_core *core = leg->x->core;
    struct fleet_node *node = leg->pending_node;

    if (node == NULL)
        return;
    if (leg->pending_next != NULL)
        leg->pending_next->pending_prev = leg->pending_prev;
    else
        node->pending_last = leg->pending_prev;
    if (leg->pending_prev != NULL) {
        leg->pending_prev->pending_next = leg->pending_next;
    } else {
        node->pending_first = leg->pending_next;
        gauges_set_oldest(core->board, core->slot, leg->node, leg->generation,
                          leg->pending_next == NULL ? 0 : leg->pending_next->dispatch_mono_us);
    }
    leg->pending_node = NULL;
    fleet_let_go(node);
}

static void learn_prefill(struct leg *leg, double ttft_s)
{
    struct scoreboard *board = leg->x->core->board;

    stats_average(board, leg->node, leg->generation, STATS_AVG_TTFT_S, ttft_s, ALPHA);
    stats_average(board, leg->node, leg->generation, STATS_AVG_BACKLOG,
                  (double)leg->backlog_tokens, ALPHA);
}

void choose_note_content(struct leg *leg)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    double ttft_s =
        (double)(loop_now_us(core->loop) - leg->dispatch_mono_us) / (double)US_PER_S;

    gauges_prefill_done(core->board, core->slot, leg->node, leg->generation,
                        leg->pending_tokens);
    leg->pending_tokens = 0;
    leave_pending(leg);
    if (leg->is_hedge && x->session_hash != 0) /* it won: its cache is the one that matters */
        prefix_session_set(core->board, x->session_hash, leg->node, leg->generation,
                           loop_now_us(core->loop));
    if (leg->had_slot)
        learn_prefill(leg, ttft_s);
    if (leg->loads_model)
        loads_done(core->board, core->slot, leg->node, leg->generation, x->model_hash);
    leg->loads_model = false;
}

/* Overtaken by a hedge: its first token was still to come, so it would have taken longer than
 * this.  The sample keeps both what routing thinks of the node and the quantile that decides
 * about hedges from being made of the fast answers alone. */
static void learn_overtaken(struct leg *leg)
{
    uint64_t took_us = loop_now_us(leg->x->core->loop) - leg->dispatch_mono_us;

    stats_note(leg->x->core->board, leg->node, leg->generation, STATS_TTFT, took_us);
    if (leg->had_slot)
        learn_prefill(leg, (double)took_us / (double)US_PER_S);
}

/* A node that fails fast must not look fast: a failure counts as a first token that took ten
 * times as long as they do there, and never less than a second. */
static void learn_failure(struct leg *leg)
{
    double usual_s = stats_read_average(leg->x->core->board, leg->node, STATS_AVG_TTFT_S);
    double took_s =
        (double)(loop_now_us(leg->x->core->loop) - leg->dispatch_mono_us) / (double)US_PER_S;

    learn_prefill(leg, fmax(took_s, fmax(1, 10 * usual_s)));
}

void choose_release(struct leg *leg, enum stats_counter outcome)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    if (!leg->claimed)
        return;
    leg->claimed = false;
    if (leg->pending_node != NULL && (outcome == STATS_NODE_ERROR || outcome == STATS_TIMEOUT ||
                                      outcome == STATS_CONNECT_FAILED))
        learn_failure(leg);
    if (outcome == STATS_OVERTAKEN && !leg->is_hedge)
        learn_overtaken(leg);
    leave_pending(leg);
    if (leg->loads_model)
        loads_done(core->board, core->slot, leg->node, leg->generation, x->model_hash);
    leg->loads_model = false;
    gauges_release(core->board, core->slot, leg->node, leg->generation, leg->pending_tokens);
    leg->pending_tokens = 0;
    stats_count(core->board, leg->node, leg->generation, outcome, 1);
    if (outcome == STATS_OK) {
        struct fleet_model *model = fleet_find(core->fleet, x->model);

        stats_average(core->board, leg->node, leg->generation, STATS_AVG_HOLD_S,
                      (double)(now - leg->dispatch_mono_us) / (double)US_PER_S, ALPHA);
        if (model != NULL && x->prompt_tokens != 0) {
            double ratio = (double)x->prompt_bytes / x->prompt_tokens;

            ratio = fmin(fmax(ratio, RATIO_MIN), RATIO_MAX);
            model->bytes_per_token += ALPHA * (ratio - model->bytes_per_token);
        }
    }
    waiting_released(core);
}
