/* choose.c - finds a node for an exchange and claims a place there. */
#include "worker/routing/choose.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/config.h"
#include "base/json.h"
#include "base/loop.h"
#include "policy/route/estimate.h"
#include "policy/route/prompt.h"
#include "proto/operations.h"
#include "shm/nodes.h"
#include "shm/outcomes.h"
#include "shm/routing/decisions.h"
#include "shm/routing/gauges.h"
#include "shm/routing/loads.h"
#include "shm/routing/prefix.h"
#include "shm/speeds.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/request.h"
#include "worker/routing/candidates.h"

#define HOLD_ALPHA  0.1 /* of the moving average of the time that a slot is held */
#define LEARN_TRIES 8

/* ---- the request ----------------------------------------------------------------------- */

void choose_read_prompt(struct exchange *x)
{
    static struct prompt prompt; /* one thread; too large for the stack */
    const struct infer_request *request = x->request;
    const struct fleet_model *model = fleet_find(x->core->fleet, request->model);
    enum policy_kind policy = config_policy_for(x->core->config, request->model);
    double ratio = model == NULL ? FLEET_BYTES_PER_TOKEN : model->bytes_per_token;
    struct json_value root;

    x->op_class = operation_class((int)request->operation);
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

/* The message to a node, with the text that it is to go on from. */
static uint64_t message_bytes(const struct exchange *x)
{
    return x->envelope_bytes + (x->content_shown ? buf_size(&x->text) : 0);
}

bool choose_any_up(const struct exchange *x)
{
    const struct fleet_model *model = fleet_find(x->core->fleet, x->model);
    uint64_t bytes = message_bytes(x);

    for (size_t i = 0; model != NULL && i < model->servers_count; i++) {
        if (fleet_takes(&model->servers[i], bytes) && fleet_usable(model->servers[i].node))
            return true;
    }
    return false;
}

bool choose_is_too_large(const struct exchange *x)
{
    const struct fleet_model *model = fleet_find(x->core->fleet, x->model);
    uint64_t bytes = message_bytes(x);

    for (size_t i = 0; model != NULL && i < model->servers_count; i++) {
        if (fleet_takes(&model->servers[i], bytes))
            return false;
    }
    return model != NULL && model->servers_count != 0;
}

/* ---- the decision ---------------------------------------------------------------------- */

static struct estimate_speed usual_speed(const struct leg *leg)
{
    const struct exchange *x = leg->x;
    struct scoreboard *board = x->core->board;
    struct speed speed =
        speeds_read(board, speeds_find(board, x->model_hash, x->op_class), leg->node);

    return (struct estimate_speed){.tokens = speed.tokens, .seconds = speed.seconds};
}

static void hold(struct leg *leg, struct fleet_node *node, const struct balance_candidate *c,
                 const struct candidates_place *place)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    leg->claimed = true;
    leg->charge_us = place->charge_us;
    leg->estimate = (struct leg_estimate){
        .uncached_tokens = place->terms.uncached_tokens,
        .left_s = c->backlog_s,
        .tokens_per_s = c->prefill_tokens_per_s,
        .usual = usual_speed(leg),
        .had_slot = c->inflight < c->slots && !(c->load_s > 0),
    };
    leg->dispatch_mono_us = now;
    speeds_note_sent(core->board, leg->node, leg->generation, now);
    (void)strlcpy(leg->node_name, node->info.name, sizeof(leg->node_name));
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

/* Who held the session before this request: its own attempts move it. */
static void look_for_session(struct exchange *x, int held_by)
{
    struct node_status status;

    if (x->session_looked)
        return;
    x->session_looked = true;
    x->session_node = -1;
    if (held_by < 0 || !nodes_status(x->core->board, (unsigned)held_by, &status) ||
        status.state == NODE_NONE || status.state == NODE_DOWN || status.state == NODE_GONE)
        return;
    x->session_node = held_by;
    x->session_generation = status.generation;
}

const char *choose_session_text(const struct exchange *x)
{
    if (x->session_hash == 0 || x->leg->node_name[0] == '\0')
        return NULL;
    if (x->session_node == -1)
        return "miss";
    return x->session_node == (int)x->leg->node && x->session_generation == x->leg->generation
               ? "hit"
               : "repin";
}

/* A hedge is a luxury: it goes elsewhere, where it takes no place that anybody waits for and
 * nothing has to be loaded. */
static void only_free_slots(struct candidates *candidates, unsigned but_not)
{
    for (size_t i = 0; i < candidates->count; i++) {
        struct balance_candidate *c = &candidates->of[i];

        if (candidates->server[i]->slot == but_not || c->load_s > 0)
            c->cap = 0;
        else if (c->cap > c->slots)
            c->cap = c->slots;
    }
}

/* Retries and hedges are not spent on finding out how a node is, while another could serve
 * them. */
static void no_trials(struct candidates *candidates)
{
    bool other = false;

    for (size_t i = 0; i < candidates->count; i++) {
        other |= !candidates->on_trial[i];
        candidates->of[i].regret_s = -1;
    }
    for (size_t i = 0; other && i < candidates->count; i++) {
        if (candidates->on_trial[i])
            candidates->of[i].cap = 0;
    }
}

/* Two windows tell conversations apart that share their beginning. */
static uint64_t key_of(const struct exchange *x)
{
    return x->windows_count == 0 ? 0 : x->windows[x->windows_count > 1 ? 1 : 0];
}

static void record(const struct leg *leg, const struct candidates *candidates,
                   const struct candidates_request *request, enum policy_kind policy,
                   const struct candidates_place *place)
{
    const struct exchange *x = leg->x;
    static struct decision d; /* one thread; large */

    memset(&d, 0, offsetof(struct decision, candidate));
    (void)strlcpy(d.id, x->request->id, sizeof(d.id));
    (void)strlcpy(d.model, x->request->model, sizeof(d.model));
    d.attempt = x->attempts;
    d.hedge = leg->is_hedge;
    d.policy = policy;
    d.trial = place->trial;
    d.waited_us = x->waited_us > UINT32_MAX ? UINT32_MAX : (uint32_t)x->waited_us;
    candidates_record(candidates, x->core->board, x->core->slot, request, place->at, &d);
}

enum choose_result choose_node(struct leg *leg, bool beyond_slots, struct fleet_node **out)
{
    static struct candidates candidates; /* one thread, no recursion; too large for the stack */
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    struct fleet_model *model = fleet_find(core->fleet, x->request->model);
    enum policy_kind policy = config_policy_for(core->config, x->request->model);
    struct candidates_request request = {
        .policy = {.tokens = x->prompt_estimate, .key = key_of(x)},
        .operation = (int)x->request->operation,
        .message_bytes = message_bytes(x),
        .op_class = x->op_class,
        .model_hash = x->model_hash,
        .session_hash = x->session_hash,
        .windows = x->windows,
        .windows_count = x->windows_count,
        .barred = x->excluded.of,
        .barred_count = x->excluded.count,
        .beyond_slots = beyond_slots,
        .now_mono_us = loop_now_us(core->loop),
    };
    struct candidates_place place;
    const struct fleet_server *server;

    if (model == NULL)
        return CHOOSE_NOBODY;
    if (x->windows_count != 0)
        request.tokens_per_window = (double)x->prompt_estimate *
                                    core->config->prefix.window_bytes / (double)x->prompt_bytes;
    candidates_gather(&candidates, core->board, model, &request);
    if (leg->is_hedge)
        only_free_slots(&candidates, x->leg->node);
    if (x->attempts != 0)
        no_trials(&candidates);
    if (!candidates_claim(&candidates, core->board, core->slot, policy, &request,
                          &model->cursor, &core->random, &place)) {
        if (candidates.any_usable)
            return CHOOSE_FULL;
        return candidates.any_failed ? CHOOSE_ALL_FAILED : CHOOSE_NOBODY;
    }
    server = candidates.server[place.at];
    leg->node = server->slot;
    leg->generation = server->generation;
    leg->loads_model = place.loads_model;
    leg->on_trial = candidates.on_trial[place.at];
    leg->excused = false;
    look_for_session(x, candidates.session_node);
    record(leg, &candidates, &request, policy, &place);
    hold(leg, server->node, &candidates.of[place.at], &place);
    *out = server->node;
    return CHOOSE_CLAIMED;
}

/* ---- afterwards ------------------------------------------------------------------------ */

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

static double took_s(const struct leg *leg)
{
    return (double)(loop_now_us(leg->x->core->loop) - leg->dispatch_mono_us) / (double)US_PER_S;
}

static struct estimate_speed sample_of(const struct leg *leg)
{
    const struct leg_estimate *e = &leg->estimate;

    return estimate_sample(e->uncached_tokens, e->left_s, e->tokens_per_s, took_s(leg));
}

static void learn(const struct leg *leg, struct estimate_speed sample)
{
    const struct exchange *x = leg->x;
    struct scoreboard *board = x->core->board;
    uint32_t row = speeds_take(board, x->model_hash, x->op_class);
    struct speed seen = speeds_read(board, row, leg->node);

    for (int i = 0; i < LEARN_TRIES; i++) {
        struct estimate_speed now = {.tokens = seen.tokens, .seconds = seen.seconds};
        struct estimate_speed next = estimate_learn(now, sample);

        if (speeds_swap(board, row, leg->node, leg->generation, &seen,
                        (struct speed){.tokens = next.tokens, .seconds = next.seconds}))
            return;
    }
}

/* The first token of an answer: this is what a node is known by. */
static void learn_answer(const struct leg *leg)
{
    const struct exchange *x = leg->x;
    struct scoreboard *board = x->core->board;
    uint64_t now = loop_now_us(x->core->loop);

    speeds_note_first_token(board, leg->node, leg->generation, now);
    if (x->op_class != OP_CLASS_GENERATION)
        return;
    stats_note(board, leg->node, leg->generation, STATS_TTFT, now - leg->dispatch_mono_us);
    /* Not when it was sent: until now its siblings would not have found it there. */
    if (x->windows != NULL)
        prefix_note(board, leg->node, leg->generation, x->windows, x->windows_count, now);
}

void choose_note_content(struct leg *leg)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    struct estimate_end end = {.status = leg->status,
                               .op_class = x->op_class,
                               .had_slot = leg->estimate.had_slot,
                               .content = true};

    gauges_prefill_done(core->board, core->slot, leg->node, leg->generation, leg->charge_us);
    leg->charge_us = 0;
    leave_pending(leg);
    if (leg->is_hedge && x->session_hash != 0) /* it won: its cache is the one that matters */
        prefix_session_set(core->board, x->session_hash, leg->node, leg->generation,
                           loop_now_us(core->loop));
    if (leg->status < 400)
        learn_answer(leg);
    if (estimate_lesson(&end) == ESTIMATE_ANSWER)
        learn(leg, sample_of(leg));
    if (leg->loads_model)
        loads_done(core->board, core->slot, leg->node, leg->generation, x->model_hash);
    leg->loads_model = false;
}

