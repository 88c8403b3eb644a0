/* node_call.c - one Infer call to one node. */
#include "worker/upstreams/node_call.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/model_name.h"
#include "proto/call_proofs.h"
#include "proto/wire.h"
#include "worker/http/client_request.h"
#include "worker/upstreams/upstreams.h"

struct node_call {
    struct upstream *node; /* held */
    struct call *call;     /* NULL once it has ended */
    const struct node_call_events *events;
    void *data;
    struct wire_arena *arena;
    enum stage { STAGE_BEFORE_HEAD = 0, STAGE_BODY, STAGE_FINISHED } stage;
    uint64_t body_bytes; /* of chunks so far */
    size_t unreleased;
};

static void free_node_call(struct node_call *nc)
{
    upstreams_let_go(nc->node);
    free(nc);
}

/* The node broke the protocol: its further messages are ignored. */
static void fail(struct node_call *nc, const char *why)
{
    struct call_result result = {
        .status = GRPC_INTERNAL,
        .end = CALL_END_PROTOCOL,
        .message = why,
        .pushback_ms = -2,
    };

    call_cancel(nc->call);
    nc->call = NULL;
    nc->events->on_end(nc->data, &result);
    free_node_call(nc);
}

static void take_finish(struct node_call *nc, const Drover__V1__Finish *finish)
{
    if (nc->stage != STAGE_BODY) {
        fail(nc, "node sent finish out of order");
    } else if (finish->body_bytes != nc->body_bytes) {
        fail(nc, "node's count of bytes differs from what came");
    } else {
        nc->stage = STAGE_FINISHED;
        call_unlend(nc->call);
        nc->events->on_finish(nc->data, finish);
    }
}

static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct node_call *nc = data;
    const Drover__V1__InferEvent *event;

    event = (const Drover__V1__InferEvent *)wire_unpack(&drover__v1__infer_event__descriptor,
                                                        nc->arena, message, n, NULL);
    if (event == NULL) {
        fail(nc, "node sent a message that cannot be decoded");
        return;
    }
    /* Only chunks have something in them that waits for the client. */
    if (event->event_case == DROVER__V1__INFER_EVENT__EVENT_CHUNK)
        nc->unreleased += n;
    else
        call_release(call, n);
    /* Each branch may end the call: nothing of it is touched afterwards. */
    switch (event->event_case) {
    case DROVER__V1__INFER_EVENT__EVENT_CHUNK:
        if (nc->stage != STAGE_BODY) {
            fail(nc, "node sent a chunk out of order");
            return;
        }
        nc->body_bytes += event->chunk->data.len;
        nc->events->on_chunk(nc->data, event->chunk);
        return;
    case DROVER__V1__INFER_EVENT__EVENT_HEAD:
        if (nc->stage != STAGE_BEFORE_HEAD || event->head->http_status < 200 ||
            event->head->http_status > 599) {
            fail(nc, "node sent a bad head");
            return;
        }
        nc->stage = STAGE_BODY;
        nc->events->on_head(nc->data, event->head);
        return;
    case DROVER__V1__INFER_EVENT__EVENT_ACCEPTED:
        if (nc->stage != STAGE_FINISHED)
            nc->events->on_accepted(nc->data, event->accepted);
        return;
    case DROVER__V1__INFER_EVENT__EVENT_FINISH:
        take_finish(nc, event->finish);
        return;
    case DROVER__V1__INFER_EVENT__EVENT_CAUSE:
        if (nc->events->on_cause != NULL && nc->stage != STAGE_FINISHED)
            nc->events->on_cause(nc->data, event->cause);
        return;
    case DROVER__V1__INFER_EVENT__EVENT__NOT_SET:
    case _DROVER__V1__INFER_EVENT__EVENT__CASE_IS_INT_SIZE:
        return; /* an event of a newer minor version */
    }
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct node_call *nc = data;
    struct call_result cut = *result;

    (void)call;
    nc->call = NULL;
    if (result->status == GRPC_OK && nc->stage != STAGE_FINISHED) {
        cut.status = GRPC_INTERNAL;
        cut.end = CALL_END_PROTOCOL;
        cut.message = "node ended the stream before finish";
    }
    nc->events->on_end(nc->data, &cut);
    free_node_call(nc);
}

/* For the numbers and the framing of the message, and the model's names. */
#define ENVELOPE_BYTES (1024 + 3 * NODE_MODEL_BYTES)
#define ID_BYTES       5 /* of a token id on the wire, at most */

