/*
 * engine.h - what drover-node wants of an engine, real or simulated.
 *
 * An engine takes an HTTP-shaped request and gives an HTTP-shaped answer piece by piece; the
 * agent (node/agent.c) does admission, accounting and gRPC on top, the same for every engine.
 * Two implementations: node/engine/http_engine.c (libcurl to a real server) and
 * sim/sim_engine.c.
 */
#ifndef DROVER_NODE_ENGINE_H
#define DROVER_NODE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;
struct engine; /* opaque, defined by each implementation; starts with struct engine_ops const *
                */
struct engine_run; /* opaque: one request inside an engine */
struct loop;

#define ENGINE_MODEL_BYTES 128
#define ENGINE_MAX_MODELS  64

struct engine_model {
    char id[ENGINE_MODEL_BYTES];
    uint32_t state;       /* enum drover.v1.ModelState */
    uint32_t max_context; /* tokens; 0 = unknown */
    uint32_t operations;  /* bit (1 << drover.v1.Operation) */
    uint32_t load_ms;
    uint32_t alias_of; /* 0, or 1 + index of the model this names again */
    /* Tells vocabularies apart, where the engine takes token ids and can tell them: equal
     * numbers, equal meaning of the ids.  0 = it does not. */
    uint64_t vocabulary;
};

/* What the engine is and how it does; kept fresh by the engine in the background. */
struct engine_facts {
    uint32_t kind; /* enum drover.v1.EngineKind */
    char version[64];
    bool reachable;           /* it answered the last look */
    bool loading;             /* reachable, but its model still loads */
    char detail[256];         /* why not reachable or loading; "" when all is well */
    uint32_t slots;           /* 0 = unknown */
    uint32_t running, queued; /* as the engine says; valid iff has_load */
    bool has_load;
    uint64_t looked_mono_us; /* when `running` was asked for; 0 = it is exact at any time */
    float kv_used_fraction;  /* -1 = unknown */
    float prefill_tokens_per_s, decode_tokens_per_s; /* 0 = unknown */
    uint64_t progress; /* grows with prefill and decode, where the engine shows it; else 0 */
    uint32_t models_count;
    struct engine_model models[ENGINE_MAX_MODELS];
};

struct engine_header {
    const char *name; /* lower case */
    const char *value;
};

struct engine_request {
    int operation; /* enum drover.v1.Operation */
    const char *content_type;
    const uint8_t *body; /* already edited; borrowed until the run ends */
    size_t body_len;
    const struct engine_header *headers; /* borrowed until engine_start returns */
    size_t headers_count;
    const char *id; /* for the engine's log */
};

/* How a run ended. */
enum engine_end {
    ENGINE_END_OK = 0,      /* the answer is complete as HTTP sees it */
    ENGINE_END_UNREACHABLE, /* could not connect; nothing was sent */
    ENGINE_END_LOST,        /* the connection broke before the answer was complete */
    ENGINE_END_GARBAGE,     /* not HTTP, or headers over a limit */
};

/* None of these is called from inside engine_start, engine_cancel or engine_pause. */
struct engine_events {
    /* The status line and headers are in. */
    void (*on_head)(void *data, unsigned status, const char *content_type,
                    const struct engine_header *headers, size_t headers_count);
    void (*on_body)(void *data, const uint8_t *bytes, size_t n); /* borrowed for the call */
    /* Exactly once, unless engine_cancel came first.  `why` is for logs. */
    void (*on_end)(void *data, enum engine_end end, const char *why);
};

struct engine_ops {
    MUST_CHECK int (*start)(struct engine *engine, struct engine_run **out,
                            const struct engine_request *request,
                            const struct engine_events *events, void *data, struct error *err);
    void (*cancel)(struct engine_run *run); /* closes at once; the run is gone */
    void (*pause)(struct engine_run *run,
                  bool paused); /* stop or go on delivering (back-pressure) */
    const struct engine_facts *(*facts)(struct engine *engine);
    void (*destroy)(struct engine *engine);
};

/* Header of every implementation's struct. */
struct engine {
    const struct engine_ops *ops;
    /* Set by the agent: the facts changed in a way worth telling.  From the loop. */
    void (*on_facts)(void *data);
    void *on_facts_data;
};

/* A real engine at `url` (http or https), of a kind found by asking it.  `key_file` (may be
 * NULL) holds an API key to send as a bearer token.  Looks at it every `poll_ms`. */
MUST_CHECK int http_engine_create(struct engine **out, struct loop *loop, const char *url,
                                  const char *key_file, uint32_t poll_ms, struct error *err);

/* The simulated engine.  `spec` is what follows "sim:" on the command line, a comma-separated
 * list of key=value (docs/simulated-engine.md); "" is all defaults. */
MUST_CHECK int sim_engine_create(struct engine **out, struct loop *loop, const char *spec,
                                 struct error *err);

/* The HTTP path of an operation on an engine: "/v1/chat/completions"; NULL when unknown. */
const char *engine_path(int operation);

#endif
