/* select.c - finds a node for a request and claims a place there. */
#include "worker/select/select.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "base/config/config.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "base/text/json.h"
#include "policy/route/estimate.h"
#include "policy/route/hold.h"
#include "policy/route/prompt.h"
#include "proto/operations.h"
#include "shm/facts/decisions.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/speeds.h"
#include "shm/queue/plans.h"
#include "shm/share/gauges.h"
#include "shm/share/loads.h"
#include "shm/share/prefix.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/select/gather.h"
#include "worker/select/lacks.h"
#include "worker/upstreams/upstreams.h"

#define HOLD_ALPHA  0.1 /* of the moving average of the time that a slot is held */
#define LEARN_TRIES 8

/* ---- the request ----------------------------------------------------------------------- */

void select_read_prompt(struct request *req)
{
    static struct prompt prompt; /* one thread; too large for the stack */
    const struct client_request *request = req->client;
    const struct upstream_model *model =
        upstreams_find(req->context->upstreams, request->model);
    enum policy_kind policy = config_policy_for(req->context->config, request->model);
    double ratio = model == NULL ? UPSTREAMS_BYTES_PER_TOKEN : model->bytes_per_token;

    bool is_json = request->root.type == JSON_OBJECT;

    req->op_class = operation_class((int)request->operation);
    req->prompt_bytes = request->body_len;
    if (is_json) {
        prompt_read(&prompt, request->model, &request->root,
                    req->context->config->prefix.window_bytes);
        req->prompt_bytes = prompt.bytes;
        if ((policy == POLICY_FASTEST || policy == POLICY_PREFIX_HASH) && prompt.count != 0)
            req->windows = malloc(prompt.count * sizeof(*req->windows));
        if (req->windows != NULL) {
            memcpy(req->windows, prompt.hash, prompt.count * sizeof(*req->windows));
            req->windows_count = prompt.count;
        }
    }
    req->prompt_estimate = (uint32_t)fmin((double)req->prompt_bytes / ratio, 1e9);
    if (req->prompt_estimate == 0)
        req->prompt_estimate = 1;
    lacks_read(req, is_json ? &prompt : NULL);
}

void select_finish(struct request *req)
{
    free(req->windows);
    exclusions_finish(&req->excluded);
    free(req->doubts);
}

/* The message to a node, with the text that it is to go on from. */
static uint64_t message_bytes(const struct request *req)
{
    return req->envelope_bytes + (req->shown == SHOWN_CONTENT ? buf_size(&req->text) : 0);
}

static bool is_up(const struct request *req, const struct upstream_server *server)
{
    return upstreams_takes(server, message_bytes(req)) &&
           (server->operations >> (unsigned)req->client->operation & 1u) != 0 &&
           upstreams_is_holder(server, req->client->holder) && upstreams_usable(server->node);
}

bool select_any_up(const struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);

    for (size_t i = 0; model != NULL && i < model->servers_count; i++)
        if (is_up(req, &model->servers[i]))
            return true;
    return false;
}

bool select_any_other_up(const struct attempt *attempt)
{
    const struct request *req = attempt->request;
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    uint64_t now = loop_now_us(req->context->loop);

    for (size_t i = 0; model != NULL && i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if (is_up(req, server) &&
            (server->node_id != attempt->node || server->generation != attempt->generation) &&
            !exclusions_failed(&req->excluded, server->node_id, server->generation, now))
            return true;
    }
    return false;
}

static struct eligible gathered; /* one thread, no recursion; too large for the stack */

/* ---- the decision ---------------------------------------------------------------------- */

static struct estimate_speed usual_speed(const struct attempt *attempt, uint32_t row)
{
    struct speed speed = speeds_read(attempt->request->context->board, row, attempt->node);

    return (struct estimate_speed){.tokens = speed.tokens, .seconds = speed.seconds};
}

