/*
 * exec.c - what a request does towards the outside: its call, its slot, its end.
 *
 * Ending is two steps.  finish() settles everything (the call, the engine's run, the slot) and
 * may be called from any callback; the memory goes at the end of the turn, so that callbacks
 * further up the stack may still look at `phase`.
 */
#include "node/engine/exec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "proto/operations.h"

#define PUSHBACK_MS 100 /* to callers that found the queue full */

/* ---- memory ---------------------------------------------------------------------------- */

void exec_pool_init(struct exec_pool *pool, struct agent *agent)
{
    *pool = (struct exec_pool){.agent = agent};
    wire_arena_init(&pool->arena);
}

void exec_pool_finish(struct exec_pool *pool)
{
    exec_pool_free_dead(pool);
    wire_arena_finish(&pool->arena);
}

struct exec *exec_create(struct exec_pool *pool, struct server_call *call)
{
    struct exec *exec = calloc(1, sizeof(*exec));

    if (exec == NULL)
        return NULL;
    exec->pool = pool;
    exec->agent = pool->agent;
    exec->call = call;
    server_call_set_data(call, exec);
    return exec;
}

static void free_exec(struct exec *exec)
{
    buf_finish(&exec->body);
    buf_finish(&exec->request_text);
    buf_finish(&exec->response_text);
    buf_finish(&exec->out);
    buf_finish(&exec->whole);
    sse_finish(&exec->sse);
    token_ids_finish(&exec->ids);
    rejoin_finish(&exec->rejoin);
    observer_finish(&exec->observer);
    assembler_destroy(exec->assembler);
    free(exec);
}

void exec_pool_free_dead(struct exec_pool *pool)
{
    while (pool->dead != NULL) {
        struct exec *exec = pool->dead;

        pool->dead = exec->next;
        free_exec(exec);
    }
}

/* ---- the end --------------------------------------------------------------------------- */

/* The engine works on it no more.  `lingers`: the engine may not know it yet. */
static void give_back(struct exec *exec, bool lingers)
{
    struct admission *admission = &exec->agent->admission;

    if (operation_is_question(exec->operation))
        admission_question_end(admission);
    else
        admission_end(admission, lingers, loop_now_us(exec->agent->loop));
}

/* Lets go of everything but the memory.  The call is finished by the caller, or gone. */
static void finish(struct exec *exec)
{
    struct agent *agent = exec->agent;

    exec->phase = EXEC_ENDED;
    timer_stop(agent->loop, &exec->silence);
    loop_undefer(agent->loop, &exec->flush);
    admission_leave(&agent->admission, &exec->waiter);
    if (exec->run != NULL) {
        engine_cancel(exec->run);
        exec->run = NULL;
        /* Engines that show their load also show when they have noticed. */
        give_back(exec, agent->looked_mono_us != 0 && agent->told.has_load);
    }
    if (exec->call != NULL)
        server_call_set_data(exec->call, NULL);
    exec->call = NULL;
    exec->next = exec->pool->dead;
    exec->pool->dead = exec;
    agent_changed(agent, AGENT_LOAD_CHANGED);
}

/* What the engine did wrong is for the operator; what callers do is for those who debug. */
static void log_failure(const struct exec *exec, enum grpc_status status, const char *text)
{
    bool engine = exec->phase == EXEC_RUNNING &&
                  (status == GRPC_INTERNAL || status == GRPC_UNAVAILABLE ||
                   status == GRPC_DATA_LOSS || status == GRPC_DEADLINE_EXCEEDED);
    enum log_level level = LOG_LEVEL_DEBUG;
    uint32_t missed = 0;

    if (engine && log_limit_ok(&exec->pool->failures, 5, &missed))
        level = LOG_LEVEL_WARN;
    if (log_enabled(level))
        log_line(level, "event=infer_failed id=%s attempt=%u status=%s detail=%s missed=%u",
                 exec->request_id, (unsigned)exec->attempt, grpc_status_name(status),
                 log_quote(text), (unsigned)missed);
}

