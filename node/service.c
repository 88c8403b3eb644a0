/*
 * service.c - drover-node's gRPC service, and Infer in it: what comes in is checked, admitted
 * or refused, and run when it has a slot.
 *
 * From there on answer.c works on it, and node_request.c ends it.
 */
#include "node/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/text/text.h"
#include "node/agent.h"
#include "node/answer/answer.h"
#include "node/answer/refused.h"
#include "node/answer/sender.h"
#include "node/body/edit.h"
#include "node/body/resume.h"
#include "node/engine/kinds/llama_server.h"
#include "node/engine/kinds/operations.h"
#include "node/node_request.h"
#include "node/report/reports.h"
#include "proto/health_service.h"
#include "proto/operations.h"

struct service {
    struct agent *agent; /* borrowed */
    struct agent_listener listener;
    struct node_request_pool pool;
    struct deferred turn;          /* frees ended requests, starts waiting ones */
    struct health_service *health; /* owned */
    struct server_method methods[SERVICE_METHODS];
};

/* ---- running --------------------------------------------------------------------------- */

/* The slot is this request's now, or it needs none. */
static void begin(struct node_request *req)
{
    req->phase = NODE_REQUEST_RUNNING;
    answer_start(req);
    if (req->phase == NODE_REQUEST_RUNNING && !node_request_accepted(req, 0))
        return; /* it ended, and said so */
    agent_changed(req->agent, AGENT_LOAD_CHANGED);
}

static void start_uploads(struct service *service);

static void on_turn(struct deferred *deferred)
{
    struct service *service = CONTAINER_OF(deferred, struct service, turn);
    struct waiter *waiter;

    node_request_pool_free_dead(&service->pool);
    start_uploads(service);
    while ((waiter = slots_next(&service->agent->slots)) != NULL)
        begin(CONTAINER_OF(waiter, struct node_request, waiter));
}

static void set_health(struct service *service)
{
    const struct agent *agent = service->agent;
    const struct engine_facts *facts = engine_facts(agent->engine);
    bool serving =
        facts->reachable && !facts->loading && facts->models_count != 0 && !agent->draining;

    health_service_set(service->health, "", serving);
    health_service_set(service->health, "drover.v1.Inference", serving);
}

/* Requests that ended are to be freed, and a slot may have become free. */
static void on_change(struct agent_listener *listener, unsigned changes)
{
    struct service *service = CONTAINER_OF(listener, struct service, listener);

    loop_defer(service->agent->loop, &service->turn, on_turn);
    if ((changes & (AGENT_LOAD_CHANGED | AGENT_MODELS_CHANGED)) != 0)
        set_health(service);
}

/* ---- what comes in --------------------------------------------------------------------- */

/* For the next message of a request to come, while it may. */
#define MESSAGE_US (60 * US_PER_S)

static void on_upload_timer(struct timer *timer)
{
    struct node_request *req = CONTAINER_OF(timer, struct node_request, upload_timer);

    node_request_fail(req, GRPC_DEADLINE_EXCEEDED, "the request did not come in time");
}

static void await_message(struct node_request *req)
{
    timer_start(req->agent->loop, &req->upload_timer, MESSAGE_US, on_upload_timer);
}

static void on_start(struct server_call *call, void *data)
{
    struct service *service = data;
    struct agent *agent = service->agent;
    struct node_request *req;

    if (!agent_authorised(agent, call)) {
        server_call_finish(call, GRPC_UNAUTHENTICATED, "bad or missing call proof");
        return;
    }
    if (agent->draining) {
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is draining");
        return;
    }
    req = node_request_create(&service->pool, call);
    if (req == NULL)
        server_call_finish(call, GRPC_UNAVAILABLE, "the node is out of memory");
    else
        await_message(req);
}

/* Keeps the content type and the allowed headers. */
static int keep_headers(struct node_request *req, const Drover__V1__InferRequest *request)
{
    const char *type =
        request->content_type[0] == '\0' ? "application/json" : request->content_type;

    buf_add(&req->request_text, type, strlen(type) + 1);
    for (size_t i = 0; i < request->n_headers; i++) {
        const Drover__V1__Header *header = request->headers[i];

        if (!headers_to_engine(header->name, header->value))
            continue;
        buf_add(&req->request_text, header->name, strlen(header->name) + 1);
        buf_add(&req->request_text, header->value, strlen(header->value) + 1);
        req->headers_count++;
    }
    if (req->request_text.failed)
        return DRV_ENOMEM;
    headers_point(req->headers, req->headers_count,
                  (const char *)buf_head(&req->request_text) + strlen(type) + 1);
    return 0;
}

