/*
 * question.c - asks one node after the other until one answers.
 *
 * Two things can outlive each other and are let go of separately: the client's side (`request`,
 * NULL once the responder is done or gone) and the node's (`attempt`, NULL once it has ended).
 * A question is freed in release_if_over() when both are NULL; every path calls it last.
 *
 * The answer is one document, held until it is whole, so that a node that fails leaves no
 * trace. One too large to be held begins to flow, and then a failure can only cut it off.
 */
#include "worker/request/question.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "policy/fault/retry.h"
#include "policy/route/prompt.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/share/holders.h"
#include "shm/share/node_set.h"
#include "worker/http/access_log.h"
#include "worker/http/client_request.h"
#include "worker/http/reject.h"
#include "worker/http/responder.h"
#include "worker/upstreams/node_call.h"
#include "worker/upstreams/servable.h"
#include "worker/upstreams/upstreams.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* Nodes that one question may try; of failures the configuration allows fewer. */
#define MAX_TRIED 8
/* A node answers a question within this, or another is asked. */
#define SILENCE_US (10 * US_PER_S)
/* A node that restarts, or has just joined, should not cost a client an error. */
#define ESTIMATE_WINDOW_BYTES 65536 /* the hashes are of no use here */
#define NO_NODE_GRACE_US      (2 * US_PER_S)
#define LOOK_AGAIN_US         (100 * US_PER_MS)
#define LOOK_US               US_PER_S
/* After its answer is whole a node has so long to end the stream. */
#define END_US (2 * US_PER_S)
/* A larger document is passed on as it comes, */
#define HOLD_BYTES (1024 * 1024)
/* ... and with less than this on its way to the client the node may send more. */
#define LOW_WATER_BYTES (64 * 1024)

enum phase { ASKED = 0, NO_NODE, ANSWERED };

struct question {
    struct question_core *core;
    struct client_request *request; /* borrowed */
    struct node_call *attempt;      /* owned */
    LIST_ENTRY(question) link;      /* in core->questions */
    enum phase phase;
    struct tried {
        unsigned node;
        uint32_t generation;
        bool again; /* it did not take the question: as in attempt_classify() */
    } tried[MAX_TRIED];
    uint32_t tried_count, failures;
    bool everywhere;       /* each Ollama that has the model is asked, in turn */
    struct node_set asked; /* of these */
    bool more;             /* another is to be asked when this one has ended */
    uint32_t attempts;
    bool engine_away;                  /* the node says so of the last attempt */
    bool was_refused;                  /* a node did not take it on its connection */
    bool model_known;                  /* when it came */
    uint32_t engines_died;             /* with it, while their drover-node lived */
    uint64_t message_bytes;            /* of the message to a node, at most */
    char node_name[NODE_NAME_BYTES];   /* of the last attempt; "" = none */
    char node_model[NODE_MODEL_BYTES]; /* its name for the model; likewise */
    uint64_t progress_mono_us;         /* when the node last sent something, or was asked */
    uint64_t no_node_mono_us;          /* since when there is none; 0 = there is one */
    struct timer timer;

    /* The answer as far as it is held. */
    unsigned status; /* of the engine's head; 0 = none yet */
    char content_type[128];
    struct buf held;
    uint64_t answer_bytes; /* all that came */
    bool shown;            /* the client has the head: it flows */
    bool cut;              /* it was cut off here */
    bool flows;            /* it is a stream, which may be silent while the engine works */

    uint64_t content_mono_us;  /* when the first bytes came; 0 = not yet */
    enum api_error last_error; /* of the last node that failed */
    char last_message[256];
    unsigned client_status;  /* as the client sees it */
    enum api_error reported; /* the error that the client got */
    const char *outcome;     /* for the access log */
};

/* ---- ends ------------------------------------------------------------------------------ */

