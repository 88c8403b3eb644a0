/*
 * infer.c - the life of one request: what comes in is checked, admitted or refused, run, and
 * ended exactly once, whoever ends it.
 *
 * Ending is two steps.  finish() settles everything towards the outside (the call, the engine's
 * run, the slot, the counters) and may be called from any callback; the memory goes at the end
 * of the turn, so that callbacks further up the stack may still look at `phase`.
 */
#include "node/infer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "node/engine/exec.h"
#include "node/text/edit.h"
#include "node/text/resume.h"
#include "proto/operations.h"

#define PUSHBACK_MS 100 /* to callers that found the queue full */

/* ---- the end --------------------------------------------------------------------------- */

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
    exec->next = agent->dead;
    agent->dead = exec;
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

    if (engine && log_limit_ok(&exec->agent->failures, 5, &missed))
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

bool exec_send(struct exec *exec, const Drover__V1__InferEvent *event)
{
    int rc = server_call_send(exec->call, &event->base);

    if (rc == 0)
        return true;
    exec_fail(exec, GRPC_UNAVAILABLE, "the node cannot send its answer (%s)", error_name(rc));
    return false;
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

/* ---- running --------------------------------------------------------------------------- */

void exec_run_over(struct exec *exec)
{
    exec->run = NULL;
    timer_stop(exec->agent->loop, &exec->silence);
    give_back(exec, false);
    agent_changed(exec->agent, AGENT_LOAD_CHANGED);
}

static int engine_kind(const struct exec *exec)
{
    struct engine *engine = exec->agent->engine;

    return (int)engine_facts(engine)->kind;
}

/* Asks the engine; the slot is counted already. */
static void start_run(struct exec *exec)
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

    if (engine_start(agent->engine, &exec->run, &request, &answer_events, exec, &err) != 0) {
        exec->run = NULL;
        give_back(exec, false);
        exec_fail(exec, GRPC_UNAVAILABLE, "%s", err.text);
        return;
    }
    exec->started_us = loop_now_us(agent->loop);
    answer_watch(exec);
}

