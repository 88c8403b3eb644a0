/* attempt.c - one try of a request on one node, from its place there to the end of the call. */
#include "worker/request/attempt.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/attrs.h"
#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/requests.h"
#include "shm/share/poison.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/select/lacks.h"
#include "worker/select/select.h"
#include "worker/upstreams/node_call.h"
#include "worker/upstreams/upstreams.h"

/* ---- the start ------------------------------------------------------------------------- */

/* The text that the client has, for the node to continue. */
static void add_text(struct node_call_options *options, struct request *req)
{
    options->resume_text = buf_cstr(&req->text);
    options->resume_tokens = req->resumed_tokens;
    if (!req->ids_lost && buf_size(&req->ids) != 0) {
        /* Only added to, so the head is where malloc() put it. */
        options->resume_ids = (const uint32_t *)(const void *)buf_head(&req->ids);
        options->resume_ids_count = buf_size(&req->ids) / sizeof(uint32_t);
        options->vocabulary = req->vocabulary;
    }
    options->response_id = req->response_id;
    options->created = req->created;
    options->item_id = req->item_id;
    options->next_sequence = req->next_sequence;
}

/* Nothing of an earlier use is left. */
static void reset(struct attempt *attempt, uint64_t now)
{
    attempt->stage = ATTEMPT_SENT;
    attempt->progress_mono_us = now;
    attempt->content_mono_us = 0;
    attempt->unsent_bytes = 0;
    attempt->queue_position = UINT32_MAX;
    attempt->node_work = 0;
    attempt->loading = attempt->loads_model;
    attempt->saw_load = false;
    attempt->excused = false;
    attempt->cause = (struct attempt_cause){0};
    attempt->status = 0;
    buf_reset(&attempt->headers);
    buf_reset(&attempt->held);
}

int attempt_start(struct attempt *attempt, struct upstream *node,
                  const struct node_call_events *events)
{
    struct request *req = attempt->request;
    struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);
    struct node_call_options options = {
        .number = req->sent,
        .model = attempt->model,
        .prompt_tokens = req->prompt_estimate,
        .config = context->config,
        .arena = &context->arena,
    };
    struct error err = {0};
    int rc;

    if (req->shown == SHOWN_CONTENT)
        add_text(&options, req);
    reset(attempt, now);
    attempt->number = req->sent++;
    req->attempts++;
    requests_node(context->board, context->worker, attempt->row, node->node_id,
                  attempt->number);
    requests_phase(context->board, context->worker, attempt->row, REQUEST_SENT, now);
    stats_count(context->board, attempt->node, attempt->generation, STATS_DISPATCHED, 1);
    rc = node_call_start(&attempt->call, node, req->client, &options, events, attempt, &err);
    if (rc != 0)
        attempt_end(attempt, STATS_CLIENT_GONE); /* a failure of this worker, not of the node */
    return rc;
}

/* ---- the node's events ----------------------------------------------------------------- */

void attempt_take_accepted(struct attempt *attempt, const Drover__V1__Accepted *accepted)
{
    struct worker_context *context = attempt->request->context;
    uint64_t now = loop_now_us(context->loop);
    bool moved_up = accepted->queue_position < attempt->queue_position;

    attempt->loading = accepted->loading;
    attempt->saw_load |= attempt->loading;
    /* A repeated event is no progress: it must not put the time limit off. */
    if (!moved_up && (accepted->queue_position > attempt->queue_position ||
                      accepted->work <= attempt->node_work))
        return;
    attempt->queue_position = accepted->queue_position;
    attempt->node_work = accepted->work;
    attempt->progress_mono_us = now;
    if (moved_up && accepted->queue_position == 0)
        requests_phase(context->board, context->worker, attempt->row, REQUEST_PREFILL, now);
}