static void release_if_over(struct question *q)
{
    struct question_core *core = q->core;

    if (q->request != NULL || q->attempt != NULL)
        return;
    timer_stop(core->loop, &q->timer);
    LIST_REMOVE(q, link);
    core->open_count--;
    buf_finish(&q->held);
    free(q);
}

static void stop_attempt(struct question *q)
{
    node_call_cancel(q->attempt);
    q->attempt = NULL;
}

static void log_access(const struct question *q, bool gone)
{
    const struct client_request *request = q->request;
    const struct access_record record = {
        .id = request->id,
        .execution = q->tried_count == 0 ? NULL : request->execution_id,
        .client = request->client,
        .key = request->key_name,
        .method = request->method,
        .path = request->path,
        .model = request->client_model,
        .node = q->node_name[0] == '\0' ? NULL : q->node_name,
        .outcome = gone ? "client_gone" : q->outcome,
        .reason = q->reported == API_ERROR_NONE ? NULL : api_error_reason(q->reported),
        .status = gone ? 499 : q->client_status,
        .attempts = q->attempts,
        .bytes_in = responder_read(request->responder),
        .bytes_out = responder_written(request->responder),
        .ttft_us = q->content_mono_us == 0 ? 0 : q->content_mono_us - request->received_mono_us,
        .total_us = loop_now_us(q->core->loop) - request->received_mono_us,
    };

    access_log_write(q->core->access_log, &record);
}

static void on_gone(void *data)
{
    struct question *q = data;

    log_access(q, !q->cut);
    q->phase = ANSWERED;
    q->request = NULL;
    stop_attempt(q);
    release_if_over(q);
}

static void on_done(void *data)
{
    struct question *q = data;

    log_access(q, false);
    q->request = NULL;
    release_if_over(q);
}

static void add_headers(const struct question *q)
{
    struct responder *r = q->request->responder;
    const char *model = client_request_own_model(q->request, q->node_model);
    char number[16];

    if (q->node_name[0] != '\0')
        responder_header(r, "x-drover-node", q->node_name);
    responder_header(r, "x-drover-queue-ms", "0");
    (void)snprintf(number, sizeof(number), "%u", q->attempts);
    responder_header(r, "x-drover-attempts", number);
    if (model != NULL)
        responder_header(r, "x-drover-model", model);
}

static void answer_error(struct question *q, enum api_error error, const char *message,
                         unsigned retry_after_s)
{
    q->phase = ANSWERED;
    q->reported = error;
    timer_stop(q->core->loop, &q->timer);
    if (q->shown) {
        q->cut = true;
        responder_abort(q->request->responder);
        return;
    }
    q->client_status = api_error_status(error, q->request->surface);
    add_headers(q);
    http_reply_error(q->request, error, message, retry_after_s);
}

/* The same, for what is refused here. */
static void reject(struct question *q, enum api_error error, const char *message,
                   unsigned retry_after_s)
{
    q->outcome = "rejected";
    procs_count(q->core->board, q->core->worker, PROC_REQUESTS_REJECTED, 1);
    answer_error(q, error, message, retry_after_s);
}

/* ---- asking ---------------------------------------------------------------------------- */

static bool was_tried(const struct question *q, const struct upstream_server *server)
{
    if (q->everywhere)
        return node_set_has(&q->asked, server->node_id);
    for (uint32_t i = 0; i < q->tried_count; i++)
        if (q->tried[i].node == server->node_id &&
            q->tried[i].generation == server->generation && !q->tried[i].again)
            return true;
    return false;
}

