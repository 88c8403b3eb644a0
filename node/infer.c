/*
 * infer.c - drover-node's gRPC service, and Infer in it: what comes in is checked, admitted or
 * refused, and run when it has a slot.
 *
 * From there on answer.c works on it, and exec.c ends it.
 */
#include "node/infer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "node/agent.h"
#include "node/answer.h"
#include "node/engine/exec.h"
#include "node/report/reports.h"
#include "node/text/edit.h"
#include "node/text/resume.h"
#include "proto/health_service.h"
#include "proto/operations.h"

struct service {
    struct agent *agent; /* borrowed */
    struct agent_listener listener;
    struct exec_pool pool;
    struct deferred turn;          /* frees what has ended, starts what waits and has a slot */
    struct health_service *health; /* owned */
    struct server_method methods[SERVICE_METHODS];
};

/* ---- running --------------------------------------------------------------------------- */

/* The slot is this execution's now, or it needs none. */
static void begin(struct exec *exec)
{
    exec->phase = EXEC_RUNNING;
    answer_start(exec);
    if (exec->phase == EXEC_RUNNING && !exec_accepted(exec, 0))
        return; /* it ended, and said so */
    agent_changed(exec->agent, AGENT_LOAD_CHANGED);
}

static void on_turn(struct deferred *deferred)
{
    struct service *service = CONTAINER_OF(deferred, struct service, turn);
    struct waiter *waiter;

    exec_pool_free_dead(&service->pool);
    while ((waiter = admission_next(&service->agent->admission)) != NULL)
        begin(CONTAINER_OF(waiter, struct exec, waiter));
}

static void set_health(struct service *service)
{
    const struct agent *agent = service->agent;
    const struct engine_facts *facts = engine_facts(agent->engine);
    bool serving = facts->reachable && !facts->loading && !agent->draining;

    health_service_set(service->health, "", serving);
    health_service_set(service->health, "drover.v1.Inference", serving);
}

/* Requests that ended are to be freed, and a slot may have become free. */
static void on_change(struct agent_listener *listener, unsigned changes)
{
    struct service *service = CONTAINER_OF(listener, struct service, listener);

    loop_defer(service->agent->loop, &service->turn, on_turn);
    if ((changes & AGENT_LOAD_CHANGED) != 0)
        set_health(service);
}

/* ---- what comes in --------------------------------------------------------------------- */

static void on_start(struct server_call *call, void *data)
{
    struct service *service = data;
    struct agent *agent = service->agent;

    if (!agent_authorised(agent, call)) {
        server_call_finish(call, GRPC_UNAUTHENTICATED, "bad or missing call proof");
        return;
    }
    if (agent->draining) {
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is draining");
        return;
    }
    if (exec_create(&service->pool, call) == NULL)
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is out of memory");
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
    const struct engine_facts *facts = engine_facts(exec->agent->engine);
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
    int kind = (int)engine_facts(exec->agent->engine)->kind;
    struct resume_request rest = {.operation = exec->operation,
                                  .text = resume->text,
                                  .text_len = resume_text_len(resume->text),
                                  .tokens = resume->text_tokens};
    struct rejoin_config config = {.operation = exec->operation,
                                   .id = resume->response_id,
                                   .created = resume->created,
                                   .tokens = resume->text_tokens,
                                   .text = rest.text,
                                   .text_len = rest.text_len,
                                   .repeats = resume_engine_repeats(kind, exec->operation)};
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
    struct error err = {0};

    if (exec == NULL)
        return; /* ended in on_start */
    request = (Drover__V1__InferRequest *)wire_unpack(&drover__v1__infer_request__descriptor,
                                                      &exec->pool->arena, message, n, &err);
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

    if (exec != NULL)
        exec_gone(exec);
}

static void on_writable(struct server_call *call)
{
    struct exec *exec = server_call_data(call);

    if (exec != NULL)
        answer_writable(exec);
}

static const struct server_handler infer_handler = {
    .on_start = on_start,
    .on_message = on_message,
    .on_gone = on_gone,
    .on_writable = on_writable,
};

/* ---- life ------------------------------------------------------------------------------ */

int service_create(struct service **out, struct agent *agent, struct error *err)
{
    struct service *service = calloc(1, sizeof(*service));
    int rc;

    *out = NULL;
    if (service == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = health_service_create(&service->health, err);
    if (rc != 0) {
        free(service);
        return rc;
    }
    service->agent = agent;
    exec_pool_init(&service->pool, agent);
    service->methods[0] = (struct server_method){.path = "/drover.v1.Inference/Infer",
                                                 .handler = &infer_handler,
                                                 .max_message_bytes = AGENT_MAX_REQUEST_BYTES,
                                                 .data = service};
    reports_methods(agent, service->methods + 1);
    health_service_methods(service->health, service->methods + 1 + REPORTS_METHODS);
    set_health(service);
    service->listener.on_change = on_change;
    agent_listen(agent, &service->listener);
    *out = service;
    return 0;
}

void service_destroy(struct service *service)
{
    if (service == NULL)
        return;
    agent_unlisten(service->agent, &service->listener);
    loop_undefer(service->agent->loop, &service->turn);
    exec_pool_finish(&service->pool);
    health_service_destroy(service->health);
    free(service);
}

const struct server_method *service_methods(const struct service *service)
{
    return service->methods;
}
