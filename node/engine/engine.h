/*
 * engine.h - the engine that a drover-node serves: a server behind HTTP.
 *
 * Takes an HTTP-shaped request and gives an HTTP-shaped answer piece by piece; the agent
 * (node/agent.c) does admission, accounting and gRPC on top, the same for every kind of engine.
 */
#ifndef DROVER_NODE_ENGINE_H
#define DROVER_NODE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "node/engine/facts.h"

struct error;
struct engine;     /* opaque */
struct engine_run; /* opaque: one request inside an engine */
struct loop;
struct splices;

struct engine_header {
    const char *name; /* lower case */
    const char *value;
};

struct engine_request {
    int operation;      /* enum drover.v1.Operation */
    const char *method; /* of HTTP; NULL = POST.  Of another nothing of a body is sent */
    const char *target; /* follows the path of the operation; NULL = nothing */
    const char *content_type;
    const uint8_t *body; /* already edited; borrowed until the run ends */
    size_t body_len;
    const struct splices *splices; /* a long body instead, likewise, and its edits; else NULL */
    const struct engine_header *headers; /* borrowed until engine_start returns */
    size_t headers_count;
    const char *model; /* as the engine is asked for it; NULL = none */
    const char *id; /* of the request, the same for all attempts; with the number of the attempt
                     * it is the engine's X-Request-Id; NULL = none */
    uint32_t attempt; /* how often other nodes were asked before; not 0: sent to the engine */
};

/* The end of a run. */
enum engine_end {
    ENGINE_END_OK = 0,      /* the answer is complete as HTTP sees it */
    ENGINE_END_UNREACHABLE, /* could not connect; nothing was sent */
    ENGINE_END_LOST,        /* the connection broke before the answer was complete */
    ENGINE_END_DIED,        /* ... without a word of it, or the engine listens no more */
    ENGINE_END_GARBAGE,     /* not HTTP, or headers over a limit */
};

/* None of these is called from inside a function below. */
struct engine_events {
    /* The status line and headers are in.  `encoded`: the body has a content coding, though
     * none was asked for; it is taken off. */
    void (*on_head)(void *data, unsigned status, const char *content_type, bool encoded,
                    const struct engine_header *headers, size_t headers_count);
    void (*on_body)(void *data, const uint8_t *bytes, size_t n); /* borrowed for the call */
    /* Exactly once, unless engine_cancel came first.  `why` is for logs. */
    void (*on_end)(void *data, enum engine_end end, const char *why);
};

struct engine_config {
    const char *url;      /* http or https */
    const char *key_file; /* holds an API key to send as a bearer token; NULL = none */
    const char *ca_file;  /* checks an https engine's certificate; NULL = the system's */
    bool insecure;        /* the certificate is not checked */
    struct engine_offer offer;
    uint32_t look_every_s; /* at an idle engine; 0 = by the rules of look_times.h */
};

/* Can an engine have this URL?  DRV_EINVAL with `err` set, which never shows a password. */
MUST_CHECK int engine_check_url(const char *url, struct error *err);

/* An engine of a kind found by asking it.  The texts that `config` points to
 * must outlive it.  DRV_EINVAL, DRV_ENOENT, DRV_ESYS, DRV_ENOMEM, with `err` set. */
MUST_CHECK int engine_create(struct engine **out, struct loop *loop,
                             const struct engine_config *config, struct error *err);

/* Runs that are left end without an event.  NULL is fine. */
void engine_destroy(struct engine *engine);

/* The known facts; the same struct at every call. */
const struct engine_facts *engine_facts(const struct engine *engine);

/* From now on `on_facts` is called, from the loop, after each look at the engine. */
void engine_on_facts(struct engine *engine, void (*on_facts)(void *data), void *data);

/* The engine answered a request with "no such operation": the facts no longer show it for this
 * model, until it is time to try again.  `on_facts` is called later.  An operation that has
 * worked here stays: what is missing is something else in the request. */
void engine_operation_works(struct engine *engine, int operation);
void engine_operation_missing(struct engine *engine, const char *model, int operation);

/* The engine refused a request for what is wrong between it and us: the facts say `why`, a
 * constant, until a request is answered. */
void engine_refuses_us(struct engine *engine, const char *why);

/* Something is not as the facts say: a full look as soon as look_times.h allows. */
void engine_doubt(struct engine *engine);

/* Is a full look due, or under way, that begins at `since_mono_us` or later? */
MUST_CHECK bool engine_full_look_since(const struct engine *engine, uint64_t since_mono_us);

/* Begins a request.  DRV_EINVAL: no such operation, or a bad content type; DRV_ENOMEM. */
MUST_CHECK int engine_start(struct engine *engine, struct engine_run **out,
                            const struct engine_request *request,
                            const struct engine_events *events, void *data, struct error *err);

/* The state of an answer that is cancelled. */
enum engine_cancel {
    ENGINE_CANCEL_EARLY = 0, /* no output yet: the engine may work on for a second, as it has
                              * nothing to send */
    ENGINE_CANCEL_AMID,      /* output has come */
    ENGINE_CANCEL_OVER,      /* it is whole, only the connection is not closed */
};

/* Closes the connection at once; the run is gone. */
void engine_cancel(struct engine_run *run, enum engine_cancel state);

/* Has the engine been sent the whole body, so that its splices are needed no more? */
MUST_CHECK bool engine_has_body(const struct engine_run *run);

/* Stops delivering, or goes on: for back-pressure. */
void engine_pause(struct engine_run *run, bool paused);

/* The HTTP path of an operation on an engine: "/v1/chat/completions"; NULL when unknown. */
const char *engine_path(int operation);

#endif