static bool is_planned_on(const struct request *req, const struct attempt *attempt)
{
    return req->plan.charge_us != 0 && req->plan.node == attempt->node &&
           req->plan.generation == attempt->generation;
}

static void note_dispatch(struct attempt *attempt, struct upstream *node,
                          const struct balance_candidate *c, const struct eligible_place *place,
                          uint32_t row)
{
    struct request *req = attempt->request;
    struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);

    if (row == SPEEDS_NO_ROW) /* the first request of the model and class */
        row = speeds_take(context->board, req->model_hash, req->op_class);
    attempt->claimed = true;
    attempt->charge_us = place->charge_us;
    attempt->estimate = (struct attempt_estimate){
        .uncached_tokens = place->terms.uncached_tokens,
        .left_s = place->left_s,
        .tokens_per_s = c->prefill_tokens_per_s,
        .usual = usual_speed(attempt, row),
        .had_slot = c->inflight < c->slots && !(c->load_s > 0),
    };
    attempt->dispatch_mono_us = now;
    attempt->hold_mono_us = is_planned_on(req, attempt) ? req->plan.made_mono_us : now;
    speeds_note_sent(context->board, row, attempt->node, attempt->generation, now,
                     context->times.trial_gap_us);
    if (!(place->left_s > 0)) /* it is the first */
        speeds_note_work(context->board, attempt->node, attempt->generation, now);
    (void)strlcpy(attempt->node_name, node->info.name, sizeof(attempt->node_name));
    if (req->session_hash != 0 && !attempt->is_hedge)
        prefix_session_set(context->board, req->session_hash, attempt->node,
                           attempt->generation, now);
}

/* The session's node before this request: its own attempts move it. */
static void look_for_session(struct request *req, int held_by)
{
    struct node_status status;

    if (req->session_looked)
        return;
    req->session_looked = true;
    req->session_node = -1;
    if (held_by < 0 || !nodes_status(req->context->board, (unsigned)held_by, &status) ||
        status.state == NODE_NONE || status.state == NODE_DOWN || status.state == NODE_GONE)
        return;
    req->session_node = held_by;
    req->session_generation = status.generation;
}

const char *select_session_text(const struct request *req)
{
    if (req->session_hash == 0 || req->attempt->node_name[0] == '\0')
        return NULL;
    if (req->session_node == -1)
        return "miss";
    return req->session_node == (int)req->attempt->node &&
                   req->session_generation == req->attempt->generation
               ? "hit"
               : "repin";
}

/* Two windows distinguish conversations that share their beginning. */
static uint64_t key_of(const struct request *req)
{
    return req->windows_count == 0 ? 0 : req->windows[req->windows_count > 1 ? 1 : 0];
}

static void record(const struct attempt *attempt, const struct eligible *eligible,
                   const struct select_request *request, enum policy_kind policy,
                   const struct eligible_place *place)
{
    const struct request *req = attempt->request;
    static struct decision d; /* one thread; large */

    memset(&d, 0, offsetof(struct decision, candidate));
    select_copy_name(d.id, sizeof(d.id), req->client->id);
    select_copy_name(d.model, sizeof(d.model), req->client->model);
    d.attempt = req->sent;
    d.hedge = attempt->is_hedge;
    d.policy = policy;
    d.trial = place->trial;
    d.waited_us = req->waited_us > UINT32_MAX ? UINT32_MAX : (uint32_t)req->waited_us;
    select_record(eligible, req->context->board, req->context->worker, request, place->at, &d);
}

