/* refused.c - what follows an error of the engine. */
#include "node/answer/refused.h"

#include <ctype.h>
#include <string.h>

#include "base/attrs.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/kinds.h"
#include "base/text/text.h"
#include "node/answer/doubt.h"
#include "node/answer/sender.h"
#include "node/body/edit.h"
#include "node/body/error_body.h"
#include "node/engine/errors.h"
#include "node/engine/kinds/operations.h"
#include "node/node_request.h"
#include "proto/operations.h"

/* An error of the engine in a body of ours. */
static void pass_words(struct node_request *req, unsigned status, const char *text)
{
    req->http_status = status;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    buf_reset(&req->out);
    error_body_write(&req->out, req->operation, text);
    sender_pass(req);
}

/* The engine's own words for an operation that it does not have. */
static void pass_missing(struct node_request *req, const struct engine_error *verdict)
{
    if (req->http_status == 501 && !req->too_large)
        sender_pass(req);
    else
        pass_words(req, 501, verdict->text);
}

/* Forgets an answer that began, to ask again. */
static void reset(struct node_request *req)
{
    loop_undefer(req->agent->loop, &req->flush);
    doubt_reset(req);
    req->mode = ANSWER_UNKNOWN;
    req->refused = false;
    req->done_us = 0;
    req->too_large = false;
    req->last_brace = 0;
    req->tell_progress = false;
    req->out_content = false;
    req->out_tokens = 0;
    req->content_us = 0;
    buf_reset(&req->out);
    buf_reset(&req->whole);
    req->response_headers_count = 0;
    req->content_type[0] = '\0';
    sse_finish(&req->sse);
    assembler_destroy(req->assembler);
    req->assembler = NULL;
    meter_finish(&req->meter);
    meter_init(&req->meter, req->operation, req->resumable);
    choices_expect(&req->meter.choices, req->prompts, req->choices);
}

/* The engine is to be asked again with another body, which is taken over; `rc`: whether there
 * is one.  False: the call has ended. */
static bool ask_again(struct node_request *req, struct buf *body, int rc)
{
    if (rc != 0) {
        buf_finish(body);
        node_request_fail(req, GRPC_UNAVAILABLE, "the request cannot be edited (%s)",
                          error_name(rc));
        return false;
    }
    buf_finish(&req->body);
    req->body = *body;
    reset(req);
    node_request_retake(req);
    return true;
}

/* With one member less. */
static bool ask_without(struct node_request *req, const char *name)
{
    struct buf body = BUF_INIT;
    int rc = node_request_flatten(req);

    if (rc == 0)
        rc = edit_without(&body, buf_head(&req->body), buf_size(&req->body), name);
    return ask_again(req, &body, rc);
}

static bool ask_without_usage(struct node_request *req)
{
    req->without_usage = true;
    req->usage_added = false;
    return ask_without(req, "stream_options");
}

/* The body of the same request for a document. */
static int make_unstreamed(struct node_request *req, struct buf *body)
{
    int rc = node_request_flatten(req);

    /* Engines refuse stream_options where there is no stream, the client's too. */
    if (rc == 0)
        rc = edit_unstreamed(body, req->operation, buf_head(&req->body), buf_size(&req->body),
                             req->usage_added || req->stream);
    req->asked_again = true;
    req->streaming = false;
    req->usage_added = false;
    return rc;
}

/* Some engines refuse in a stream what they take without. */
static bool ask_unstreamed(struct node_request *req)
{
    struct buf body = BUF_INIT;
    int rc = make_unstreamed(req, &body);

    return ask_again(req, &body, rc);
}

static uint64_t now_of(const struct node_request *req)
{
    return loop_now_us(req->agent->loop);
}

static bool is_known_unstreamed(const struct node_request *req)
{
    return (operations_missing_of(&req->agent->no_streams, req->model, now_of(req)) >>
                req->operation &
            1u) != 0;
}

int refused_unstream(struct node_request *req)
{
    struct buf body = BUF_INIT;
    int rc;

    if (!req->streaming || !is_known_unstreamed(req))
        return 0;
    rc = make_unstreamed(req, &body);
    if (rc != 0) {
        buf_finish(&body);
        return rc;
    }
    req->no_stream = true;
    buf_finish(&req->body);
    req->body = body;
    return 0;
}

bool refused_note_unstreamed(struct node_request *req)
{
    const struct refusal refusal = {.ability = ABILITY_OPERATION, .limit = 1};

    if (!req->no_stream)
        return true;
    if (!is_known_unstreamed(req)) /* else it would never be asked for a stream again */
        operations_note_missing(&req->agent->no_streams, req->model, req->operation,
                                now_of(req));
    return node_request_cause(req, DROVER__V1__CAUSE__KIND__KIND_ABILITY, &refusal);
}

/* Is the word there, or one that begins with it?  "upstream" is another. */
static bool names_stream(const char *text)
{
    for (const char *at = text; (at = strcasestr(at, "stream")) != NULL; at++)
        if (at == text || !isalnum((unsigned char)at[-1]))
            return true;
    return false;
}

/* Words with which an engine refuses a form of request; no error amid a stream has them. */
static bool refuses(const char *text)
{
    static const char *const marks[] = {"not available", "not support", "unsupported",
                                        "not allowed", "not implemented"};

    return text_has_any(text, marks, ARRAY_LEN(marks));
}

/* Does the engine refuse this request alone?  "not available when `stream=True`" is about what
 * else is in it. */
static bool is_conditional(const char *text)
{
    static const char *const marks[] = {" when ", " if ", " while ", " with ", " in "};

    return text_has_any(text, marks, ARRAY_LEN(marks));
}

