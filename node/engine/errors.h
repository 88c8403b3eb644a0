/*
 * errors.h - the cause of an engine's HTTP error: the client's fault, this node's, or neither.
 *
 * A 4xx is the engine's answer to the client and passes.  But engines are odder than that:
 * llama-server answers 500 to a client's own bad input, a wrong API key between node and engine
 * is a 401 that is not the client's, and a path that the engine does not know is a 404.  A
 * lack of this engine that another may not have is an ability (node/engine/refusal.h).  Pure.
 */
#ifndef DROVER_NODE_ENGINE_ERRORS_H
#define DROVER_NODE_ENGINE_ERRORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "node/engine/refusal.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/rpc/grpc/status.h"

enum engine_error_action {
    ENGINE_ERROR_PASS = 0,      /* an answer for the client, as it is */
    ENGINE_ERROR_PASS_AS_400,   /* the client's fault, said with a 5xx: pass `text` as a 400 */
    ENGINE_ERROR_FAIL,          /* end the call with `status` and `text` */
    ENGINE_ERROR_WITHOUT_USAGE, /* the engine refuses our stream_options: ask again without */
};

struct engine_error {
    enum engine_error_action engine_error_action;
    enum grpc_status status;       /* ENGINE_ERROR_FAIL */
    Drover__V1__Cause__Kind cause; /* UNSPECIFIED: see drover_inference.proto */
    struct refusal refusal;        /* valid iff cause is ABILITY */
    bool of_model; /* what failed runs this model alone, behind a server that lives */
    bool had_it;   /* ... and was up, and had the request, when it ended */
    /* Of a missing operation. */
    bool perhaps_stream; /* only the status says so: it may be its streamed form alone */
    bool own_words;      /* the body is an error that names it, in the engine's words */
    char text[384];
};

/* `usage_added`: the node put stream_options into the body. */
void engine_error_http(struct engine_error *out, unsigned http_status, const void *body,
                       size_t n, bool usage_added);

/* The answer had a Retry-After: an engine that says when it takes requests again is full. */
void engine_error_says_when(struct engine_error *error, unsigned http_status);

/* An error event in a stream of HTTP 200, `error_status` being the HTTP status in it or 0. */
void engine_error_event(struct engine_error *out, uint32_t error_status, const void *body,
                        size_t n);

/* llama.cpp's router appends plain text to a stream when the model's server has ended amid it:
 * how many bytes at the end are such words, or 0. */
MUST_CHECK size_t engine_error_appended(const void *bytes, size_t n);

#endif