/* Preference for the node; 0 = never ask it.  One on probation only if no other can. */
static unsigned rank(const struct question *q, const struct upstream_server *server)
{
    unsigned ready = server->state == DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE ? 0 : 1;

    if ((server->operations & (UINT32_C(1) << q->request->operation)) == 0 ||
        server->state == DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING ||
        server->state == DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED ||
        !upstreams_takes(server, q->message_bytes) ||
        !upstreams_is_holder(server, q->request->holder) || !upstreams_usable(server->node))
        return 0;
    if (q->everywhere &&
        server->node->info.engine != DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
        return 0;
    return nodes_state(q->core->board, server->node_id) == NODE_UP ? 3 + ready : 1 + ready;
}

/* The best of the model's nodes that was not tried, if it is better than *best. */
static void pick_of(const struct question *q, const struct upstream_model *model,
                    const struct upstream_server **best, unsigned *best_rank, bool *any)
{
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server =
            &model->servers[(q->core->cursor + i) % model->servers_count];
        unsigned r = rank(q, server);

        *any |= r != 0;
        if (r <= *best_rank || was_tried(q, server))
            continue;
        *best = server;
        *best_rank = r;
    }
}

/* NULL: there is none, or all have been tried; then *any says which.  Things that engines keep
 * are asked for without a model. */
static const struct upstream_server *pick(struct question *q, bool *any)
{
    const struct upstream_server *best = NULL;
    struct upstream_model *models;
    unsigned best_rank = 0;
    size_t count = 1;

    *any = false;
    q->core->cursor++;
    models = q->request->target == NULL ? upstreams_find(q->core->upstreams, q->request->model)
                                        : upstreams_all_models(q->core->upstreams, &count);
    for (size_t i = 0; models != NULL && i < count; i++)
        pick_of(q, &models[i], &best, &best_rank, any);
    return best;
}

static void ask(struct question *q);
static void on_timer(struct timer *timer);

/* An answer that flows has no limit. */
static uint64_t deadline_mono_us(const struct question *q)
{
    if (q->shown)
        return UINT64_MAX;
    return q->request->received_mono_us +
           q->core->config->limits.request_timeout_ms * US_PER_MS;
}

/* Does the node wait to be allowed to send more, because the client does not read? */
static bool client_lags(const struct question *q)
{
    return q->attempt != NULL && q->request != NULL && q->shown &&
           node_call_unreleased(q->attempt) != 0 &&
           responder_pending(q->request->responder) >= LOW_WATER_BYTES;
}

static uint64_t silence_limit_mono_us(const struct question *q)
{
    uint64_t most_us = q->core->config->limits.first_token_ms * US_PER_MS;

    if (client_lags(q) || q->flows)
        return UINT64_MAX;
    return q->progress_mono_us + (most_us < SILENCE_US ? most_us : SILENCE_US);
}

static void arm(struct question *q)
{
    uint64_t now = loop_now_us(q->core->loop), due = deadline_mono_us(q);
    uint64_t phase_due = q->phase == NO_NODE ? now + LOOK_AGAIN_US : silence_limit_mono_us(q);

    if (phase_due < due)
        due = phase_due;
    if (due > now + LOOK_US)
        due = now + LOOK_US; /* a client that does not read may read again */
    timer_start(q->core->loop, &q->timer, due > now ? due - now : 0, on_timer);
}

/* Gives the client what is held.  `whole`: nothing follows. */
static void show(struct question *q, bool whole)
{
    struct responder *r = q->request->responder;

    if (!q->shown) {
        q->client_status = q->status;
        add_headers(q);
        responder_start(r, q->status, q->content_type,
                        whole ? (int64_t)buf_size(&q->held) : -1);
        q->shown = true;
    }
    responder_write(r, buf_head(&q->held), buf_size(&q->held));
    buf_reset(&q->held);
}

/* The document in `held` is the answer, and ours. */
static void answer_ourselves(struct question *q)
{
    q->phase = ANSWERED;
    q->outcome = "ok";
    q->status = 200;
    (void)strlcpy(q->content_type, "application/json", sizeof(q->content_type));
    timer_stop(q->core->loop, &q->timer);
    show(q, true);
    responder_end(q->request->responder);
}