void attempt_note_sent(struct attempt *attempt)
{
    size_t unsent = attempt->call == NULL ? 0 : node_call_unsent(attempt->call);

    if (unsent == attempt->unsent_bytes)
        return;
    attempt->unsent_bytes = unsent;
    attempt->progress_mono_us = loop_now_us(attempt->request->context->loop);
}

void attempt_take_head(struct attempt *attempt)
{
    attempt->stage = ATTEMPT_HEAD;
    attempt->progress_mono_us = loop_now_us(attempt->request->context->loop);
}

/* `output`: there is some, and not only the end of an answer without any. */
static void note_content(struct attempt *attempt, bool output, uint64_t now)
{
    struct worker_context *context = attempt->request->context;

    attempt->content_mono_us = now;
    select_note_content(attempt, output);
    requests_phase(context->board, context->worker, attempt->row, REQUEST_DECODE, now);
}

bool attempt_take_content(struct attempt *attempt)
{
    struct worker_context *context = attempt->request->context;
    uint64_t now = loop_now_us(context->loop);

    attempt->progress_mono_us = now;
    outcomes_progress(context->board, attempt->node, attempt->generation, now);
    if (attempt->stage == ATTEMPT_CONTENT)
        return false;
    attempt->stage = ATTEMPT_CONTENT;
    note_content(attempt, true, now);
    return true;
}

void attempt_note_usage(struct attempt *attempt, const Drover__V1__Finish *finish)
{
    struct request *req = attempt->request;

    if (finish->usage == NULL)
        return;
    req->prompt_tokens = finish->usage->prompt_tokens;
    req->cached_tokens = finish->usage->cached_prompt_tokens;
    if (finish->usage->output_tokens != 0)
        req->output_tokens = finish->usage->output_tokens;
}

void attempt_take_finish(struct attempt *attempt, const Drover__V1__Finish *finish)
{
    struct request *req = attempt->request;

    attempt_note_usage(attempt, finish);
    if (attempt->stage != ATTEMPT_CONTENT)
        note_content(attempt, finish->empty[0] == '\0', loop_now_us(req->context->loop));
    attempt->stage = ATTEMPT_FINISHED;
}

void attempt_take_cause(struct attempt *attempt, const Drover__V1__Cause *cause)
{
    static const enum attempt_cause_kind kinds[] = {
        [DROVER__V1__CAUSE__KIND__KIND_ABILITY] = ATTEMPT_CAUSE_ABILITY,
        [DROVER__V1__CAUSE__KIND__KIND_REQUEST] = ATTEMPT_CAUSE_REQUEST,
        [DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR] = ATTEMPT_CAUSE_ENGINE_ERROR,
        [DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED] = ATTEMPT_CAUSE_ENGINE_DIED,
        [DROVER__V1__CAUSE__KIND__KIND_ENGINE_AWAY] = ATTEMPT_CAUSE_ENGINE_AWAY,
    };
    bool known =
        (unsigned)cause->kind < ARRAY_LEN(kinds) && (unsigned)cause->ability < ABILITIES;

    attempt->cause = (struct attempt_cause){
        .kind = known ? kinds[cause->kind] : ATTEMPT_CAUSE_NONE,
        .ability = known ? (enum ability)cause->ability : ABILITY_NONE,
        .limit = cause->limit,
        .needed = cause->needed,
        .no_answer = known && cause->no_answer,
        .of_model = known && cause->of_model,
    };
    if (attempt->cause.kind == ATTEMPT_CAUSE_ABILITY && attempt->cause.ability == ABILITY_NONE)
        attempt->cause.kind = ATTEMPT_CAUSE_NONE; /* one of a newer version */
}

void attempt_note_release(struct attempt *attempt)
{
    struct request *req = attempt->request;

    attempt->progress_mono_us = loop_now_us(req->context->loop);
    if (req->content_mono_us != 0)
        req->content_mono_us = attempt->progress_mono_us;
}

/* ---- the end --------------------------------------------------------------------------- */

void attempt_call_ended(struct attempt *attempt)
{
    attempt->call = NULL;
}