uint64_t node_call_message_bytes(const struct client_request *request)
{
    uint64_t n = ENVELOPE_BYTES + request->body_len + strlen(request->content_type);

    for (size_t i = 0; i < request->forward_count; i++)
        n += strlen(request->forward[i].name) + strlen(request->forward[i].value) + 16;
    return n;
}

/* A body up to here is in the first message, as foreign nodes expect it. */
#define WHOLE_BYTES ((size_t)1 << 20)
/* Of a body in one message; tag and length, and the message is 256 KiB at most. */
#define PART_BYTES ((size_t)256 * 1024 - 4)
#define BODY_FIELD 5 /* InferRequest.body */

static bool goes_in_parts(const struct node_info *info, const struct client_request *request)
{
    return request->body_len > WHOLE_BYTES && info->max_body_bytes != 0;
}

/* The ids are the same text, but exact: where they do not fit, the text has to do. */
static bool ids_fit(const struct node_info *info, const struct client_request *request,
                    const struct node_call_options *options)
{
    uint64_t n = node_call_message_bytes(request) + strlen(options->resume_text) +
                 options->resume_ids_count * ID_BYTES;

    if (goes_in_parts(info, request))
        n -= request->body_len;
    return info->max_request_bytes == 0 || n <= info->max_request_bytes;
}

/* Does the body need another name of the model than it has?  Ollama takes several. */
static bool needs_name(const struct node_info *info, const struct client_request *request,
                       const char *model)
{
    if (request->aliased)
        return true;
    return info->engine == DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA
               ? !model_name_equal(model, request->client_model)
               : strcmp(model, request->client_model) != 0;
}

static int send_request(struct node_call *nc, const struct client_request *request,
                        const struct node_call_options *options)
{
    Drover__V1__InferRequest message = DROVER__V1__INFER_REQUEST__INIT;
    Drover__V1__BodyEdit edit = DROVER__V1__BODY_EDIT__INIT;
    Drover__V1__Resume resume = DROVER__V1__RESUME__INIT;
    Drover__V1__Header headers[REQUEST_MAX_FORWARD];
    Drover__V1__Header *list[REQUEST_MAX_FORWARD];
    static const uint8_t zero[JOIN_INSTANCE_BYTES];
    struct node_info *info = &nc->node->info;
    bool parts = goes_in_parts(info, request);
    int rc;

    message.request_id = (char *)(uintptr_t)request->execution_id;
    message.attempt = options->number;
    message.operation = (Drover__V1__Operation)request->operation;
    if (request->target != NULL)
        message.target = (char *)(uintptr_t)request->target;
    message.model = (char *)(uintptr_t)options->model;
    if (parts) {
        message.body_bytes = request->body_len;
    } else {
        message.body.data = (uint8_t *)(uintptr_t)request->body;
        message.body.len = request->body_len;
    }
    message.stream = request->stream;
    if (strcmp(request->method, "POST") != 0) /* which nodes of old do not know otherwise */
        message.method = (char *)(uintptr_t)request->method;
    if (memcmp(info->instance_id, zero, sizeof(zero)) != 0) {
        message.instance_id.data = info->instance_id;
        message.instance_id.len = sizeof(info->instance_id);
    }
    if (needs_name(info, request, options->model)) {
        edit.set_model = (char *)(uintptr_t)options->model;
        if (strcmp(options->model, request->client_model) != 0)
            edit.answer_model = (char *)(uintptr_t)request->client_model;
    }
    edit.want_usage = request->stream && !request->client_usage;
    message.edit = &edit;
    for (size_t i = 0; i < request->forward_count; i++) {
        drover__v1__header__init(&headers[i]);
        headers[i].name = (char *)(uintptr_t)request->forward[i].name;
        headers[i].value = (char *)(uintptr_t)request->forward[i].value;
        list[i] = &headers[i];
    }
    message.headers = list;
    message.n_headers = request->forward_count;
    message.content_type = (char *)(uintptr_t)request->content_type;
    message.est_prompt_tokens = options->prompt_tokens;
    message.priority = request_priority_number(request->priority);
    message.want_text = request->stream && options->config->limits.max_resumes != 0;
    if (options->resume_text != NULL) {
        resume.text = (char *)(uintptr_t)options->resume_text;
        resume.text_tokens = options->resume_tokens;
        if (ids_fit(info, request, options)) {
            resume.token_ids = (uint32_t *)(uintptr_t)options->resume_ids;
            resume.n_token_ids = options->resume_ids_count;
            resume.vocabulary = options->vocabulary;
        }
        resume.response_id = (char *)(uintptr_t)options->response_id;
        resume.created = options->created;
        resume.item_id = (char *)(uintptr_t)options->item_id;
        resume.next_sequence = options->next_sequence;
        message.resume = &resume;
    }
    message.load_ms = options->config->limits.load_ms;
    message.first_token_ms = options->config->limits.first_token_ms;
    message.idle_token_ms = options->config->limits.idle_token_ms;
    rc = call_send(nc->call, &message.base);
    if (rc == 0 && parts)
        call_lend(nc->call, BODY_FIELD, request->body, request->body_len, PART_BYTES);
    return rc;
}