/* The vocabulary of an answer's token ids; 0 where ids are neither given nor taken. */
static uint64_t vocabulary_of(const struct node_request *req, const char *model_id)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);
    const struct engine_model *model = facts_model(facts, model_id);

    if (model == NULL || !resume_engine_knows_ids((int)facts->kind, req->operation))
        return 0;
    return model->vocabulary;
}

/* No engine gets it: the caller asks another node, which costs it no attempt. */
static void fail_away(struct node_request *req, const char *why, const char *detail)
{
    if (node_request_cause(req, DROVER__V1__CAUSE__KIND__KIND_ENGINE_AWAY, NULL))
        node_request_fail(req, GRPC_UNAVAILABLE, "%s%s", why, detail);
}

/* Can this node serve it at all?  False: the call has ended. */
static bool check_service(struct node_request *req, const Drover__V1__InferRequest *request)
{
    struct agent *agent = req->agent;
    const struct engine_facts *facts = engine_facts(agent->engine);
    const struct engine_model *model = facts_model(facts, request->model);

    if (agent->draining)
        fail_away(req, "the node is draining", "");
    else if (!facts->reachable)
        fail_away(req, "the engine is not reachable: ", facts->detail);
    else if (facts->loading)
        fail_away(req, "the engine is loading its model", "");
    else if (request->model[0] != '\0' && model == NULL)
        node_request_fail(req, GRPC_NOT_FOUND, "no such model on this node: %s",
                          request->model);
    else if (model != NULL && model->operations != 0 &&
             (model->operations & (UINT32_C(1) << req->operation)) == 0)
        node_request_fail(req, GRPC_UNIMPLEMENTED, "the engine does not speak this API");
    else if (request->resume != NULL && !resume_engine_can((int)facts->kind, req->operation))
        node_request_fail(req, GRPC_UNIMPLEMENTED, "this engine cannot continue an answer");
    else
        return true;
    return false;
}

/* Is the message itself all right?  False: the call has ended. */
static bool check_request(struct node_request *req, const Drover__V1__InferRequest *request)
{
    const struct agent_config *config = &req->agent->config;

    if (!text_is_name(request->request_id, 64))
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "request_id is not [A-Za-z0-9._-]{1,64}");
    else if ((int)request->operation <= 0)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "no such operation: %d",
                          (int)request->operation);
    else if ((int)request->operation >= 32 || engine_path((int)request->operation) == NULL)
        node_request_fail(req, GRPC_UNIMPLEMENTED, "operation %d is not known here",
                          (int)request->operation);
    else if (request->n_headers > HEADERS_MAX)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "more than %d headers", HEADERS_MAX);
    else if (strlen(request->model) >= ENGINE_MODEL_BYTES)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "the model's name is too long");
    else if (request->edit != NULL && strlen(request->edit->answer_model) >= ENGINE_MODEL_BYTES)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "the answer's name is too long");
    else if (!headers_value_ok(request->content_type))
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "content_type is not printable ASCII");
    else if (request->instance_id.len != 0 &&
             (request->instance_id.len != sizeof(config->instance_id) ||
              memcmp(request->instance_id.data, config->instance_id,
                     sizeof(config->instance_id)) != 0))
        node_request_fail(req, GRPC_FAILED_PRECONDITION,
                          "this is another instance of the node");
    else if (!operation_takes_method((int)request->operation, request->method))
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "the operation has no such method");
    else if ((request->operation == DROVER__V1__OPERATION__OPERATION_STATE)
                 ? !operation_target_ok(request->target)
                 : request->target[0] != '\0')
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "the target is not one of the operation");
    else if (request->resume != NULL && !request->stream)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "only a stream can be continued");
    else
        return true;
    return false;
}