void attempt_end(struct attempt *attempt, enum stats_counter outcome)
{
    node_call_cancel(attempt->call);
    attempt->call = NULL;
    attempt->stage = ATTEMPT_ENDED;
    select_release(attempt, outcome);
}

void attempt_end_whole(struct attempt *attempt)
{
    const struct request *req = attempt->request;
    struct scoreboard *board = req->context->board;
    uint64_t now = loop_now_us(req->context->loop);
    unsigned node = attempt->node;
    uint32_t generation = attempt->generation;
    /* The node's final sum counts, which may be less than the others had counted. */
    uint32_t here =
        req->output_tokens > req->resumed_tokens ? req->output_tokens - req->resumed_tokens : 0;

    if (attempt->status >= 400) {
        attempt_end(attempt, STATS_CLIENT_ERROR);
        return;
    }
    stats_note(board, node, generation, STATS_E2E, now - attempt->dispatch_mono_us);
    if (here > 1)
        stats_note(board, node, generation, STATS_TPOT,
                   (now - attempt->content_mono_us) / (here - 1));
    stats_count(board, node, generation, STATS_PROMPT_TOKENS, req->prompt_tokens);
    stats_count(board, node, generation, STATS_CACHED_TOKENS, req->cached_tokens);
    stats_count(board, node, generation, STATS_OUTPUT_TOKENS, here);
    attempt_end(attempt, STATS_OK);
}

/* The node has no room at all: it says when to come back, which a refusal of this one message
 * does not.  A place that is given back there makes some. */
static void pause_node(const struct attempt *attempt)
{
    const struct worker_context *context = attempt->request->context;
    struct upstream *node =
        upstreams_at(context->upstreams, attempt->node, attempt->generation);

    if (node != NULL)
        node->full_mono_us = loop_now_us(context->loop) + ATTEMPT_FULL_PAUSE_US;
}

/*
 * RESOURCE_EXHAUSTED: a full node says when to come back.  Without that, the message may be too
 * large, which waiting does not change.
 */
static enum api_error classify_full(const struct attempt *attempt,
                                    const struct call_result *result, bool *unhinted)
{
    const struct request *req = attempt->request;

    if (result->pushback_ms >= 0) {
        pause_node(attempt);
        return API_ERROR_QUEUE_FULL;
    }
    if (node_call_is_too_large(result, req->envelope_bytes))
        return API_ERROR_TOO_LARGE;
    *unhinted = !req->full_unhinted;
    return req->full_unhinted ? API_ERROR_NODE_FAILED : API_ERROR_QUEUE_FULL;
}

/* The client's error if no other node helps, and this node's counter. */
static enum api_error classify_end(const struct attempt *attempt,
                                   const struct call_result *result,
                                   enum stats_counter *counter, bool *unhinted)
{
    enum api_error error = node_call_error(result);

    *counter = STATS_NODE_ERROR;
    if (error == API_ERROR_OVERLOADED)
        *counter = STATS_CLIENT_GONE; /* a failure of this worker, not of the node */
    else if (error == API_ERROR_BAD_REQUEST)
        *counter = STATS_CLIENT_ERROR;
    else if (error == API_ERROR_NODE_TIMEOUT)
        *counter = STATS_TIMEOUT;
    else if (result->end == CALL_END_CONNECT)
        *counter = STATS_CONNECT_FAILED;
    if (error != API_ERROR_QUEUE_FULL)
        return error;
    *counter = STATS_FULL;
    return classify_full(attempt, result, unhinted);
}

/*
 * Does this end say nothing of how well the node does?  What a client can bring about by asking
 * for something else than the node has, must not cost the node its traffic.  And a node that
 * breaks its connections, or whose engine dies, fails once, however many requests and workers
 * it had.
 */
