/*
 * surface.h - the API families that clients speak, and the error format of each.  Pure.
 *
 * A path selects an operation and a surface.  An error must have the shape that the client's
 * own library parses; these are the only places that build one.
 */
#ifndef DROVER_WORKER_API_SURFACE_H
#define DROVER_WORKER_API_SURFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "shm/facts/nodes.h"

struct buf;

enum surface {
    SURFACE_OPENAI = 0, /* {"error":{"message","type","param","code","src":"drover"}} */
    SURFACE_ANTHROPIC,  /* {"type":"error","error":{"type","message"},"request_id"} */
    SURFACE_OLLAMA,     /* {"error":"text"} */
};

/* Every error of ours that a client can get: status, type and code follow from it. */
enum api_error {
    API_ERROR_NONE = 0,
    API_ERROR_BAD_REQUEST,     /* 400 invalid_request_error */
    API_ERROR_CONTEXT_LENGTH,  /* 400 the prompt fits no node's context */
    API_ERROR_NOT_FOUND,       /* 404 unknown path */
    API_ERROR_METHOD,          /* 405 */
    API_ERROR_MODEL_NOT_FOUND, /* 404 model_not_found */
    API_ERROR_TOO_LARGE,       /* 413 */
    API_ERROR_MEDIA_TYPE,      /* 415 */
    API_ERROR_NOT_SUPPORTED,   /* 501 no node's engine speaks this API */
    API_ERROR_QUEUE_FULL,      /* 429 (Anthropic 529 overloaded_error) + Retry-After */
    API_ERROR_QUEUE_TIMEOUT,   /* 503 + Retry-After */
    API_ERROR_NO_NODE,         /* 503 nothing can serve now + Retry-After */
    API_ERROR_NODE_FAILED,     /* 502, x-should-retry: false */
    API_ERROR_NODE_TIMEOUT,    /* 504, x-should-retry: false */
    API_ERROR_DEADLINE,        /* 504 the request's own time limit */
    API_ERROR_SHUTTING_DOWN,   /* 503 */
    API_ERROR_INTERNAL,        /* 500 */
    API_ERROR_OVERLOADED,      /* 503 this worker holds too much + Retry-After */
    API_ERROR_UNAUTHORIZED,    /* 401 no API key, or one that is not in the file */
    API_ERROR_SLOW_BODY,       /* 408 hardly a byte of the body comes */
    API_ERROR_UPGRADE,         /* 426 there are no WebSockets here */
    API_ERROR_LOOP,            /* 508 the request has been here before */
    API_ERROR_HEAD_TOO_LARGE,  /* 431 the head of the request */
    API_ERROR_EXPECTATION,     /* 417 anything but 100-continue */
    API_ERROR_FORBIDDEN,       /* 403 an engine's word, in a stream that has begun */
};
unsigned api_error_status(enum api_error error, enum surface surface);
/* The error that an engine's HTTP status of 400 or more is. */
enum api_error api_error_of_status(unsigned status);
/* The words of API_ERROR_LOOP where the engine of that node has answered so. */
void api_loop_text(char *out, size_t cap, const char *node);
/* The value of x-drover-reason: "queue_full"; stable, lower case. */
const char *api_error_reason(enum api_error error);

/* The selection by path and method of a request. */
struct route {
    enum surface surface;
    enum route_kind {
        ROUTE_UNKNOWN = 0,
        ROUTE_BAD_METHOD, /* the path exists, the method does not; `allow` says which do */
        ROUTE_INFER,      /* `operation` on a node; of STATE `tail` is the path after "/v1/" */
        ROUTE_MODELS,     /* GET /v1/models */
        ROUTE_MODEL,      /* GET /v1/models/{id}; `tail` is the id, still percent-encoded */
        ROUTE_TAGS,       /* GET /api/tags */
        ROUTE_PS,         /* GET /api/ps */
        ROUTE_PULL,       /* POST /api/pull */
        ROUTE_MANAGE,     /* /api/push, create, delete, copy, blobs; `tail` is which */
        ROUTE_VERSION,    /* GET /api/version */
        ROUTE_ROOT,       /* GET or HEAD / : what Ollama's clients probe */
        ROUTE_HEALTH,     /* /health /healthz /readyz /readiness */
        ROUTE_LIVE,       /* /livez /live /liveness */
    } kind;
    int operation;      /* enum drover.v1.Operation */
    const char *method; /* "POST", say: that of the request, if the path takes it; static */
    char allow[32];     /* "GET, HEAD": those that it takes */
    const char *tail;   /* into the path */
    size_t tail_len;
    char model[NODE_MODEL_BYTES]; /* INFER: the one that the path names, as Azure's do, or "" */
};
/*
 * Brings a path, without the query, in place into the form that the routes have; returns its
 * new length.  Base URLs are written with a slash at the end or without, with "/v1" although
 * the client adds it, or as other servers have it:
 *
 *   //v1///chat/completions/      repeated slashes count once, those at the end not at all
 *   /v1/v1/messages               /v1/messages
 *   /openai/v1/..., /api/v1/...   /v1/..., and so is /anthropic/v1/...
 *   /openai/deployments/NAME/...  /deployments/NAME/..., and so is all below /openai
 *   /v1/ch%61t/completions        /v1/chat/completions: only what need not be encoded
 *
 * A name, after "/models/", stays as it is.
 */
size_t surface_plain_path(char *path, size_t path_len);

/* `path`: a plain one.  All spellings of design: with and without /v1, four of rerank. */
struct route surface_route(const char *method, size_t method_len, const char *path,
                           size_t path_len);

/* Undoes percent-encoding.  False: malformed, does not fit, or a NUL. */
MUST_CHECK bool surface_decode(char *out, size_t cap, const char *text, size_t n);

/* Appends a whole error body. */
void surface_error_body(struct buf *out, enum surface surface, enum api_error error,
                        const char *message, const char *param, const char *request_id);

/* Appends the end of a stream that has already begun: an error event (and for OpenAI `data:
 * [DONE]`), or for Ollama one NDJSON line.  `sequence` is for the Responses API, which numbers
 * its events. */
void surface_error_event(struct buf *out, enum surface surface, int operation,
                         enum api_error error, const char *message, const char *request_id,
                         uint32_t sequence);

#endif
