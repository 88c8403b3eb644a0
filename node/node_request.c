/*
 * node_request.c - a request's effects outside: its call, its slot, its end.
 *
 * Ending is two steps.  finish() settles everything (the call, the engine's run, the slot) and
 * may be called from any callback; the memory goes at the end of the turn, so that callbacks
 * further up the stack may still look at `phase`.
 */
#include "node/node_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/text.h"
#include "node/body/edit.h"
#include "proto/operations.h"

#define PUSHBACK_MS 100 /* to callers that found the queue full */

/* ---- memory ---------------------------------------------------------------------------- */

void node_request_pool_init(struct node_request_pool *pool, struct agent *agent)
{
    *pool = (struct node_request_pool){.agent = agent};
    wire_arena_init(&pool->arena);
    uploads_init(&pool->uploads, AGENT_BODIES_BYTES);
}

void node_request_pool_finish(struct node_request_pool *pool)
{
    node_request_pool_free_dead(pool);
    wire_arena_finish(&pool->arena);
}

struct node_request *node_request_create(struct node_request_pool *pool,
                                         struct server_call *call)
{
    struct node_request *req = calloc(1, sizeof(*req));

    if (req == NULL)
        return NULL;
    req->pool = pool;
    req->agent = pool->agent;
    req->call = call;
    server_call_set_data(call, req);
    return req;
}

static void free_node_request(struct node_request *req)
{
    buf_finish(&req->body);
    buf_finish(&req->first);
    upload_end(&req->upload);
    edit_checker_destroy(req->checker);
    splices_finish(&req->splices);
    buf_finish(&req->request_text);
    buf_finish(&req->response_text);
    buf_finish(&req->out);
    buf_finish(&req->whole);
    sse_finish(&req->sse);
    token_ids_finish(&req->ids);
    splice_finish(&req->splice);
    meter_finish(&req->meter);
    assembler_destroy(req->assembler);
    free(req);
}

void node_request_pool_free_dead(struct node_request_pool *pool)
{
    while (pool->dead != NULL) {
        struct node_request *req = pool->dead;

        pool->dead = req->next;
        free_node_request(req);
    }
}

/* ---- the end --------------------------------------------------------------------------- */

void node_request_note_loading(struct node_request *req, bool loading)
{
    if (loading == req->loading)
        return;
    req->loading = loading;
    if (req->question)
        return;
    if (loading)
        req->agent->loads++;
    else
        req->agent->loads--;
    agent_resize(req->agent);
}

void node_request_answered(struct node_request *req)
{
    if (slots_answered(&req->agent->slots, &req->waiter, loop_now_us(req->agent->loop)))
        agent_changed(req->agent, AGENT_LOAD_CHANGED);
}

/* The engine works on it no more.  `lingers`: the engine may not know it yet. */
static void give_back(struct node_request *req, bool lingers)
{
    struct slots *slots = &req->agent->slots;

    node_request_note_loading(req, false);
    if (req->question) {
        slots_question_end(slots);
        return;
    }
    slots_end(slots, &req->waiter, lingers, loop_now_us(req->agent->loop));
    if (slot_limit_end(&req->agent->limit, &req->slot_run, loop_now_us(req->agent->loop)))
        agent_resize(req->agent);
}

/* Lets go of everything but the memory.  The call is finished by the caller, or gone. */
static void finish(struct node_request *req)
{
    struct agent *agent = req->agent;

    req->phase = NODE_REQUEST_ENDED;
    timer_stop(agent->loop, &req->silence_timer);
    timer_stop(agent->loop, &req->upload_timer);
    loop_undefer(agent->loop, &req->flush);
    loop_undefer(agent->loop, &req->settle);
    agent_unlisten(agent, &req->listener);
    slots_leave(&agent->slots, &req->waiter);
    if (req->run != NULL) {
        engine_cancel(req->run,
                      req->content_us == 0 ? ENGINE_CANCEL_EARLY : ENGINE_CANCEL_AMID);
        req->run = NULL;
        /* Engines that show their load also show when they have noticed. */
        give_back(req, agent->looked_mono_us != 0 && agent->reported.has_load);
    }
    if (req->call != NULL)
        server_call_set_data(req->call, NULL);
    req->call = NULL;
    req->next = req->pool->dead;
    req->pool->dead = req;
    agent_changed(agent, AGENT_LOAD_CHANGED);
}