static struct select_request request_of(const struct request *req,
                                        const struct upstream_model *model)
{
    struct select_request request = {
        .policy = {.tokens = req->prompt_estimate, .key = key_of(req)},
        .operation = (int)req->client->operation,
        .message_bytes = message_bytes(req),
        .wanted_context = req->need.wanted_context,
        .op_class = req->op_class,
        .model_hash = req->model_hash,
        .holder = req->client->holder,
        .session_hash = req->session_hash,
        .windows = req->windows,
        .windows_count = req->windows_count,
        .excluded = req->excluded.of,
        .excluded_count = req->excluded.count,
        .spare_probation = req->was_dispatched,
        .hold_us = req->context->hold_us,
        .plan = req->plan.charge_us == 0 ? NULL : &req->plan,
        .now_mono_us = loop_now_us(req->context->loop),
        .load_us = req->context->config->limits.load_ms * US_PER_MS,
        .times = &req->context->times,
    };

    if (req->windows_count != 0)
        request.tokens_per_window = (double)req->prompt_estimate *
                                    req->context->config->prefix.window_bytes /
                                    (double)req->prompt_bytes;
    lacks_bar(req, model, &request);
    return request;
}

void select_reach(const struct request *req, struct queue_reach *out)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    struct select_request request = request_of(req, model);

    if (model != NULL)
        gather_reach(req->context->board, model, &request, &out->nodes, out->generation,
                     &out->until_mono_us);
}

uint64_t select_need(const struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    uint64_t now = loop_now_us(req->context->loop), bytes = message_bytes(req);
    struct select_request request = {
        .operation = (int)req->client->operation, .message_bytes = bytes, .need = &req->need};
    uint64_t need = hash_spread(req->need.wanted_context + UINT64_C(1)) +
                    (req->client->holder == 0 ? 0 : hash_spread(req->client->holder)) +
                    hash_spread(req->model_hash ^
                                ((uint64_t)req->client->operation << 2 |
                                 (uint64_t)(req->refusals != 0) << 1 | req->was_dispatched));

    /* Sums, so that the order does not count. */
    for (uint32_t i = 0; i < req->excluded.count; i++) {
        const struct excluded_node *e = &req->excluded.of[i];

        if (e->until_mono_us > now)
            need += hash_spread(hash_spread((uint64_t)e->node << 32 | e->generation) ^
                                e->until_mono_us);
    }
    for (size_t i = 0; model != NULL && i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        /* Not only whether the node is a choice at present: others may come and go. */
        uint64_t score =
            upstreams_takes(server, bytes) ? gather_score(server, &request) : UINT64_MAX;

        if (score != 0)
            need += hash_spread(hash_spread(server->node_id + UINT64_C(1)) ^ score);
    }
    return need;
}

/* Seconds that its prompt takes on the candidate where it takes least. */
static void note_size(struct request *req, const struct eligible *eligible)
{
    double least_s = INFINITY;

    for (size_t i = 0; i < eligible->count; i++)
        least_s = fmin(least_s, balance_own_prefill_s(&eligible->of[i], req->prompt_estimate));
    if (eligible->count == 0)
        return; /* until some node could take it */
    req->prefill_s = least_s;
    req->sized = true;
}

void select_size(struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    struct select_request request = request_of(req, model);

    if (req->sized || model == NULL)
        return;
    select_gather(&gathered, req->context->board, model, &request);
    note_size(req, &gathered);
}

/* ---- plans ----------------------------------------------------------------------------- */

void select_drop_plan(struct request *req)
{
    struct worker_context *context = req->context;
    const struct request_plan *plan = &req->plan;

    if (plan->charge_us != 0)
        plans_drop(context->board, context->worker, plan->node, plan->generation,
                   plan->charge_us);
    req->plan = (struct request_plan){0};
}

static void make_plan(struct request *req, const struct upstream_server *server,
                      const struct eligible_place *place)
{
    struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);

    select_drop_plan(req);
    req->plan =
        (struct request_plan){.node = server->node_id,
                              .generation = server->generation,
                              .charge_us = place->charge_us,
                              .made_mono_us = now,
                              .promised_mono_us = hold_promise(place->terms.cost_s, now)};
    plans_add(context->board, context->worker, server->node_id, server->generation,
              place->charge_us);
}