static bool is_excused(const struct attempt *attempt, const struct call_result *result)
{
    const struct worker_context *context = attempt->request->context;

    if (result->status == GRPC_NOT_FOUND || result->status == GRPC_UNIMPLEMENTED ||
        result->status == GRPC_FAILED_PRECONDITION || result->status == GRPC_ABORTED)
        return true;
    if (attempt->cause.of_model ||
        (attempt->cause.kind != ATTEMPT_CAUSE_ENGINE_DIED &&
         attempt->cause.kind != ATTEMPT_CAUSE_ENGINE_AWAY && result->end != CALL_END_LOST &&
         result->end != CALL_END_REFUSED && result->end != CALL_END_CONNECT))
        return false; /* of a model's failure no outcome is noted: see select.c */
    return !outcomes_note_loss(context->board, attempt->node, attempt->generation,
                               loop_now_us(context->loop));
}

/* The engine never had the request, as far as the node says; and nothing of an answer came. */
static bool is_away(const struct attempt *attempt)
{
    return attempt->cause.kind == ATTEMPT_CAUSE_ENGINE_AWAY && attempt->status == 0 &&
           attempt->content_mono_us == 0;
}

/* A node that is there and closes its connection, say, as it does after some time: its next one
 * takes the request.  Once, as it may refuse for other reasons. */
static bool is_passing(struct attempt *attempt, const struct call_result *result)
{
    if (result->end != CALL_END_REFUSED || attempt->cause.kind != ATTEMPT_CAUSE_NONE ||
        attempt->request->was_refused)
        return false;
    attempt->request->was_refused = true;
    return true;
}

void attempt_classify(struct attempt *attempt, const struct call_result *result,
                      struct attempt_failure *out)
{
    bool passing = is_passing(attempt, result);

    if (!passing && attempt->cause.kind == ATTEMPT_CAUSE_NONE && node_call_is_unseen(result))
        attempt->cause.kind = ATTEMPT_CAUSE_ENGINE_AWAY;
    out->unhinted = false;
    if (passing) {
        out->error = API_ERROR_QUEUE_FULL;
        out->counter = STATS_FULL;
    } else {
        out->error = classify_end(attempt, result, &out->counter, &out->unhinted);
    }
    out->silent = result->status == GRPC_ABORTED;
    attempt->excused = passing || is_excused(attempt, result);
    if (attempt_is_refused(attempt)) {
        attempt->excused = true;
        out->counter = STATS_CLIENT_ERROR;
    }
    (void)snprintf(out->message, sizeof(out->message), "%s",
                   result->message[0] == '\0' ? grpc_status_name(result->status)
                                              : result->message);
}

bool attempt_is_refused(const struct attempt *attempt)
{
    return (attempt->cause.kind == ATTEMPT_CAUSE_ABILITY ||
            attempt->cause.kind == ATTEMPT_CAUSE_REQUEST) &&
           attempt->content_mono_us == 0;
}

/* A 200 that is no answer, of which the client has seen nothing. */
static bool is_no_answer(const struct attempt *attempt)
{
    return attempt->cause.kind == ATTEMPT_CAUSE_ENGINE_ERROR && attempt->cause.no_answer &&
           attempt->content_mono_us == 0 && attempt->request->shown != SHOWN_CONTENT;
}

enum retry_end attempt_retry_end(const struct attempt *attempt,
                                 const struct attempt_failure *failure)
{
    enum api_error error = failure->error;

    if (attempt_is_refused(attempt))
        return attempt->cause.kind == ATTEMPT_CAUSE_ABILITY ? RETRY_END_LACKS
                                                            : RETRY_END_BLAMED;
    if (attempt_is_unsure(attempt))
        return attempt->cause.kind == ATTEMPT_CAUSE_UNSURE ? RETRY_END_UNSURE : RETRY_END_EMPTY;
    if (is_no_answer(attempt))
        return RETRY_END_NO_ANSWER;
    if (is_away(attempt))
        return RETRY_END_AWAY;
    if (error == API_ERROR_BAD_REQUEST)
        return RETRY_END_REFUSED;
    if (failure->silent)
        return RETRY_END_SILENT;
    /* An attempt with a good head had room. */
    if ((error == API_ERROR_QUEUE_FULL || error == API_ERROR_OVERLOADED) &&
        attempt->status == 0)
        return RETRY_END_FULL;
    return RETRY_END_FAILED;
}