/* Faults of the engine are warnings for the operator; faults of callers are debug lines. */
static void log_failure(const struct node_request *req, enum grpc_status status,
                        const char *text)
{
    bool engine =
        req->phase == NODE_REQUEST_RUNNING &&
        (status == GRPC_INTERNAL || status == GRPC_UNAVAILABLE || status == GRPC_DATA_LOSS ||
         status == GRPC_DEADLINE_EXCEEDED || status == GRPC_ABORTED);
    enum log_level level = LOG_LEVEL_DEBUG;
    uint32_t missed = 0;

    if (engine && log_limit_ok(&req->pool->failures, 5, &missed))
        level = LOG_LEVEL_WARN;
    if (log_enabled(level))
        log_line(level, "event=infer_failed id=%s attempt=%u status=%s detail=%s missed=%u",
                 req->request_id, (unsigned)req->attempt, grpc_status_name(status),
                 log_quote(text), (unsigned)missed);
}

void node_request_fail(struct node_request *req, enum grpc_status status, const char *format,
                       ...)
{
    struct server_call *call = req->call;
    char text[400];
    va_list args;

    if (req->phase == NODE_REQUEST_ENDED)
        return;
    /* The request may be the cause of an answer that is none. */
    req->no_answer |= req->http_status / 100 == 2;
    if ((status == GRPC_INTERNAL || status == GRPC_DATA_LOSS) &&
        !node_request_cause(req, DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR, NULL))
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!text_is_utf8(text, strlen(text)))
        for (char *p = text; *p != '\0'; p++)
            if ((*p & 0x80) != 0)
                *p = '?';
    log_failure(req, status, text);
    finish(req);
    if (status == GRPC_RESOURCE_EXHAUSTED)
        server_call_finish_pushback(call, status, text, PUSHBACK_MS);
    else
        server_call_finish(call, status, text);
}

void node_request_gone(struct node_request *req)
{
    finish(req);
}

/* Is the model in memory, with the context that the request wants? */
static bool is_loaded(const struct node_request *req, const struct engine_model *model)
{
    uint32_t context = req->wanted_context;

    if (model->largest_context != 0 && context > model->largest_context)
        context = model->largest_context;
    return model->state == DROVER__V1__MODEL_STATE__MODEL_STATE_READY &&
           (context == 0 || context == model->max_context);
}

/* A model that has answered is loaded, whatever the last look found. */
static void note_loaded(const struct node_request *req)
{
    struct engine *engine = req->agent->engine;
    const struct engine_model *model = facts_model(engine_facts(engine), req->model);

    if (model != NULL && !is_loaded(req, model))
        engine_doubt(engine);
}

bool node_request_is_empty(const struct node_request *req)
{
    return meter_streams(req->operation) && req->http_status == 200 && !req->too_large &&
           !req->continues && meter_is_blank(&req->meter);
}

void node_request_succeed(struct node_request *req)
{
    static char no_reason[] = "-";
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Finish message = DROVER__V1__FINISH__INIT;
    Drover__V1__Usage usage = DROVER__V1__USAGE__INIT;
    struct server_call *call = req->call;
    struct agent *agent = req->agent;
    struct stream_meter *o = &req->meter;
    uint32_t given = req->continues ? req->splice.tokens : 0; /* part of the usage, not ours */

    (void)meter_sum_usage(o);
    if (req->http_status == 200) {
        engine_operation_works(agent->engine, req->operation);
        agent->no_stream_options |= req->without_usage;
        note_loaded(req);
    }
    usage.prompt_tokens = o->usage.prompt_tokens;
    usage.cached_prompt_tokens = o->usage.cached_prompt_tokens;
    usage.output_tokens = o->usage.output_tokens;
    if (usage.output_tokens < o->tokens + given)
        usage.output_tokens = o->tokens + given; /* several choices: engines report one */
    message.usage = &usage;
    message.body_bytes = req->body_bytes;
    if (node_request_is_empty(req))
        message.empty = o->reason[0] == '\0' ? no_reason : o->reason;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_FINISH;
    event.finish = &message;
    if (usage.output_tokens > o->tokens + given)
        agent->output_tokens += usage.output_tokens - o->tokens - given;
    if (!node_request_send(req, &event))
        return;
    finish(req);
    server_call_finish(call, GRPC_OK, NULL);
}