/* The answer has reached its limit: what the client lacks is its end. */
static void end_at_limit(struct node_request *req, const Drover__V1__InferRequest *request,
                         const struct json_value *root)
{
    const Drover__V1__Resume *resume = request->resume;
    struct resume_last last = {.operation = req->operation,
                               .id = resume->response_id,
                               .created = resume->created,
                               .prompt_tokens = request->est_prompt_tokens,
                               .output_tokens = resume->text_tokens,
                               .text = resume->text,
                               .text_len = strlen(resume->text),
                               .item_id = resume->item_id,
                               .next_sequence = resume->next_sequence};

    resume_last_events(&req->out, root, &last);
    req->meter.usage.prompt_tokens = last.prompt_tokens;
    answer_last(req);
}

/* Prepares to continue an answer: `body`, and `source` with it, becomes what asks for the rest
 * of it.  False: the call has ended. */
static bool take_resume(struct node_request *req, const Drover__V1__InferRequest *request,
                        struct edit_source *source, struct buf *body)
{
    const Drover__V1__Resume *resume = request->resume;
    int kind = (int)engine_facts(req->agent->engine)->kind;
    struct resume_request rest = {.operation = req->operation,
                                  .text = resume->text,
                                  .text_len = resume_text_len(resume->text),
                                  .tokens = resume->text_tokens};
    struct splice_config config = {.operation = req->operation,
                                   .id = resume->response_id,
                                   .created = resume->created,
                                   .tokens = resume->text_tokens,
                                   .text = rest.text,
                                   .text_len = rest.text_len,
                                   .repeats = resume_engine_repeats(kind, req->operation),
                                   .item_id = resume->item_id,
                                   .next_sequence = resume->next_sequence};
    struct error err = {0};
    bool over = false;
    int rc;

    req->continues = true;
    if (resume->vocabulary != 0 && resume->vocabulary == req->vocabulary) {
        rest.token_ids = resume->token_ids;
        rest.token_ids_count = resume->n_token_ids;
    }
    if (rest.token_ids_count != 0)
        config.text_len = 0; /* an engine that continues from ids repeats nothing */
    rc = splice_init(&req->splice, &config);
    if (rc == 0)
        rc = resume_body(body, &source->root, &rest, &over, &err);
    if (rc == 0 && over) {
        end_at_limit(req, request, &source->root);
        return false;
    }
    if (rc == 0)
        rc = edit_check(source, req->operation, buf_head(body), buf_size(body), &err);
    if (rc != 0) {
        node_request_fail(req, rc == DRV_EINVAL ? GRPC_UNIMPLEMENTED : GRPC_UNAVAILABLE, "%s",
                          rc == DRV_EINVAL ? err.text : "the node is out of memory");
        return false;
    }
    return true;
}

/* Names of one model are one number. */
static void take_model(struct node_request *req)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);
    const struct engine_model *model = facts_model(facts, req->model);

    if (model != NULL && model->alias_of != 0)
        model = &facts->models[model->alias_of - 1];
    req->waiter.model = hash_text(model == NULL ? req->model : model->id);
    req->waiter.loads = model != NULL && facts->router && !model->in_memory;
}

/* Ollama loads the model anew for another context than the loaded one. */
static uint32_t wanted_context(const struct node_request *req, const struct json_value *root)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);
    struct json_value options, context;
    uint64_t tokens = 0;

    if (facts->kind != DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
        return 0;
    options = json_get(root, "options");
    context = json_get(&options, "num_ctx");
    return json_uint(&tokens, &context, UINT32_MAX) ? (uint32_t)tokens : 0;
}

/* Makes what the engine gets out of the client's body, or of what asks for the rest of an
 * answer; a body that came in parts stays where it is, if splices can say its edits. */
static int make_body(struct node_request *req, const struct edit_source *source,
                     const struct edit_options *opts, struct edit_outcome *outcome,
                     struct error *err)
{
    int rc = DRV_EFULL;

    if (req->upload.bytes != NULL && source->body == req->upload.bytes)
        rc = edit_splices(&req->splices, source, opts, outcome, err);
    if (rc != DRV_EFULL)
        return rc;
    rc = edit_body(&req->body, source, opts, outcome, err);
    upload_drop(&req->upload);
    return rc;
}

static const char *method_of(const Drover__V1__InferRequest *request)
{
    static const char *const methods[] = {"GET", "DELETE"};

    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (strcmp(request->method, methods[i]) == 0)
            return methods[i];
    return "POST";
}