/* Does it have no stream of this operation at all, as far as it says? */
static bool has_no_stream(const struct engine_error *verdict)
{
    if (!names_stream(verdict->text))
        return verdict->perhaps_stream;
    return refuses(verdict->text) && !is_conditional(verdict->text);
}

/* Is it the stream that the engine refuses, as far as it says? */
static bool blames_stream(const struct node_request *req, const struct engine_error *verdict)
{
    unsigned status = req->http_status;

    if (verdict->cause == DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR)
        return status == 500 && names_stream(verdict->text) && refuses(verdict->text);
    return verdict->perhaps_stream ||
           (names_stream(verdict->text) && (status < 500 || status == 501));
}

/* Can it be the stream that the engine refuses?  One that the client asked for is, where the
 * engine says so; another perhaps also where it gives no reason.  An engine that failed, or is
 * full, would only do its work twice. */
static bool may_be_the_stream(const struct node_request *req,
                              const struct engine_error *verdict)
{
    unsigned status = req->http_status;

    if (!req->streaming || req->asked_again ||
        (verdict->engine_error_action == ENGINE_ERROR_FAIL &&
         verdict->status == GRPC_RESOURCE_EXHAUSTED))
        return false;
    if (verdict->cause == DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED)
        return false; /* once is enough */
    if (blames_stream(req, verdict))
        return true;
    if (req->stream || verdict->cause == DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR)
        return false;
    if (verdict->cause == DROVER__V1__CAUSE__KIND__KIND_ABILITY &&
        verdict->refusal.ability != ABILITY_OPERATION)
        return false;
    return status == 400 || status == 405 || status == 406 || status == 415 || status == 422 ||
           status == 501;
}

bool refused_unusable(struct node_request *req)
{
    if (req->stream || !req->streaming || req->asked_again || req->head_sent)
        return false;
    req->unusable = true;
    return true;
}

static bool says_when(const struct node_request *req)
{
    for (size_t i = 0; i < req->response_headers_count; i++)
        if (strcmp(req->response_headers[i].name, "retry-after") == 0)
            return true;
    return false;
}

/* Which the list of models did not show: that is open to everybody at some engines. */
static void note_access(const struct node_request *req, const struct engine_error *verdict)
{
    if (verdict->cause == DROVER__V1__CAUSE__KIND__KIND_ABILITY &&
        verdict->refusal.ability == ABILITY_ACCESS &&
        verdict->engine_error_action == ENGINE_ERROR_FAIL)
        engine_refuses_us(req->agent->engine,
                          req->http_status == 429
                              ? "the engine refuses requests: it says that our quota is used up"
                              : "the engine refuses requests for our API key: its key belongs "
                                "in the file of --engine-key-file");
}

/* Did the runner end while the engine started it for the request, which it never had then? */
static bool was_coming_up(const struct node_request *req)
{
    return req->content_us == 0 && (!req->was_loaded || silence_is_loading(&req->silence));
}

bool refused_apply(struct node_request *req)
{
    struct engine_error verdict;

    if (req->unusable) {
        req->unusable = false;
        return ask_unstreamed(req);
    }
    engine_error_http(&verdict, req->http_status, buf_head(&req->out), buf_size(&req->out),
                      req->usage_added);
    /* Its path has the id of what is kept: not found is that, or there is no such path. */
    if (req->operation == DROVER__V1__OPERATION__OPERATION_STATE && req->http_status == 404)
        memset(&verdict, 0, sizeof(verdict));
    if (says_when(req))
        engine_error_says_when(&verdict, req->http_status);
    if (verdict.engine_error_action == ENGINE_ERROR_WITHOUT_USAGE)
        return ask_without_usage(req);
    if (may_be_the_stream(req, &verdict)) {
        req->no_stream = has_no_stream(&verdict);
        return ask_unstreamed(req);
    }
    if (req->ids_asked && verdict.engine_error_action != ENGINE_ERROR_FAIL) {
        /* It may be what we added that it does not like: the client's own request decides. */
        req->ids_asked = false;
        return ask_without(req, "logprobs");
    }
    note_access(req, &verdict);
    if (verdict.cause == DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED && !verdict.had_it &&
        was_coming_up(req))
        verdict.cause = DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR;
    /* One document may be had of it all the same. */
    if (verdict.perhaps_stream && req->streaming)
        verdict.refusal.limit = 1;
    req->of_model = verdict.of_model;
    req->no_answer = req->refused;
    if (!node_request_cause(req, verdict.cause, &verdict.refusal))
        return false;
    if (req->continues && verdict.engine_error_action != ENGINE_ERROR_FAIL) {
        /* The client reads a stream that began well: an error page is no answer to it. */
        node_request_fail(req, GRPC_UNIMPLEMENTED,
                          "the engine refused to continue: HTTP status %u", req->http_status);
        return false;
    }
    switch (verdict.engine_error_action) {
    case ENGINE_ERROR_PASS:
        if (req->too_large) /* half a document helps no one */
            pass_words(req, req->http_status, verdict.text);
        else
            sender_pass(req);
        break;
    case ENGINE_ERROR_PASS_AS_400: /* the fault is the client's */
        pass_words(req, 400, verdict.text);
        break;
    case ENGINE_ERROR_FAIL:
        if (verdict.status == GRPC_UNIMPLEMENTED && verdict.refusal.limit == 0)
            engine_operation_missing(req->agent->engine, req->model, req->operation);
        if (verdict.own_words && !req->continues && !operation_is_question(req->operation))
            pass_missing(req, &verdict);
        else
            node_request_fail(req, verdict.status, "%s", verdict.text);
        break;
    case ENGINE_ERROR_WITHOUT_USAGE:
        break; /* done above */
    }
    return false;
}