/* A look at all nodes costs something, so one that is only priced takes it now and then. */
static bool may_plan(const struct attempt *attempt, const struct queue_rights *rights)
{
    struct request *req = attempt->request;
    uint64_t now = loop_now_us(req->context->loop);

    if (req->context->hold_us == 0 || attempt->is_hedge ||
        (rights != NULL && rights->overcommit_only && !select_look_is_due(req)))
        return false;
    req->looked_mono_us = now;
    return true;
}

bool select_look_is_due(const struct request *req)
{
    return loop_now_us(req->context->loop) - req->looked_mono_us >= req->context->times.look_us;
}

static enum select_result no_place(struct request *req, const struct eligible *eligible,
                                   const struct eligible_place *place)
{
    select_drop_plan(req);
    if (eligible->any_usable)
        return place->lost ? SELECT_LOST : SELECT_FULL;
    /* A node may be up that this worker has yet to take in. */
    return eligible->any_failed && upstreams_are_current(req->context->upstreams)
               ? SELECT_ALL_FAILED
               : SELECT_NOBODY;
}

enum select_result select_node(struct attempt *attempt, const struct queue_rights *rights,
                               struct upstream **out)
{
    struct eligible *eligible = &gathered;
    struct request *req = attempt->request;
    struct worker_context *context = req->context;
    struct upstream_model *model = upstreams_find(context->upstreams, req->client->model);
    enum policy_kind policy = config_policy_for(context->config, req->client->model);
    struct select_request request = request_of(req, model);
    struct eligible_place place;
    const struct upstream_server *server;

    if (model == NULL) {
        select_drop_plan(req);
        return SELECT_NOBODY;
    }
    request.rights = rights;
    request.may_plan = may_plan(attempt, rights);
    request.is_hedge = attempt->is_hedge;
    request.first_node = req->attempt->node;
    select_gather(eligible, context->board, model, &request);
    switch (select_claim(eligible, context->board, context->worker, policy, &request,
                         &model->cursor, &context->random, &place)) {
    case SELECT_PLACE_NONE:
        return no_place(req, eligible, &place);
    case SELECT_PLACE_KEPT:
        return SELECT_PLANNED;
    case SELECT_PLACE_PLAN:
        make_plan(req, eligible->server[place.at], &place);
        return SELECT_PLANNED;
    case SELECT_PLACE_CLAIMED:
        break;
    }
    server = eligible->server[place.at];
    attempt->node = server->node_id;
    attempt->generation = server->generation;
    attempt->model_hash = server->model_hash;
    (void)strlcpy(attempt->model, server->name, sizeof(attempt->model));
    attempt->loads_model = place.loads_model;
    attempt->on_probation = eligible->on_probation[place.at];
    attempt->excused = false;
    look_for_session(req, eligible->session_node);
    record(attempt, eligible, &request, policy, &place);
    note_dispatch(attempt, server->node, &eligible->of[place.at], &place, eligible->speeds_row);
    *out = server->node;
    return SELECT_CLAIMED;
}

/* ---- afterwards ------------------------------------------------------------------------ */

/* It waited for no slot and no load, as far as was known when it was sent, and is now. */
static bool was_served_at_once(const struct attempt *attempt)
{
    return attempt->estimate.had_slot && !attempt->saw_load;
}

static double took_s(const struct attempt *attempt)
{
    return (double)(loop_now_us(attempt->request->context->loop) - attempt->dispatch_mono_us) /
           (double)US_PER_S;
}

static struct estimate_speed sample_of(const struct attempt *attempt)
{
    const struct attempt_estimate *e = &attempt->estimate;

    return estimate_sample(e->uncached_tokens, e->left_s, e->tokens_per_s, took_s(attempt));
}

static void learn_of(struct request *req, unsigned node, uint32_t generation,
                     struct estimate_speed sample)
{
    struct scoreboard *board = req->context->board;
    uint32_t row = speeds_take(board, req->model_hash, req->op_class);
    struct speed seen = speeds_read(board, row, node);