/* A path and a query are all that the engine gets. */
static bool take_bodiless(struct node_request *req, const Drover__V1__InferRequest *request)
{
    meter_init(&req->meter, req->operation, false);
    token_ids_init(&req->ids);
    if (keep_headers(req, request) == 0)
        return true;
    node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
    return false;
}

/* A router has properties for each of its models. */
static void take_target(struct node_request *req, const Drover__V1__InferRequest *request)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);

    req->method = method_of(request);
    (void)strlcpy(req->target, request->target, sizeof(req->target));
    if (strcmp(req->method, "POST") != 0 && request->target[0] == '\0' && facts->router)
        llama_server_query(req->target, sizeof(req->target), req->sent_model);
}

/* A response, where the engine lets its clients ask for it again, or a conversation. */
static bool may_keep(const struct node_request *req, const Drover__V1__InferRequest *request)
{
    const struct engine_model *model =
        facts_model(engine_facts(req->agent->engine), req->model);

    if (req->operation == DROVER__V1__OPERATION__OPERATION_STATE)
        return strcmp(req->target, "conversations") == 0;
    return req->operation == DROVER__V1__OPERATION__OPERATION_RESPONSES && model != NULL &&
           (model->operations & OPERATION(STATE)) != 0 && request->resume == NULL;
}

/* Copies the needed fields of the message, whose memory is the arena's.  `came`: its body,
 * checked, if that came in parts.  False: the call has ended. */
static bool take_request(struct node_request *req, const Drover__V1__InferRequest *request,
                         const struct edit_source *came)
{
    struct edit_options opts = {.model = "", .stream = request->stream};
    struct buf rest = BUF_INIT;
    struct edit_outcome outcome;
    struct edit_source source;
    struct error err = {0};
    int rc = 0;

    req->want_text = request->want_text;
    req->stream = request->stream;
    (void)strlcpy(req->model, request->model, sizeof(req->model));
    (void)strlcpy(req->sent_model, request->model, sizeof(req->sent_model));
    req->load_ms = request->load_ms;
    req->first_token_ms = request->first_token_ms;
    req->idle_token_ms = request->idle_token_ms;
    req->waiter.priority = request->priority;
    take_model(req);
    opts.no_usage = req->agent->no_stream_options;
    opts.content_type = request->content_type;
    if (request->edit != NULL) {
        opts.model = request->edit->set_model;
        if (opts.model[0] != '\0')
            (void)strlcpy(req->sent_model, opts.model, sizeof(req->sent_model));
        opts.usage = request->edit->want_usage;
        (void)strlcpy(req->answer_model, request->edit->answer_model,
                      sizeof(req->answer_model));
    }
    take_target(req, request);
    req->keeps = may_keep(req, request);
    if (request->body.len == 0 && operation_is_question(req->operation) &&
        (strcmp(req->method, "POST") != 0 || req->target[0] != '\0'))
        return take_bodiless(req, request);
    if (came != NULL)
        source = *came;
    else
        rc = edit_check(&source, req->operation, request->body.data, request->body.len, &err);
    if (rc != 0) {
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "%s", err.text);
        return false;
    }
    req->question |= operation_unloads(req->operation, &source.root);
    req->resumable =
        req->want_text && req->stream && resume_possible(req->operation, &source.root);
    req->wanted_context = wanted_context(req, &source.root);
    meter_init(&req->meter, req->operation, req->resumable);
    req->vocabulary = vocabulary_of(req, request->model);
    opts.token_ids = req->agent->config.resume_ids && req->resumable && req->vocabulary != 0;
    if (request->resume != NULL && !take_resume(req, request, &source, &rest)) {
        buf_finish(&rest);
        return false;
    }
    rc = make_body(req, &source, &opts, &outcome, &err);
    buf_finish(&rest);
    if (rc == 0)
        rc = keep_headers(req, request);
    if (rc != 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    req->streaming = outcome.streaming;
    req->usage_added = outcome.usage_added;
    req->usage_asked = outcome.usage_asked;
    req->prompts = outcome.prompts;
    req->choices = outcome.choices;
    choices_expect(&req->meter.choices, req->prompts, req->choices);
    req->ids_asked = opts.token_ids;
    token_ids_init(&req->ids);
    if (refused_unstream(req) != 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    return true;
}

static void admit_question(struct node_request *req)
{
    if (slots_question(&req->agent->slots))
        begin(req);
    else
        node_request_fail(req, GRPC_RESOURCE_EXHAUSTED, "%u questions are under way",
                          SLOTS_MAX_QUESTIONS);
}

static void admit(struct node_request *req)
{
    struct agent *agent = req->agent;

    switch (slots_ask(&agent->slots, &req->waiter)) {
    case SLOTS_ADMIT_NOW:
        begin(req);
        break;
    case SLOTS_ADMIT_QUEUED:
        if (node_request_accepted(req, slots_position(&agent->slots, &req->waiter)))
            agent_changed(agent, AGENT_LOAD_CHANGED);
        break;
    case SLOTS_ADMIT_FULL:
        node_request_fail(req, GRPC_RESOURCE_EXHAUSTED, "slots (%u) and queue (%u) are full",
                          (unsigned)agent->slots.slots, (unsigned)agent->slots.queue);
        break;
    }
}

/* The request is whole. */
static void take_whole(struct node_request *req, const Drover__V1__InferRequest *request,
                       const struct edit_source *came)
{
    if (!check_service(req, request) || !take_request(req, request, came))
        return;
    req->phase = NODE_REQUEST_QUEUED;
    if (req->question)
        admit_question(req);
    else
        admit(req);
}

static Drover__V1__InferRequest *unpack(struct node_request *req, const uint8_t *message,
                                        size_t n)
{
    struct error err = {0};
    ProtobufCMessage *request = wire_unpack(&drover__v1__infer_request__descriptor,
                                            &req->pool->arena, message, n, &err);

    if (request == NULL)
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "%s", err.text);
    return (Drover__V1__InferRequest *)request;
}