/* No Ollama that is up has the model: nothing is to be done, said in its words. */
static void answer_unloaded(struct question *q)
{
    const struct client_request *request = q->request;
    time_t now = time(NULL);
    char created[32] = "1970-01-01T00:00:00Z";
    struct tm tm;

    if (gmtime_r(&now, &tm) != NULL)
        (void)strftime(created, sizeof(created), "%FT%TZ", &tm);
    buf_reset(&q->held);
    buf_str(&q->held, "{\"model\":");
    json_quote_str(&q->held, request->client_model);
    buf_printf(&q->held,
               ",\"created_at\":\"%s\",%s,\"done_reason\":\"unload\",\"done\":true}\n", created,
               request->operation == DROVER__V1__OPERATION__OPERATION_OLLAMA_CHAT
                   ? "\"message\":{\"role\":\"assistant\",\"content\":\"\"}"
                   : "\"response\":\"\"");
    answer_ourselves(q);
}

/* Where no engine counts, an estimate serves the clients that show how full a context is: bytes
 * of the prompt over this model's bytes per token, as learned from the usage of its answers. */
static void answer_estimate(struct question *q, const struct upstream_model *model)
{
    const struct client_request *request = q->request;
    double ratio = model == NULL ? UPSTREAMS_BYTES_PER_TOKEN : model->bytes_per_token;
    struct prompt *prompt = malloc(sizeof(*prompt));

    if (prompt == NULL) {
        answer_error(q, API_ERROR_INTERNAL, "out of memory", 0);
        return;
    }
    prompt_read(prompt, request->model, &request->root, ESTIMATE_WINDOW_BYTES);
    buf_reset(&q->held);
    buf_printf(&q->held, "{%s\"input_tokens\":%.0f}",
               request->operation == OP(INPUT_TOKENS) ? "\"object\":\"response.input_tokens\","
                                                      : "",
               ceil((double)prompt->bytes / ratio));
    free(prompt);
    responder_header(request->responder, "x-drover-estimate", "true");
    answer_ourselves(q);
}

static bool counts(int operation)
{
    return operation == OP(COUNT_TOKENS) || operation == OP(INPUT_TOKENS);
}

static void give_up(struct question *q)
{
    if (q->last_error == API_ERROR_NOT_SUPPORTED && counts(q->request->operation)) {
        answer_estimate(q, upstreams_find(q->core->upstreams, q->request->model));
        return;
    }
    if (q->last_error == API_ERROR_NO_NODE) {
        reject(q, q->last_error, servable_nobody(q->core->upstreams, q->request), 5);
        return;
    }
    if (q->last_error == API_ERROR_QUEUE_FULL) {
        reject(q, q->last_error, "the nodes of this model are busy with other questions", 1);
        return;
    }
    q->outcome = q->last_error == API_ERROR_NODE_TIMEOUT ? "timeout"
                 : q->last_error == API_ERROR_TOO_LARGE  ? "client_error"
                                                         : "node_error";
    answer_error(q, q->last_error, q->last_message, 0);
}

/* The node did not answer: another may. */
static void failed(struct question *q, enum api_error error, const char *message)
{
    const struct config_limits *limits = &q->core->config->limits;

    q->status = 0;
    buf_reset(&q->held);
    q->answer_bytes = 0;
    if (q->shown) {
        q->outcome = "node_error";
        answer_error(q, error, message, 0);
        return;
    }
    if (error == API_ERROR_QUEUE_FULL || error == API_ERROR_NO_NODE)
        q->attempts--; /* it cost nothing there */
    else
        q->failures++;
    if (error == API_ERROR_NO_NODE && q->last_error != API_ERROR_NONE)
        error = q->last_error; /* another node said more */
    else
        (void)snprintf(q->last_message, sizeof(q->last_message), "%s", message);
    q->last_error = error;
    if (!q->everywhere && (q->failures >= limits->max_attempts || q->tried_count == MAX_TRIED ||
                           q->engines_died >= RETRY_MAX_DEATHS))
        give_up(q);
    else
        ask(q);
}