/* Overtaken by a hedge: its first token was still to come, so it would have taken longer than
 * this.  The sample keeps both what routing thinks of the node and the quantile that decides
 * about hedges from being made of the fast answers alone. */
static void learn_overtaken(const struct leg *leg)
{
    if (leg->x->op_class != OP_CLASS_GENERATION)
        return;
    stats_note(leg->x->core->board, leg->node, leg->generation, STATS_TTFT,
               loop_now_us(leg->x->core->loop) - leg->dispatch_mono_us);
    if (leg->estimate.had_slot)
        learn(leg, sample_of(leg));
}

/* A node that has been silent for most of what its phase allows. */
static bool was_silent(const struct leg *leg)
{
    return loop_now_us(leg->x->core->loop) - leg->progress_mono_us >=
           recover_silence_us(leg->x) / 4 * 3;
}

/* Did anybody get a token there since this request last got on? */
static bool others_get_on(const struct leg *leg)
{
    struct outcomes there;

    outcomes_read(leg->x->core->board, leg->node, &there);
    return there.progress_mono_us > leg->progress_mono_us;
}

/* What the end of an attempt before its first token teaches: see estimate.h. */
static void learn_failure(const struct leg *leg, enum stats_counter how)
{
    struct estimate_end end = {
        .op_class = leg->x->op_class,
        .had_slot = leg->estimate.had_slot,
        .node_failed =
            !leg->excused && (how == STATS_NODE_ERROR || how == STATS_CONNECT_FAILED ||
                              (how == STATS_TIMEOUT && was_silent(leg))),
        .before = leg->pending_node != NULL,
    };
    struct scoreboard *board = leg->x->core->board;

    if (estimate_lesson(&end) == ESTIMATE_FAILURE &&
        speeds_note_failure(board, leg->node, leg->generation, loop_now_us(leg->x->core->loop),
                            ESTIMATE_EVENT_US))
        learn(leg, estimate_failure(leg->estimate.usual, sample_of(leg)));
}