void exec_run(struct exec *exec)
{
    /* The place that exec_run_over() gave back this instant. */
    if (operation_is_question(exec->operation))
        exec->agent->admission.questions++;
    else
        exec->agent->admission.active++;
    start_run(exec);
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

/* The slot is this execution's now, or it needs none. */
static void begin(struct exec *exec)
{
    exec->phase = EXEC_RUNNING;
    start_run(exec);
    if (exec->phase == EXEC_RUNNING && !exec_accepted(exec, 0))
        return; /* it ended, and said so */
    agent_changed(exec->agent, AGENT_LOAD_CHANGED);
}

void infer_turn(struct agent *agent)
{
    struct waiter *waiter;

    while (agent->dead != NULL) {
        struct exec *exec = agent->dead;

        agent->dead = exec->next;
        free_exec(exec);
    }
    while ((waiter = admission_next(&agent->admission)) != NULL)
        begin(CONTAINER_OF(waiter, struct exec, waiter));
}

/* ---- what comes in --------------------------------------------------------------------- */

static void on_start(struct server_call *call, void *data)
{
    struct agent *agent = data;
    struct exec *exec;

    if (!agent_authorised(agent, call)) {
        server_call_finish(call, GRPC_UNAUTHENTICATED, "bad or missing call proof");
        return;
    }
    if (agent->draining) {
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is draining");
        return;
    }
    exec = calloc(1, sizeof(*exec));
    if (exec == NULL) {
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is out of memory");
        return;
    }
    exec->agent = agent;
    exec->call = call;
    server_call_set_data(call, exec);
}

/* Keeps the content type and the allowed headers. */
static int keep_headers(struct exec *exec, const Drover__V1__InferRequest *request)
{
    const char *type =
        request->content_type[0] == '\0' ? "application/json" : request->content_type;
    const char *at;

    buf_add(&exec->request_text, type, strlen(type) + 1);
    for (size_t i = 0; i < request->n_headers; i++) {
        const Drover__V1__Header *header = request->headers[i];

        if (!headers_to_engine(header->name, header->value))
            continue;
        buf_add(&exec->request_text, header->name, strlen(header->name) + 1);
        buf_add(&exec->request_text, header->value, strlen(header->value) + 1);
        exec->headers_count++;
    }
    if (exec->request_text.failed)
        return DRV_ENOMEM;
    at = (const char *)buf_head(&exec->request_text);
    at += strlen(at) + 1;
    for (size_t i = 0; i < exec->headers_count; i++) {
        exec->headers[i].name = at;
        at += strlen(at) + 1;
        exec->headers[i].value = at;
        at += strlen(at) + 1;
    }
    return 0;
}

static const struct engine_model *find_model(const struct engine_facts *facts, const char *id)
{
    for (uint32_t i = 0; i < facts->models_count; i++)
        if (strcmp(facts->models[i].id, id) == 0)
            return &facts->models[i];
    return NULL;
}

/* Whose token ids an answer is made of; 0 where ids are neither told nor taken. */
static uint64_t vocabulary_of(const struct exec *exec, const char *model_id)
{
    struct engine *engine = exec->agent->engine;
    const struct engine_facts *facts = engine_facts(engine);
    const struct engine_model *model = find_model(facts, model_id);

    if (model == NULL || !resume_engine_knows_ids((int)facts->kind, exec->operation))
        return 0;
    return model->vocabulary;
}

/* Can this node serve it at all?  False: the call has ended. */
static bool check_service(struct exec *exec, const Drover__V1__InferRequest *request)
{
    struct agent *agent = exec->agent;
    const struct engine_facts *facts = engine_facts(agent->engine);
    const struct engine_model *model = find_model(facts, request->model);

    if (agent->draining)
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is draining");
    else if (!facts->reachable)
        exec_fail(exec, GRPC_UNAVAILABLE, "the engine is not reachable: %s", facts->detail);
    else if (facts->loading)
        exec_fail(exec, GRPC_UNAVAILABLE, "the engine is loading its model");
    else if (request->model[0] != '\0' && model == NULL)
        exec_fail(exec, GRPC_NOT_FOUND, "no such model on this node: %s", request->model);
    else if (model != NULL && model->operations != 0 &&
             (model->operations & (UINT32_C(1) << exec->operation)) == 0)
        exec_fail(exec, GRPC_UNIMPLEMENTED, "the engine does not speak this API");
    else if (request->resume != NULL && !resume_engine_can((int)facts->kind, exec->operation))
        exec_fail(exec, GRPC_UNIMPLEMENTED, "this engine cannot continue an answer");
    else
        return true;
    return false;
}

/* Is the message itself all right?  False: the call has ended. */
static bool check_request(struct exec *exec, const Drover__V1__InferRequest *request)
{
    const struct agent_config *config = &exec->agent->config;

    if (!text_is_name(request->request_id, 64))
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "request_id is not [A-Za-z0-9._-]{1,64}");
    else if ((int)request->operation <= 0 || (int)request->operation >= 32)
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "no such operation: %d",
                  (int)request->operation);
    else if (engine_path((int)request->operation) == NULL)
        exec_fail(exec, GRPC_UNIMPLEMENTED, "operation %d is not known here",
                  (int)request->operation);
    else if (request->n_headers > HEADERS_MAX)
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "more than %d headers", HEADERS_MAX);
    else if (strlen(request->model) >= ENGINE_MODEL_BYTES)
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "the model's name is too long");
    else if (!headers_value_ok(request->content_type))
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "content_type is not printable ASCII");
    else if (request->instance_id.len != 0 &&
             (request->instance_id.len != sizeof(config->instance_id) ||
              memcmp(request->instance_id.data, config->instance_id,
                     sizeof(config->instance_id)) != 0))
        exec_fail(exec, GRPC_FAILED_PRECONDITION, "this is another instance of the node");
    else if (request->resume != NULL && !request->stream)
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "only a stream can be continued");
    else
        return true;
    return false;
}

/* The answer has reached its limit: what the client lacks is its end. */
static void end_at_limit(struct exec *exec, const Drover__V1__InferRequest *request,
                         const struct json_value *root)
{
    const Drover__V1__Resume *resume = request->resume;
    struct resume_last last = {.operation = exec->operation,
                               .id = resume->response_id,
                               .created = resume->created,
                               .prompt_tokens = request->est_prompt_tokens,
                               .output_tokens = resume->text_tokens};

    resume_last_events(&exec->out, root, &last);
    exec->observer.usage.prompt_tokens = last.prompt_tokens;
    answer_last(exec);
}

/* Prepares to continue an answer: `body`, and `source` with it, becomes what asks for the rest
 * of it.  False: the call has ended. */
static bool take_resume(struct exec *exec, const Drover__V1__InferRequest *request,
                        struct edit_source *source, struct buf *body)
{
    const Drover__V1__Resume *resume = request->resume;
    struct resume_request rest = {.operation = exec->operation,
                                  .text = resume->text,
                                  .text_len = resume_text_len(resume->text),
                                  .tokens = resume->text_tokens};
    struct rejoin_config config = {
        .operation = exec->operation,
        .id = resume->response_id,
        .created = resume->created,
        .tokens = resume->text_tokens,
        .text = rest.text,
        .text_len = rest.text_len,
        .repeats = resume_engine_repeats(engine_kind(exec), exec->operation)};
    struct error err = {0};
    bool over = false;
    int rc;