static const struct node_call_events node_call_events;

static void start_attempt(struct question *q, const struct upstream_server *server)
{
    struct question_core *core = q->core;
    const struct node_call_options options = {
        .number = q->everywhere ? q->attempts : q->tried_count,
        .model = server->name,
        .config = core->config,
        .arena = &core->arena,
    };
    struct error err = {0};

    q->phase = ASKED;
    q->no_node_mono_us = 0;
    node_set_add(&q->asked, server->node_id);
    if (q->everywhere)
        q->tried_count = 0; /* it counts no further */
    q->tried[q->tried_count++] =
        (struct tried){.node = server->node_id, .generation = server->generation};
    (void)strlcpy(q->node_name, server->node->info.name, sizeof(q->node_name));
    (void)strlcpy(q->node_model, server->name, sizeof(q->node_model));
    q->attempts++;
    q->engine_away = false;
    q->progress_mono_us = loop_now_us(core->loop);
    if (node_call_start(&q->attempt, server->node, q->request, &options, &node_call_events, q,
                        &err) != 0) {
        reject(q, API_ERROR_OVERLOADED, "out of memory", 1);
        return;
    }
    arm(q);
}

/* Can any node be asked for what engines keep? */
static enum api_error check_kept(struct question *q, struct buf *message)
{
    bool any;

    if (q->request->holder != 0 || pick(q, &any) != NULL ||
        upstreams_models_unknown(q->core->upstreams))
        return API_ERROR_NONE;
    buf_str(message, "no engine that is up here keeps responses or conversations");
    return API_ERROR_NOT_FOUND;
}

/* Rejects a question that no node could ever answer.  True: answered. */
static bool refuse_at_once(struct question *q)
{
    const struct client_request *request = q->request;
    struct buf message = BUF_INIT;
    enum api_error error = request->target != NULL ? check_kept(q, &message)
                                                   : servable_check(q->core->upstreams, request,
                                                                    q->message_bytes, &message);

    if (error == API_ERROR_NOT_SUPPORTED && counts(request->operation))
        answer_estimate(q, upstreams_find(q->core->upstreams, request->model));
    else if (error != API_ERROR_NONE)
        reject(q, error, buf_cstr(&message), 0);
    buf_finish(&message);
    return error != API_ERROR_NONE;
}

static void ask(struct question *q)
{
    uint64_t now = loop_now_us(q->core->loop);
    bool any;
    const struct upstream_server *server = pick(q, &any);

    if (server != NULL) {
        start_attempt(q, server);
    } else if (q->last_error != API_ERROR_NONE) {
        give_up(q); /* all that could answer have failed */
    } else if (q->everywhere && upstreams_find(q->core->upstreams, q->request->model) != NULL) {
        answer_unloaded(q);
    } else {
        q->phase = NO_NODE;
        if (q->no_node_mono_us == 0)
            q->no_node_mono_us = now;
        if (now - q->no_node_mono_us < NO_NODE_GRACE_US)
            arm(q);
        else if (q->model_known || !refuse_at_once(q)) /* else it may be known by now */
            reject(q, API_ERROR_NO_NODE, servable_nobody(q->core->upstreams, q->request), 5);
    }
}

/* The answer was whole, but the node does not end the stream. */
static void on_end_overdue(struct timer *timer)
{
    struct question *q = CONTAINER_OF(timer, struct question, timer);

    stop_attempt(q);
    release_if_over(q);
}

static void on_timer(struct timer *timer)
{
    struct question *q = CONTAINER_OF(timer, struct question, timer);
    uint64_t now = loop_now_us(q->core->loop);

    if (q->request == NULL || q->phase == ANSWERED)
        return;
    if (now >= deadline_mono_us(q)) {
        stop_attempt(q);
        q->outcome = "timeout";
        answer_error(q, API_ERROR_DEADLINE, "no answer within request_timeout_ms", 0);
    } else if (q->phase == NO_NODE) {
        ask(q);
    } else if (now >= silence_limit_mono_us(q)) {
        stop_attempt(q);
        failed(q, API_ERROR_NODE_TIMEOUT, "the node did not answer in time");
    } else {
        arm(q); /* progress pushes the limit back without touching the timer */
    }
}