/* What the end of the attempt says of the node, for passive ejection. */
static void note_outcome(const struct leg *leg, enum stats_counter how)
{
    enum outcome what = OUTCOME_FAILED;

    switch (how) {
    case STATS_OK:
        what = leg->on_trial ? OUTCOME_TRIAL_OK : OUTCOME_OK;
        break;
    case STATS_TIMEOUT:
        /* Otherwise the request's own time was up, and the node did what it could. */
        if (!was_silent(leg))
            return;
        if (!others_get_on(leg))
            what = OUTCOME_STALLED;
        break;
    case STATS_NODE_ERROR:
    case STATS_CONNECT_FAILED:
        if (leg->excused)
            return;
        break;
    default: /* the client's doing, a full node, trouble of our own, a hedge that came second */
        return;
    }
    if (what != OUTCOME_OK && what != OUTCOME_TRIAL_OK && leg->on_trial)
        what = OUTCOME_TRIAL_FAILED;
    outcomes_note(leg->x->core->board, leg->node, leg->generation, what);
}

void choose_release(struct leg *leg, enum stats_counter outcome)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    if (!leg->claimed)
        return;
    leg->claimed = false;
    note_outcome(leg, outcome);
    learn_failure(leg, outcome);
    if (outcome == STATS_OVERTAKEN && !leg->is_hedge)
        learn_overtaken(leg);
    leave_pending(leg);
    if (leg->loads_model)
        loads_done(core->board, core->slot, leg->node, leg->generation, x->model_hash);
    leg->loads_model = false;
    gauges_release(core->board, core->slot, leg->node, leg->generation, leg->charge_us);
    leg->charge_us = 0;
    if (outcome != STATS_FULL) {
        struct fleet_node *node = fleet_at(core->fleet, leg->node, leg->generation);

        if (node != NULL)
            node->full_mono_us = 0;
    }
    stats_count(core->board, leg->node, leg->generation, outcome, 1);
    if (outcome == STATS_OK) {
        struct fleet_model *model = fleet_find(core->fleet, x->model);

        stats_average(core->board, leg->node, leg->generation, STATS_AVG_HOLD_S,
                      (double)(now - leg->dispatch_mono_us) / (double)US_PER_S, HOLD_ALPHA);
        if (model != NULL && x->prompt_tokens != 0) {
            model->bytes_per_token =
                prompt_learn_ratio(model->bytes_per_token, x->prompt_bytes, x->prompt_tokens);
        }
    }
    waiting_released(core);
}