/* ---- a body in parts ------------------------------------------------------------------- */

/* There is room for uploads that have waited: they get their window.  The others hear that they
 * come sooner. */
static void start_uploads(struct service *service)
{
    struct uploads *uploads = &service->pool.uploads;
    struct upload *upload, *next;
    bool started = false;

    while ((upload = uploads_next(uploads)) != NULL) {
        struct node_request *req = CONTAINER_OF(upload, struct node_request, upload);

        started = true;
        server_call_release(req->call, upload->withheld_bytes);
        await_message(req);
    }
    if (!started)
        return;
    TAILQ_FOREACH_SAFE(upload, &uploads->waiting, link, next)
        if (!node_request_accepted(CONTAINER_OF(upload, struct node_request, upload),
                                   upload_position(upload) + 1))
            continue; /* its call has ended */
}

/* A full node says so before the body comes. */
static bool check_room(struct node_request *req, const Drover__V1__InferRequest *request)
{
    struct slots *slots = &req->agent->slots;

    (void)strlcpy(req->model, request->model, sizeof(req->model));
    take_model(req);
    if (operation_is_question(req->operation) ? slots->questions < SLOTS_MAX_QUESTIONS
                                              : !slots_is_full(slots, &req->waiter))
        return true;
    node_request_fail(req, GRPC_RESOURCE_EXHAUSTED, "slots (%u) and queue (%u) are full",
                      (unsigned)slots->slots, (unsigned)slots->queue);
    return false;
}

static void begin_upload(struct node_request *req, const Drover__V1__InferRequest *request,
                         const uint8_t *message, size_t n)
{
    if (request->body.len != 0 || request->body_bytes > AGENT_MAX_BODY_BYTES) {
        node_request_fail(req, GRPC_INVALID_ARGUMENT,
                          request->body.len != 0 ? "the body is there, and is to come"
                                                 : "the body is larger than max_body_bytes");
        return;
    }
    if (!check_service(req, request) || !check_room(req, request))
        return;
    buf_add(&req->first, message, n);
    req->checker = edit_checker_create(req->operation);
    if (req->first.failed || req->checker == NULL ||
        upload_begin(&req->pool->uploads, &req->upload, (size_t)request->body_bytes) != 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return;
    }
    req->phase = NODE_REQUEST_UPLOADING;
    if (!req->upload.waits)
        await_message(req);
    else if (!node_request_accepted(req, upload_position(&req->upload) + 1))
        return; /* the call has ended */
}