/* ---- the node's events ----------------------------------------------------------------- */

static void on_accepted(void *data, const Drover__V1__Accepted *accepted)
{
    (void)data;
    (void)accepted;
}

/* It is not known which node has it, and there is one that was not asked. */
static bool may_be_elsewhere(struct question *q)
{
    bool any;

    return q->request->target != NULL && q->request->holder == 0 &&
           q->tried_count < MAX_TRIED && pick(q, &any) != NULL;
}

static void on_head(void *data, const Drover__V1__ResponseHead *head)
{
    struct question *q = data;
    char message[256];

    if (api_error_of_status(head->http_status) == API_ERROR_LOOP) {
        api_loop_text(message, sizeof(message), q->node_name);
        stop_attempt(q);
        failed(q, API_ERROR_LOOP, message);
        return;
    }
    if (head->http_status == 404 && may_be_elsewhere(q)) {
        stop_attempt(q);
        ask(q);
        return;
    }
    if (head->http_status == 429 || head->http_status >= 500) {
        (void)snprintf(message, sizeof(message), "the engine answered HTTP %u",
                       head->http_status);
        stop_attempt(q);
        failed(q, head->http_status == 429 ? API_ERROR_QUEUE_FULL : API_ERROR_NODE_FAILED,
               message);
        return;
    }
    q->progress_mono_us = loop_now_us(q->core->loop);
    q->status = head->http_status;
    q->flows = head->event_stream && q->request->target != NULL && q->status < 400;
    (void)strlcpy(q->content_type,
                  head->content_type[0] != '\0' &&
                          text_is_printable(head->content_type, strlen(head->content_type))
                      ? head->content_type
                      : "application/json",
                  sizeof(q->content_type));
}

static void release_if_low(struct question *q)
{
    if (q->attempt == NULL || q->request == NULL || client_lags(q))
        return;
    if (node_call_unreleased(q->attempt) != 0)
        q->progress_mono_us = loop_now_us(q->core->loop); /* the silence was the client's */
    node_call_release(q->attempt);
}

static void on_drain(void *data, size_t n)
{
    (void)n;
    release_if_low(data);
}

static void on_chunk(void *data, const Drover__V1__Chunk *chunk)
{
    struct question *q = data;
    uint32_t limit = q->core->config->limits.max_answer_bytes;

    if (q->request == NULL)
        return;
    q->progress_mono_us = loop_now_us(q->core->loop);
    if (q->content_mono_us == 0)
        q->content_mono_us = q->progress_mono_us;
    q->answer_bytes += chunk->data.len;
    if (limit != 0 && q->answer_bytes > limit) {
        stop_attempt(q);
        failed(q, API_ERROR_NODE_FAILED, "the answer is longer than limits.max_answer_bytes");
        return;
    }
    buf_add(&q->held, chunk->data.data, chunk->data.len);
    if (q->held.failed) {
        stop_attempt(q);
        failed(q, API_ERROR_INTERNAL, "out of memory");
        return;
    }
    if (chunk->kept_id[0] != '\0')
        holders_note(q->core->holders, chunk->kept_id, hash_text(q->node_name),
                     q->request->owner);
    if (q->shown || q->flows || buf_size(&q->held) > HOLD_BYTES)
        show(q, false);
    release_if_low(q);
}

static void on_cause(void *data, const Drover__V1__Cause *cause)
{
    struct question *q = data;

    q->engine_away = cause->kind == DROVER__V1__CAUSE__KIND__KIND_ENGINE_AWAY;
    q->engines_died += cause->kind == DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED;
}