/* True: the node has just answered others, and is believed. */
static bool note_unsure(const struct attempt *attempt)
{
    const struct worker_context *context = attempt->request->context;

    return outcomes_note_unsure(context->board, attempt->node, attempt->generation,
                                loop_now_us(context->loop));
}

static struct poison_request poison_of(const struct request *req)
{
    return (struct poison_request){.model_hash = req->model_hash,
                                   .operation = req->client->operation,
                                   .body = req->client->body,
                                   .n = req->client->body_len};
}

bool attempt_is_poison(const struct attempt *attempt)
{
    const struct worker_context *context = attempt->request->context;
    const struct poison_request poison = poison_of(attempt->request);

    return poison_is(context->board, &poison, loop_now_us(context->loop));
}

/* Its operator, or the node itself, ends what it has. */
static bool is_leaving(const struct attempt *attempt)
{
    enum node_state state = nodes_state(attempt->request->context->board, attempt->node);

    return state == NODE_DRAINING || state == NODE_GONE || state == NODE_NONE;
}

/* Engines that died before any output, two of them, died of this request, perhaps: it is sent
 * to none for a while, whoever sends it. */
static void note_death(const struct attempt *attempt)
{
    struct request *req = attempt->request;
    const struct poison_request poison = poison_of(req);

    if (attempt->content_mono_us != 0 || req->shown == SHOWN_CONTENT)
        return;
    if (!poison_note_death(req->context->board, &poison, attempt->node,
                           req->unanswered_deaths++ != 0, loop_now_us(req->context->loop)))
        return;
    log_warn("event=poison id=%s execution=%s model=%s deaths=%u for_ms=%llu hint=\"engines "
             "died of this request before any output: the same one is refused for a while\"",
             req->client->id, req->client->execution_id, log_quote(req->client->client_model),
             req->unanswered_deaths, (unsigned long long)(POISON_US / US_PER_MS));
}

void attempt_absolve(struct attempt *attempt)
{
    struct request *req = attempt->request;
    struct poison_request poison;

    if (req->client == NULL || req->unanswered_deaths == 0)
        return;
    req->unanswered_deaths = 0;
    poison = poison_of(req);
    poison_forget(req->context->board, &poison, loop_now_us(req->context->loop));
}

void attempt_note_cause(struct attempt *attempt, enum retry_end end)
{
    struct request *req = attempt->request;

    if (end == RETRY_END_LACKS) {
        lacks_learn(attempt);
        req->refusals++;
        log_debug("event=refused id=%s node=%s lacks=%s limit=%" PRIu64 " needed=%" PRIu64,
                  req->client->id, attempt->node_name, ability_name(attempt->cause.ability),
                  attempt->cause.limit, attempt->cause.needed);
    } else if (end == RETRY_END_AWAY) {
        req->away++;
        pause_node(attempt); /* until health finds it down */
    } else if (end == RETRY_END_UNSURE || end == RETRY_END_EMPTY ||
               end == RETRY_END_NO_ANSWER) {
        req->unsure++;
        req->trusted += end != RETRY_END_NO_ANSWER && note_unsure(attempt);
    } else if (end == RETRY_END_BLAMED) {
        req->blamed++;
    } else if (attempt->cause.kind == ATTEMPT_CAUSE_ENGINE_DIED && !is_leaving(attempt)) {
        req->engines_died++;
        note_death(attempt);
        log_warn("event=engine_died id=%s node=%s engines=%u", req->client->id,
                 attempt->node_name, req->engines_died);
    }
}