    for (int i = 0; i < LEARN_TRIES; i++) {
        struct estimate_speed now = {.tokens = seen.tokens, .seconds = seen.seconds};
        struct estimate_speed next = estimate_learn(now, sample);

        if (speeds_swap(board, row, node, generation, &seen,
                        (struct speed){.tokens = next.tokens, .seconds = next.seconds}))
            return;
    }
}

static void learn(const struct attempt *attempt, struct estimate_speed sample)
{
    learn_of(attempt->request, attempt->node, attempt->generation, sample);
}

/* The first token of an answer: the sample of the node's speed. */
static void learn_answer(const struct attempt *attempt, bool output)
{
    const struct request *req = attempt->request;
    struct scoreboard *board = req->context->board;
    uint64_t now = loop_now_us(req->context->loop);

    speeds_note_work(board, attempt->node, attempt->generation, now);
    if (req->op_class != OP_CLASS_GENERATION)
        return;
    if (output)
        stats_note(board, attempt->node, attempt->generation, STATS_TTFT,
                   now - attempt->dispatch_mono_us);
    /* Not when it was sent: until now its siblings would not have found it there. */
    if (req->windows != NULL)
        prefix_note(board, attempt->node, attempt->generation, req->windows, req->windows_count,
                    now);
}

/* The fault was that of the nodes: another one answers the request, say. */
static void resolve_doubts(struct request *req)
{
    for (uint32_t i = 0; i < req->doubts_count; i++) {
        const struct doubt *doubt = &req->doubts[i];

        if (!doubt->of_model)
            outcomes_note(req->context->board, doubt->node, doubt->generation,
                          doubt->on_probation ? OUTCOME_PROBATION_FAILED
                          : doubt->refused    ? OUTCOME_CONTRADICTED
                                              : OUTCOME_FAILED);
        if (doubt->refused)
            outcomes_note_client(req->context->board, doubt->node, doubt->generation,
                                 OUTCOME_CONTRADICTED, req->caller);
        if (doubt->slow)
            learn_of(req, doubt->node, doubt->generation, doubt->speed);
    }
    req->doubts_count = 0;
}

void select_settle_doubts(struct request *req, bool no_node_left)
{
    if (no_node_left && req->doubts_count == 1 && !req->doubts[0].refused)
        resolve_doubts(req);
    /* None contradicts where another was asked and failed, but none agrees either. */
    for (uint32_t i = 0; i < req->doubts_count && req->last_error == API_ERROR_NONE; i++)
        if (req->doubts[i].empty && req->doubts[i].on_probation)
            outcomes_note(req->context->board, req->doubts[i].node, req->doubts[i].generation,
                          OUTCOME_PROBATION_OK);
    req->doubts_count = 0;
}

void select_note_content(struct attempt *attempt, bool output)
{
    struct request *req = attempt->request;
    struct worker_context *context = req->context;
    struct estimate_end end = {.status = attempt->status,
                               .op_class = req->op_class,
                               .had_slot = was_served_at_once(attempt),
                               .content = output};

    gauges_prefill_done(context->board, context->worker, attempt->node, attempt->generation,
                        attempt->charge_us);
    attempt->charge_us = 0;
    if (context->hold_us != 0)
        queue_room(&context->queue, attempt->node); /* its window may have opened */
    if (attempt->is_hedge &&
        req->session_hash != 0) /* it won: its cache is the one that matters */
        prefix_session_set(context->board, req->session_hash, attempt->node,
                           attempt->generation, loop_now_us(context->loop));
    if (attempt->status < 400) {
        learn_answer(attempt, output);
        resolve_doubts(req);
        if (attempt->cause.kind == ATTEMPT_CAUSE_ABILITY)
            lacks_learn(attempt); /* it answers, but in a lesser form */
        else
            lacks_unlearn(attempt);
    }
    if (estimate_lesson(&end) == ESTIMATE_ANSWER)
        learn(attempt, sample_of(attempt));
    if (attempt->loads_model)
        loads_done(context->board, context->worker, attempt->node, attempt->generation,
                   attempt->model_hash);
    attempt->loads_model = false;
}

