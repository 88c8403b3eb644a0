/* reply.c - an answer of Drover's own, as a value. */
#include "worker/api/reply.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define RETRY_AFTER_MAX_S 60u

void reply_finish(struct reply *reply)
{
    buf_finish(&reply->body);
}

static void add_header(struct reply *reply, const char *name, const char *value)
{
    struct reply_header *header = &reply->headers[reply->headers_count];

    assert(reply->headers_count < REPLY_MAX_HEADERS);
    header->name = name;
    (void)strlcpy(header->value, value, sizeof(header->value));
    reply->headers_count++;
}

/* The official clients obey this header; without it they go by the status alone. */
static const char *should_retry(enum api_error error)
{
    switch (error) {
    case API_ERROR_QUEUE_FULL:
    case API_ERROR_QUEUE_TIMEOUT:
    case API_ERROR_NO_NODE:
    case API_ERROR_SHUTTING_DOWN:
    case API_ERROR_OVERLOADED:
        return "true";
    case API_ERROR_NONE:
    case API_ERROR_BAD_REQUEST:
    case API_ERROR_CONTEXT_LENGTH:
    case API_ERROR_NOT_FOUND:
    case API_ERROR_METHOD:
    case API_ERROR_UPGRADE:
    case API_ERROR_MODEL_NOT_FOUND:
    case API_ERROR_TOO_LARGE:
    case API_ERROR_MEDIA_TYPE:
    case API_ERROR_NOT_SUPPORTED:
    case API_ERROR_NODE_FAILED: /* Drover has retried already */
    case API_ERROR_NODE_TIMEOUT:
    case API_ERROR_DEADLINE:
    case API_ERROR_INTERNAL:
    case API_ERROR_UNAUTHORIZED:
    case API_ERROR_SLOW_BODY:
    case API_ERROR_LOOP:
    case API_ERROR_HEAD_TOO_LARGE:
    case API_ERROR_EXPECTATION:
    case API_ERROR_FORBIDDEN:
        return "false";
    }
    return "false";
}

void reply_error(struct reply *out, enum surface surface, enum api_error error,
                 const char *message, const char *param, unsigned retry_after_s,
                 const char *request_id)
{
    char seconds[16];

    out->error = error;
    out->status = api_error_status(error, surface);
    out->content_type = "application/json";
    surface_error_body(&out->body, surface, error, message, param, request_id);
    add_header(out, "x-drover-reason", api_error_reason(error));
    add_header(out, "x-should-retry", should_retry(error));
    if (retry_after_s == 0)
        return;
    (void)snprintf(seconds, sizeof(seconds), "%u",
                   retry_after_s > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : retry_after_s);
    add_header(out, "retry-after", seconds);
}