    exec->continues = true;
    if (resume->vocabulary != 0 && resume->vocabulary == exec->vocabulary) {
        rest.token_ids = resume->token_ids;
        rest.token_ids_count = resume->n_token_ids;
    }
    if (rest.token_ids_count != 0)
        config.text_len = 0; /* whoever goes on from ids says nothing again */
    rc = rejoin_init(&exec->rejoin, &config);
    if (rc == 0)
        rc = resume_body(body, &source->root, &rest, &over, &err);
    if (rc == 0 && over) {
        end_at_limit(exec, request, &source->root);
        return false;
    }
    if (rc == 0)
        rc = edit_check(source, exec->operation, buf_head(body), buf_size(body), &err);
    if (rc != 0) {
        exec_fail(exec, rc == DRV_EINVAL ? GRPC_UNIMPLEMENTED : GRPC_UNAVAILABLE, "%s",
                  rc == DRV_EINVAL ? err.text : "the node is out of memory");
        return false;
    }
    return true;
}

/* Takes over what is needed of the message, whose memory is the arena's.  False: the call has
 * ended. */
static bool take_request(struct exec *exec, const Drover__V1__InferRequest *request)
{
    struct edit_wishes wishes = {.model = "", .stream = request->stream};
    struct buf rest = BUF_INIT;
    struct edit_outcome outcome;
    struct edit_source source;
    struct error err = {0};
    int rc;

    exec->want_text = request->want_text;
    exec->stream = request->stream;
    exec->first_token_ms = request->first_token_ms;
    exec->idle_token_ms = request->idle_token_ms;
    exec->waiter.priority = request->priority;
    wishes.no_usage = exec->agent->no_stream_options;
    wishes.content_type = request->content_type;
    if (request->edit != NULL) {
        wishes.model = request->edit->set_model;
        wishes.usage = request->edit->want_usage;
    }
    rc = edit_check(&source, exec->operation, request->body.data, request->body.len, &err);
    if (rc != 0) {
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "%s", err.text);
        return false;
    }
    exec->resumable =
        exec->want_text && exec->stream && resume_possible(exec->operation, &source.root);
    observer_init(&exec->observer, exec->operation, exec->resumable);
    exec->vocabulary = vocabulary_of(exec, request->model);
    wishes.token_ids =
        exec->agent->config.resume_ids && exec->resumable && exec->vocabulary != 0;
    if (request->resume != NULL && !take_resume(exec, request, &source, &rest)) {
        buf_finish(&rest);
        return false;
    }
    rc = edit_body(&exec->body, &source, &wishes, &outcome, &err);
    buf_finish(&rest);
    if (rc == 0)
        rc = keep_headers(exec, request);
    if (rc != 0) {
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    exec->streaming = outcome.streaming;
    exec->usage_added = outcome.usage_added;
    exec->ids_asked = wishes.token_ids;
    token_ids_init(&exec->ids);
    return true;
}

static void admit_question(struct exec *exec)
{
    if (admission_question(&exec->agent->admission))
        begin(exec);
    else
        exec_fail(exec, GRPC_RESOURCE_EXHAUSTED, "%u questions are under way",
                  ADMISSION_MAX_QUESTIONS);
}

static void admit(struct exec *exec)
{
    struct agent *agent = exec->agent;

    switch (admission_ask(&agent->admission, &exec->waiter)) {
    case ADMIT_NOW:
        begin(exec);
        break;
    case ADMIT_QUEUED:
        if (exec_accepted(exec, admission_position(&agent->admission, &exec->waiter)))
            agent_changed(agent, AGENT_LOAD_CHANGED);
        break;
    case ADMIT_FULL:
        exec_fail(exec, GRPC_RESOURCE_EXHAUSTED, "slots (%u) and queue (%u) are full",
                  (unsigned)agent->admission.slots, (unsigned)agent->admission.queue);
        break;
    }
}

static void on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct exec *exec = server_call_data(call);
    Drover__V1__InferRequest *request;
    struct agent *agent;
    struct error err = {0};

    if (exec == NULL)
        return; /* ended in on_start */
    agent = exec->agent;
    request = (Drover__V1__InferRequest *)wire_unpack(&drover__v1__infer_request__descriptor,
                                                      &agent->arena, message, n, &err);
    if (request == NULL) {
        exec_fail(exec, GRPC_INVALID_ARGUMENT, "%s", err.text);
        return;
    }
    if (!check_request(exec, request))
        return;
    (void)strlcpy(exec->request_id, request->request_id, sizeof(exec->request_id));
    exec->attempt = request->attempt;
    exec->operation = (int)request->operation;
    if (!check_service(exec, request) || !take_request(exec, request))
        return;

    exec->phase = EXEC_QUEUED;
    if (operation_is_question(exec->operation))
        admit_question(exec);
    else
        admit(exec);
}

static void on_gone(struct server_call *call)
{
    struct exec *exec = server_call_data(call);

    if (exec == NULL)
        return;
    finish(exec);
}

static void on_writable(struct server_call *call)
{
    struct exec *exec = server_call_data(call);

    if (exec != NULL)
        answer_writable(exec);
}

const struct server_handler infer_handler = {
    .on_start = on_start,
    .on_message = on_message,
    .on_gone = on_gone,
    .on_writable = on_writable,
};

void infer_free_all(struct agent *agent)
{
    while (agent->dead != NULL) {
        struct exec *exec = agent->dead;

        agent->dead = exec->next;
        free_exec(exec);
    }
}