/* Overtaken by a hedge: its first token was still to come, so it would have taken longer than
 * this.  The sample keeps both what routing thinks of the node and the quantile that decides
 * about hedges from being made of the fast answers alone. */
static void learn_overtaken(const struct attempt *attempt)
{
    if (attempt->request->op_class != OP_CLASS_GENERATION)
        return;
    stats_note(attempt->request->context->board, attempt->node, attempt->generation, STATS_TTFT,
               loop_now_us(attempt->request->context->loop) - attempt->dispatch_mono_us);
    if (was_served_at_once(attempt))
        learn(attempt, sample_of(attempt));
}

uint64_t select_silence_us(const struct attempt *attempt)
{
    const struct config_limits *limits = &attempt->request->context->config->limits;

    if (attempt->content_mono_us != 0)
        return limits->idle_token_ms * US_PER_MS;
    return (attempt->loading ? limits->load_ms : limits->first_token_ms) * US_PER_MS;
}

/* A node that has been silent for most of what its phase allows. */
static bool was_silent(const struct attempt *attempt)
{
    return loop_now_us(attempt->request->context->loop) - attempt->progress_mono_us >=
           select_silence_us(attempt) / 4 * 3;
}

/* Did another request get a token there since this one's last progress? */
static bool others_get_on(const struct attempt *attempt)
{
    struct outcomes there;

    outcomes_read(attempt->request->context->board, attempt->node, &there);
    return there.progress_mono_us > attempt->progress_mono_us;
}

/* Is the end of an attempt before its first token a lesson of the node's speed: see estimate.h.
 */
static bool is_slow(const struct attempt *attempt, enum stats_counter how)
{
    const struct worker_context *context = attempt->request->context;
    struct estimate_end end = {
        .op_class = attempt->request->op_class,
        .had_slot = attempt->estimate.had_slot,
        .node_failed =
            !attempt->excused && (how == STATS_NODE_ERROR || how == STATS_CONNECT_FAILED ||
                                  (how == STATS_TIMEOUT && was_silent(attempt))),
        .before = attempt->charge_us != 0,
    };

    return estimate_lesson(&end) == ESTIMATE_FAILURE &&
           speeds_note_failure(context->board, attempt->node, attempt->generation,
                               loop_now_us(context->loop), context->times.event_us);
}

static struct estimate_speed failure_of(const struct attempt *attempt)
{
    return estimate_failure(attempt->estimate.usual, sample_of(attempt),
                            &attempt->request->context->times);
}

/* May the request be the cause?  Another node will show. */
static bool is_in_doubt(const struct attempt *attempt, enum stats_counter how)
{
    if (attempt_is_unsure(attempt))
        return true;
    return how == STATS_NODE_ERROR && !attempt->excused &&
           (attempt->cause.kind == ATTEMPT_CAUSE_ENGINE_ERROR ||
            attempt->cause.kind == ATTEMPT_CAUSE_ENGINE_DIED);
}

static void doubt(const struct attempt *attempt)
{
    struct request *req = attempt->request;

    if (req->doubts == NULL)
        req->doubts = calloc(REQUEST_DOUBTS, sizeof(*req->doubts));
    if (req->doubts == NULL || req->doubts_count == REQUEST_DOUBTS)
        return;
    req->doubts[req->doubts_count++] = (struct doubt){
        .node = attempt->node,
        .generation = attempt->generation,
        .on_probation = attempt->on_probation,
        .refused = attempt_is_unsure(attempt),
        .empty = attempt->cause.kind == ATTEMPT_CAUSE_EMPTY,
        .of_model = attempt->cause.of_model,
        .slow = !attempt_is_unsure(attempt) && is_slow(attempt, STATS_NODE_ERROR),
        .speed = failure_of(attempt),
    };
}