size_t node_call_unsent(const struct node_call *nc)
{
    return nc->call == NULL ? 0 : call_lent(nc->call);
}

int node_call_start(struct node_call **out, struct upstream *node,
                    const struct client_request *request,
                    const struct node_call_options *options,
                    const struct node_call_events *events, void *data, struct error *err)
{
    static const struct call_handler handler = {.on_message = on_message, .on_end = on_end};
    struct node_call *nc = calloc(1, sizeof(*nc));
    struct call_proofs proofs;
    struct call_options call = {
        .path = "/drover.v1.Inference/Infer",
        .metadata = proofs.metadata,
        .metadata_count =
            call_proofs_make(&proofs, options->config->tokens, node->info.instance_id),
        .manual_window = true,
    };
    int rc;

    *out = NULL;
    if (nc == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    nc->node = node;
    nc->events = events;
    nc->data = data;
    nc->arena = options->arena;
    rc = call_start(&nc->call, node->channel, &call, &handler, nc, err);
    if (rc == 0) {
        rc = send_request(nc, request, options);
        if (rc != 0) {
            call_cancel(nc->call);
            (void)error_set(err, rc, "out of memory");
        }
    }
    if (rc != 0) {
        free(nc);
        return rc;
    }
    call_half_close(nc->call);
    upstreams_hold(node);
    *out = nc;
    return 0;
}

void node_call_cancel(struct node_call *nc)
{
    if (nc == NULL)
        return;
    if (nc->call != NULL)
        call_cancel(nc->call);
    free_node_call(nc);
}

size_t node_call_unreleased(const struct node_call *nc)
{
    return nc->unreleased;
}

void node_call_release(struct node_call *nc)
{
    if (nc->call == NULL || nc->unreleased == 0)
        return;
    call_release(nc->call, nc->unreleased);
    nc->unreleased = 0;
}

/* The default limit of gRPC libraries. */
#define USUAL_MESSAGE_BYTES (UINT64_C(4) * 1024 * 1024)

bool node_call_is_too_large(const struct call_result *result, uint64_t message_bytes)
{
    return result->end != CALL_END_PROTOCOL && result->end != CALL_END_LOCAL &&
           result->status == GRPC_RESOURCE_EXHAUSTED && result->pushback_ms < 0 &&
           message_bytes > USUAL_MESSAGE_BYTES;
}

bool node_call_is_unseen(const struct call_result *result)
{
    return result->end == CALL_END_CONNECT || result->end == CALL_END_REFUSED;
}

enum api_error node_call_error(const struct call_result *result)
{
    if (result->end == CALL_END_LOCAL)
        return API_ERROR_OVERLOADED;
    switch (result->status) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_OUT_OF_RANGE:
        return API_ERROR_BAD_REQUEST;
    case GRPC_RESOURCE_EXHAUSTED:
        return result->end == CALL_END_PROTOCOL ? API_ERROR_NODE_FAILED : API_ERROR_QUEUE_FULL;
    case GRPC_DEADLINE_EXCEEDED:
    case GRPC_ABORTED:
        return API_ERROR_NODE_TIMEOUT;
    case GRPC_NOT_FOUND:
        return API_ERROR_MODEL_NOT_FOUND;
    case GRPC_UNIMPLEMENTED:
        return API_ERROR_NOT_SUPPORTED;
    case GRPC_OK:
    case GRPC_CANCELLED:
    case GRPC_UNKNOWN:
    case GRPC_ALREADY_EXISTS:
    case GRPC_PERMISSION_DENIED:
    case GRPC_FAILED_PRECONDITION:
    case GRPC_INTERNAL:
    case GRPC_UNAVAILABLE:
    case GRPC_DATA_LOSS:
    case GRPC_UNAUTHENTICATED:
        break;
    }
    return API_ERROR_NODE_FAILED;
}