void exec_fail(struct exec *exec, enum grpc_status status, const char *format, ...)
{
    struct server_call *call = exec->call;
    char text[400];
    va_list args;

    if (exec->phase == EXEC_ENDED)
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!text_is_utf8(text, strlen(text)))
        for (char *p = text; *p != '\0'; p++)
            if ((*p & 0x80) != 0)
                *p = '?';
    log_failure(exec, status, text);
    finish(exec);
    if (status == GRPC_RESOURCE_EXHAUSTED)
        server_call_finish_pushback(call, status, text, PUSHBACK_MS);
    else
        server_call_finish(call, status, text);
}

void exec_gone(struct exec *exec)
{
    finish(exec);
}

void exec_succeed(struct exec *exec)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Finish message = DROVER__V1__FINISH__INIT;
    Drover__V1__Usage usage = DROVER__V1__USAGE__INIT;
    struct server_call *call = exec->call;
    struct agent *agent = exec->agent;
    struct observer *o = &exec->observer;
    uint32_t given =
        exec->continues ? exec->rejoin.tokens : 0; /* part of the usage, not ours */

    usage.prompt_tokens = o->usage.prompt_tokens;
    usage.cached_prompt_tokens = o->usage.cached_prompt_tokens;
    usage.output_tokens = o->usage.output_tokens;
    if (usage.output_tokens < o->tokens + given)
        usage.output_tokens = o->tokens + given; /* several choices: engines report one */
    message.usage = &usage;
    message.body_bytes = exec->body_bytes;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_FINISH;
    event.finish = &message;
    if (usage.output_tokens > o->tokens + given)
        agent->output_tokens += usage.output_tokens - o->tokens - given;
    if (!exec_send(exec, &event))
        return;
    finish(exec);
    server_call_finish(call, GRPC_OK, NULL);
}

/* ---- what the caller hears -------------------------------------------------------------- */

bool exec_send(struct exec *exec, const Drover__V1__InferEvent *event)
{
    int rc = server_call_send(exec->call, &event->base);

    if (rc == 0)
        return true;
    exec_fail(exec, GRPC_UNAVAILABLE, "the node cannot send its answer (%s)", error_name(rc));
    return false;
}

bool exec_accepted(struct exec *exec, uint32_t position)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Accepted accepted = DROVER__V1__ACCEPTED__INIT;

    accepted.queue_position = position;
    accepted.work = exec->progress;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_ACCEPTED;
    event.accepted = &accepted;
    return exec_send(exec, &event);
}

/* ---- the engine's run ------------------------------------------------------------------ */

bool exec_run(struct exec *exec, const struct engine_events *events)
{
    struct agent *agent = exec->agent;
    struct engine_request request = {
        .operation = exec->operation,
        .content_type = (const char *)buf_head(&exec->request_text),
        .body = buf_head(&exec->body),
        .body_len = buf_size(&exec->body),
        .headers = exec->headers,
        .headers_count = exec->headers_count,
        .id = exec->request_id,
        .attempt = exec->attempt,
    };
    struct error err = {0};

    if (engine_start(agent->engine, &exec->run, &request, events, exec, &err) != 0) {
        exec->run = NULL;
        give_back(exec, false);
        exec_fail(exec, GRPC_UNAVAILABLE, "%s", err.text);
        return false;
    }
    exec->started_us = loop_now_us(agent->loop);
    return true;
}

void exec_run_over(struct exec *exec)
{
    exec->run = NULL;
    timer_stop(exec->agent->loop, &exec->silence);
    give_back(exec, false);
    agent_changed(exec->agent, AGENT_LOAD_CHANGED);
}

void exec_retake(struct exec *exec)
{
    if (operation_is_question(exec->operation))
        exec->agent->admission.questions++;
    else
        exec->agent->admission.active++;
}