/* The bytes of a part, which is a message with nothing else in it: no copy of them is made. */
static bool part_of(const uint8_t *message, size_t n, const uint8_t **part, size_t *part_len)
{
    uint64_t len = 0;
    size_t at = 1;

    if (n < 2 || message[0] != (5 << 3 | 2)) /* InferRequest.body */
        return false;
    for (unsigned shift = 0; at < n && shift < 35; shift += 7) {
        len |= (uint64_t)(message[at] & 0x7f) << shift;
        if ((message[at++] & 0x80) == 0) {
            *part = message + at;
            *part_len = n - at;
            return len == n - at;
        }
    }
    return false;
}

static void take_part(struct node_request *req, const uint8_t *message, size_t n)
{
    Drover__V1__InferRequest *request;
    struct edit_source source;
    struct error err = {0};
    const uint8_t *part;
    size_t len, release;
    int rc;

    if (!part_of(message, n, &part, &len) ||
        upload_take(&req->upload, part, len, n, &release) != 0) {
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "the body is not what it was said to be");
        return;
    }
    rc = edit_checker_go(req->checker, &source, req->upload.bytes, req->upload.have,
                         req->upload.have == req->upload.size, &err);
    if (rc != 0 && rc != DRV_EAGAIN) {
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "%s", err.text);
        return;
    }
    server_call_release(req->call, release);
    if (rc == DRV_EAGAIN) {
        if (!req->upload.waits)
            await_message(req);
        return;
    }
    timer_stop(req->agent->loop, &req->upload_timer);
    request = unpack(req, buf_head(&req->first), buf_size(&req->first));
    if (request == NULL)
        return;
    request->body.data = req->upload.bytes;
    request->body.len = req->upload.size;
    take_whole(req, request, &source);
    buf_finish(&req->first);
    edit_checker_destroy(req->checker);
    req->checker = NULL;
}

/* ---- messages -------------------------------------------------------------------------- */

static void take_first(struct node_request *req, const uint8_t *message, size_t n)
{
    Drover__V1__InferRequest *request;

    timer_stop(req->agent->loop, &req->upload_timer);
    server_call_release(req->call, n);
    request = unpack(req, message, n);
    if (request == NULL || !check_request(req, request))
        return;
    (void)strlcpy(req->request_id, request->request_id, sizeof(req->request_id));
    req->attempt = request->attempt;
    req->operation = (int)request->operation;
    req->question = operation_is_question(req->operation);
    if (request->body_bytes != 0)
        begin_upload(req, request, message, n);
    else
        take_whole(req, request, NULL);
}

static void on_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct node_request *req = server_call_data(call);

    if (req == NULL)
        return; /* it has ended */
    switch (req->phase) {
    case NODE_REQUEST_OPENED:
        take_first(req, message, n);
        return;
    case NODE_REQUEST_UPLOADING:
        take_part(req, message, n);
        return;
    case NODE_REQUEST_QUEUED:
    case NODE_REQUEST_RUNNING:
        node_request_fail(req, GRPC_INVALID_ARGUMENT, "a message after the request");
        return;
    case NODE_REQUEST_ENDED:
        return;
    }
}

static void on_half_close(struct server_call *call)
{
    struct node_request *req = server_call_data(call);

    if (req != NULL &&
        (req->phase == NODE_REQUEST_OPENED || req->phase == NODE_REQUEST_UPLOADING))
        node_request_fail(req, GRPC_INVALID_ARGUMENT,
                          req->phase == NODE_REQUEST_OPENED ? "no request"
                                                            : "the body is cut off");
}

static void on_gone(struct server_call *call)
{
    struct node_request *req = server_call_data(call);

    if (req != NULL)
        node_request_gone(req);
}

static void on_writable(struct server_call *call)
{
    struct node_request *req = server_call_data(call);

    if (req != NULL)
        sender_writable(req);
}

static const struct server_handler service_handler = {
    .on_start = on_start,
    .on_message = on_message,
    .on_half_close = on_half_close,
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
    node_request_pool_init(&service->pool, agent);
    service->methods[0] = (struct server_method){.path = "/drover.v1.Inference/Infer",
                                                 .handler = &service_handler,
                                                 .client_streaming = true,
                                                 .manual_window = true,
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
    node_request_pool_finish(&service->pool);
    health_service_destroy(service->health);
    free(service);
}

const struct server_method *service_methods(const struct service *service)
{
    return service->methods;
}