static void on_finish(void *data, const Drover__V1__Finish *finish)
{
    struct question *q = data;

    bool any;

    (void)finish;
    if (q->everywhere && q->request != NULL && !q->shown &&
        (q->last_error != API_ERROR_NONE || pick(q, &any) != NULL)) {
        q->more = true;
        return;
    }
    q->phase = ANSWERED;
    q->outcome = q->status >= 400 ? "client_error" : "ok";
    if (q->request != NULL) {
        show(q, true);
        responder_end(q->request->responder);
    }
    timer_start(q->core->loop, &q->timer, END_US, on_end_overdue);
}

/* The node closes its connection, say: its next one takes the question.  Once. */
static bool is_passing(struct question *q, const struct call_result *result)
{
    if (result->end != CALL_END_REFUSED || q->was_refused || q->engine_away || q->status != 0 ||
        q->tried_count == MAX_TRIED)
        return false;
    q->was_refused = true;
    return true;
}

static void on_end(void *data, const struct call_result *result)
{
    struct question *q = data;
    bool away = q->status == 0 && (q->engine_away || node_call_is_unseen(result));
    enum api_error error = node_call_is_too_large(result, q->message_bytes)
                               ? API_ERROR_TOO_LARGE
                           : away ? API_ERROR_NO_NODE
                                  : node_call_error(result);
    const char *message =
        result->message[0] == '\0' ? grpc_status_name(result->status) : result->message;

    q->attempt = NULL;
    if (q->request == NULL || q->phase == ANSWERED) {
        release_if_over(q);
    } else if (q->more) {
        q->more = false;
        q->status = 0;
        buf_reset(&q->held);
        ask(q);
    } else if (is_passing(q, result)) {
        q->tried[q->tried_count - 1].again = true;
        node_set_remove(&q->asked, q->tried[q->tried_count - 1].node);
        q->attempts--; /* it cost nothing there */
        ask(q);
    } else if (error == API_ERROR_BAD_REQUEST) {
        q->outcome = "client_error"; /* no other node will accept it */
        answer_error(q, error, message, 0);
    } else {
        failed(q, error, message);
    }
}

static const struct node_call_events node_call_events = {
    .on_accepted = on_accepted,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_cause = on_cause,
    .on_finish = on_finish,
    .on_end = on_end,
};

/* ---- beginning ------------------------------------------------------------------------- */

void question_start(struct question_core *core, struct client_request *request)
{
    static const struct responder_events client_events = {
        .on_drain = on_drain,
        .on_gone = on_gone,
        .on_done = on_done,
    };
    struct question *q = calloc(1, sizeof(*q));

    if (q == NULL) {
        http_reject(request, API_ERROR_INTERNAL, "out of memory", NULL, 0);
        return;
    }
    q->core = core;
    q->request = request;
    q->outcome = "node_error";
    q->message_bytes = node_call_message_bytes(request);
    LIST_INSERT_HEAD(&core->questions, q, link);
    core->open_count++;
    responder_set_events(request->responder, &client_events, q);
    if (refuse_at_once(q))
        return;
    q->model_known = upstreams_find(core->upstreams, request->model) != NULL;
    q->everywhere = operation_unloads(request->operation, &request->root);
    ask(q);
}

void question_stop_all(struct question_core *core)
{
    struct question *q, *next;

    LIST_FOREACH_SAFE(q, &core->questions, link, next) {
        if (q->phase == ANSWERED || q->request == NULL)
            continue;
        stop_attempt(q);
        reject(q, API_ERROR_SHUTTING_DOWN, "the coordinator is shutting down", 1);
    }
}

size_t question_open(const struct question_core *core)
{
    return core->open_count;
}

void question_core_init(struct question_core *core)
{
    wire_arena_init(&core->arena);
    core->cursor = arc4random();
}

void question_core_finish(struct question_core *core)
{
    wire_arena_finish(&core->arena);
}
