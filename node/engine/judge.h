/*
 * judge.h - what an engine's HTTP error means: the client's fault, this node's, or neither.
 *
 * A 4xx is the engine's answer to the client and passes.  But engines are odder than that:
 * llama-server answers 500 to a client's own bad input, a wrong API key between node and engine
 * is a 401 that is not the client's, and a path that the engine does not know is a 404.  Pure.
 */
#ifndef DROVER_NODE_JUDGE_H
#define DROVER_NODE_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rpc/grpc/status.h"

enum judgement {
    JUDGE_PASS = 0,      /* an answer for the client, as it is */
    JUDGE_PASS_AS_400,   /* the client's fault, said with a 5xx: pass `text` as a 400 */
    JUDGE_FAIL,          /* end the call with `status` and `text` */
    JUDGE_WITHOUT_USAGE, /* the engine refuses our stream_options: ask again without */
};

struct verdict {
    enum judgement judgement;
    enum grpc_status status; /* JUDGE_FAIL */
    char text[256];
};

/* `usage_added`: the node put stream_options into the body. */
void judge_http(struct verdict *out, unsigned http_status, const void *body, size_t n,
                bool usage_added);

/* An error event in a stream of HTTP 200, `error_status` being the HTTP status in it or 0. */
enum grpc_status judge_event(uint32_t error_status);

#endif