/* Notes the node's outcome of the attempt, for passive ejection. */
static void note_outcome(const struct attempt *attempt, enum stats_counter how)
{
    enum outcome what = OUTCOME_FAILED;

    switch (how) {
    case STATS_OK:
        what = attempt->on_probation ? OUTCOME_PROBATION_OK : OUTCOME_OK;
        break;
    case STATS_CLIENT_GONE:
        /* The node did its part.  Where clients cut off nearly every stream, as editors do, no
         * trial would end otherwise. */
        if (!attempt->on_probation || attempt->content_mono_us == 0 || attempt->status >= 400)
            return;
        what = OUTCOME_PROBATION_OK;
        break;
    case STATS_TIMEOUT:
        if (attempt->excused || !was_silent(attempt))
            return;
        if (!others_get_on(attempt))
            what = OUTCOME_STALLED;
        break;
    case STATS_NODE_ERROR:
    case STATS_CONNECT_FAILED:
        if (attempt->excused || attempt->cause.of_model)
            return;
        break;
    default: /* the client's doing, a full node, trouble of our own, a hedge that came second */
        return;
    }
    if (what != OUTCOME_OK && what != OUTCOME_PROBATION_OK && attempt->on_probation)
        what = OUTCOME_PROBATION_FAILED;
    outcomes_note(attempt->request->context->board, attempt->node, attempt->generation, what);
    outcomes_note_client(attempt->request->context->board, attempt->node, attempt->generation,
                         what, attempt->request->caller);
}

/* Ended before its first token: if the engine was at it, it is at the next one now.  One that
 * was sent since the engine began with its first cannot have been that. */
static void note_next(const struct attempt *attempt)
{
    struct scoreboard *board = attempt->request->context->board;
    struct node_hot hot;

    if (nodes_hot(board, attempt->node, &hot) && hot.generation == attempt->generation &&
        attempt->dispatch_mono_us <= hot.work_mono_us)
        speeds_note_work(board, attempt->node, attempt->generation,
                         loop_now_us(attempt->request->context->loop));
}

void select_release(struct attempt *attempt, enum stats_counter outcome)
{
    struct request *req = attempt->request;
    struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);

    if (!attempt->claimed)
        return;
    attempt->claimed = false;
    if (is_in_doubt(attempt, outcome)) {
        doubt(attempt);
    } else {
        note_outcome(attempt, outcome);
        if (is_slow(attempt, outcome))
            learn(attempt, failure_of(attempt));
    }
    if (outcome == STATS_OVERTAKEN && !attempt->is_hedge)
        learn_overtaken(attempt);
    if (attempt->loads_model)
        loads_done(context->board, context->worker, attempt->node, attempt->generation,
                   attempt->model_hash);
    attempt->loads_model = false;
    gauges_release(context->board, context->worker, attempt->node, attempt->generation,
                   attempt->charge_us);
    if (attempt->charge_us != 0)
        note_next(attempt);
    attempt->charge_us = 0;
    if (outcome != STATS_FULL) {
        struct upstream *node =
            upstreams_at(context->upstreams, attempt->node, attempt->generation);

        if (node != NULL && node->full_mono_us > now) {
            node->full_mono_us = 0;
            queue_renew(&context->queue); /* requests that wait may use it again */
        }
    }
    stats_count(context->board, attempt->node, attempt->generation, outcome, 1);
    if (outcome == STATS_OK && !attempt_is_unsure(attempt)) {
        struct upstream_model *model = upstreams_find(context->upstreams, req->model);

        stats_average(context->board, attempt->node, attempt->generation,
                      stats_hold_of(req->op_class),
                      (double)(now - attempt->hold_mono_us) / (double)US_PER_S, HOLD_ALPHA);
        if (model != NULL && req->prompt_tokens != 0) {
            model->bytes_per_token = prompt_learn_ratio(model->bytes_per_token,
                                                        req->prompt_bytes, req->prompt_tokens);
        }
    }
    queue_room(&context->queue, attempt->node);
}