/* ---- messages to the caller ------------------------------------------------------------- */

bool node_request_send(struct node_request *req, const Drover__V1__InferEvent *event)
{
    int rc = server_call_send(req->call, &event->base);

    if (rc == 0)
        return true;
    node_request_fail(req, GRPC_UNAVAILABLE, "the node cannot send its answer (%s)",
                      error_name(rc));
    return false;
}

bool node_request_accepted(struct node_request *req, uint32_t position)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Accepted accepted = DROVER__V1__ACCEPTED__INIT;

    accepted.queue_position = position;
    accepted.work = req->signs_told;
    accepted.loading = req->loading;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_ACCEPTED;
    event.accepted = &accepted;
    return node_request_send(req, &event);
}

bool node_request_cause(struct node_request *req, Drover__V1__Cause__Kind kind,
                        const struct refusal *refusal)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Cause cause = DROVER__V1__CAUSE__INIT;

    if (kind == DROVER__V1__CAUSE__KIND__KIND_UNSPECIFIED || req->cause_sent)
        return true;
    req->cause_sent = true;
    cause.kind = kind;
    cause.no_answer = req->no_answer && kind == DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR;
    cause.of_model = req->of_model && engine_facts(req->agent->engine)->models_count > 1;
    if (kind == DROVER__V1__CAUSE__KIND__KIND_ABILITY) {
        cause.ability = (Drover__V1__Ability)refusal->ability;
        cause.limit = refusal->limit;
        cause.needed = refusal->needed;
    }
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_CAUSE;
    event.cause = &cause;
    return node_request_send(req, &event);
}

/* ---- a long body ----------------------------------------------------------------------- */

void node_request_drop_body(struct node_request *req)
{
    if (req->upload.uploads == NULL || (req->run != NULL && !engine_has_body(req->run)))
        return;
    upload_end(&req->upload);
    agent_changed(req->agent, AGENT_SLOTS_CHANGED); /* another may come now */
}

int node_request_flatten(struct node_request *req)
{
    struct splices_reader reader = {0};
    size_t n = splices_size(&req->splices);
    uint8_t *to;

    if (req->upload.bytes == NULL)
        return 0;
    to = buf_reserve(&req->body, n);
    if (to == NULL)
        return DRV_ENOMEM;
    req->body.len += splices_read(&req->splices, &reader, to, n);
    upload_drop(&req->upload);
    return 0;
}

/* ---- the engine's run ------------------------------------------------------------------ */

bool node_request_run(struct node_request *req, const struct engine_events *events)
{
    struct agent *agent = req->agent;
    struct engine_request request = {
        .operation = req->operation,
        .method = req->method,
        .target = req->target,
        .content_type = (const char *)buf_head(&req->request_text),
        .body = buf_head(&req->body),
        .body_len = buf_size(&req->body),
        .headers = req->headers,
        .headers_count = req->headers_count,
        .model = req->sent_model,
        .id = req->request_id,
        .attempt = req->attempt,
    };
    const struct engine_model *model;
    struct error err = {0};

    if (req->upload.bytes != NULL) {
        request.splices = &req->splices;
        request.body_len = splices_size(&req->splices);
    }
    if (engine_start(agent->engine, &req->run, &request, events, req, &err) != 0) {
        req->run = NULL;
        give_back(req, false);
        node_request_fail(req, GRPC_UNAVAILABLE, "%s", err.text);
        return false;
    }
    req->started_us = loop_now_us(agent->loop);
    model = facts_model(engine_facts(agent->engine), req->model);
    req->was_loaded = model == NULL || is_loaded(req, model);
    if (!req->question)
        slot_limit_start(&agent->limit, &req->slot_run, request.body_len, req->started_us);
    return true;
}

void node_request_run_over(struct node_request *req)
{
    req->run = NULL;
    timer_stop(req->agent->loop, &req->silence_timer);
    give_back(req, false);
    agent_changed(req->agent, AGENT_LOAD_CHANGED);
}

void node_request_drop_run(struct node_request *req)
{
    engine_cancel(req->run, ENGINE_CANCEL_OVER);
    node_request_run_over(req);
}

void node_request_retake(struct node_request *req)
{
    if (req->question)
        req->agent->slots.questions++;
    else
        slots_retake(&req->agent->slots, &req->waiter);
}
