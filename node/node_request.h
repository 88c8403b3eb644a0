/*
 * node_request.h - one request inside the agent: its state, its call and its slot.
 *
 * service.c fills in the request and admits it, answer.c works on the engine's answer; both end
 * it here and nowhere else.
 */
#ifndef DROVER_NODE_NODE_REQUEST_H
#define DROVER_NODE_NODE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "base/text/splices.h"
#include "node/agent.h"
#include "node/body/upload.h"
#include "node/engine/headers.h"
#include "node/engine/refusal.h"
#include "node/silence.h"
#include "node/stream/assemble.h"
#include "node/stream/framing.h"
#include "node/stream/meter.h"
#include "node/stream/splice.h"
#include "node/stream/sse.h"
#include "node/stream/token_ids.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/operations.h"
#include "proto/rpc/grpc/server.h"
#include "proto/wire.h"

/* NODE_REQUEST_OPENED -> NODE_REQUEST_UPLOADING -> NODE_REQUEST_QUEUED -> NODE_REQUEST_RUNNING
 * -> NODE_REQUEST_ENDED; every phase may go to NODE_REQUEST_ENDED, and the first two may go
 * straight to NODE_REQUEST_QUEUED and NODE_REQUEST_RUNNING. */
enum node_request_phase {
    NODE_REQUEST_OPENED = 0, /* the call has begun, its message has not come */
    NODE_REQUEST_UPLOADING,  /* the body comes in parts */
    NODE_REQUEST_QUEUED,     /* waits for a slot */
    NODE_REQUEST_RUNNING,    /* has a slot; `run` is set until the engine has ended */
    NODE_REQUEST_ENDED,      /* `call` is finished or gone; freed at the end of the turn */
};

/* The use of the engine's answer; its head and its first bytes decide. */
enum answer_mode {
    ANSWER_UNKNOWN = 0, /* no head yet */
    ANSWER_BEGUN,       /* the first bytes do not show yet what it is */
    ANSWER_EVENTS,      /* whole events go to the client as they come */
    ANSWER_ASSEMBLED,   /* events become one JSON answer */
    ANSWER_PLAIN,       /* one document: held until it is whole, if it is not too large */
    ANSWER_ERROR,       /* collected, classified at the end */
};

/* The state that the requests of a service share. */
struct node_request_pool {
    struct agent *agent;       /* borrowed */
    struct node_request *dead; /* to be freed at the end of the turn */
    struct wire_arena arena;   /* of the message being looked at */
    struct uploads uploads;    /* of all its requests */
    struct log_limit failures; /* of engine failures in the log */
};

struct node_request {
    struct node_request_pool *pool; /* borrowed */
    struct agent *agent;            /* borrowed: the pool's */
    struct server_call *call;       /* NULL iff phase == NODE_REQUEST_ENDED */
    struct engine_run *run;         /* NULL unless the engine works on it */
    enum node_request_phase phase;
    enum answer_mode mode;
    struct waiter waiter;
    struct slot_run slot_run;  /* while the engine works on it; not for questions */
    struct node_request *next; /* among the dead */

    /* The request. */
    char request_id[65];
    uint32_t attempt;
    int operation;                           /* enum drover.v1.Operation */
    const char *method;                      /* of HTTP; static */
    char target[OPERATION_TARGET_BYTES + 1]; /* STATE: after the operation's path */
    bool question;                           /* takes no slot: see proto/operations.h */
    bool stream, want_text;
    bool streaming;     /* the engine was asked for a stream */
    bool without_usage; /* asked again without `stream_options`, which the engine refused */
    bool usage_added;   /* by us: hidden from a client that streams */
    bool usage_asked;   /* by the client, in its stream */
    bool continues;     /* an answer that another node began; `splice` is in use */
    bool asked_again;   /* without a stream */
    bool no_stream;     /* ... of which the engine has none, as it says or said before */
    uint32_t prompts, choices; /* the choices that the answer has to have */
    bool ids_asked; /* log probabilities are in the stream for the ids in them: `ids` is in use
                     */
    uint64_t vocabulary; /* of the ids */
    bool resumable;      /* another node could continue it, as far as the request goes */
    char model[ENGINE_MODEL_BYTES];        /* as the caller names it */
    char sent_model[ENGINE_MODEL_BYTES];   /* as the engine is asked for it */
    char answer_model[ENGINE_MODEL_BYTES]; /* as the answer is to name it; "" = as the engine */
    uint32_t load_ms, first_token_ms, idle_token_ms;
    bool was_loaded;         /* its model, when the engine was asked, as far as was known */
    bool no_answer;          /* what failed is a 200 that is no answer, or reports an error */
    bool of_model;           /* the engine's error concerns the model alone: see engine_error */
    uint32_t wanted_context; /* that Ollama is to load the model with; 0 = it chooses */
    struct buf body;         /* owned: what the engine gets, unless `splices` are in use */
    struct buf first;        /* owned: the first message, while the body comes in parts */
    struct upload upload;    /* owned: a body that comes, or came, in parts */
    struct edit_checker *checker; /* owned: checks it as it comes; NULL = none comes */
    struct splices splices;       /* owned: its edits; in use iff upload.bytes and a phase after
                                     NODE_REQUEST_UPLOADING */
    struct timer upload_timer;    /* until when the next message has to come */
    struct buf request_text; /* owned: NUL-separated content type, header names and values */
    struct engine_header headers[HEADERS_MAX];
    size_t headers_count;

    /* The answer. */
    unsigned http_status;
    char content_type[128];
    struct buf response_text; /* owned: NUL-separated names and values */
    struct engine_header response_headers[HEADERS_MAX];
    size_t response_headers_count;
    struct sse sse;
    struct splice splice;
    struct token_ids ids;
    struct stream_meter meter;
    struct assembler *assembler; /* owned; ANSWER_ASSEMBLED only */
    struct buf out;              /* owned: bytes for the next chunk */
    struct buf whole;            /* owned: the first bytes, or a document, until it is whole */
    enum framing claimed;        /* by its content type */
    bool too_large;    /* the document is not held, it passes as it comes, as sound does; of an
                          error:    `out` has its beginning only */
    bool refused;      /* `out` has an error that the stream began with */
    bool unusable;     /* the stream is none: the engine is asked for a document */
    size_t last_brace; /* in `out`, of an event that ends a choice; 0 = none there */
    uint32_t out_tokens;
    bool out_content;
    bool keeps; /* its engine may keep the answer, and has then an id for it */
    bool head_sent, content_sent, kept_sent, paused, cause_sent;
    struct deferred flush;
    /* Of node/answer/doubt.c. */
    char answered_as[ENGINE_MODEL_BYTES]; /* the name in the answer; "" until seen */
    bool named;                           /* `answered_as` was checked */
    bool doubted;                         /* nothing is sent until the engine was looked at */
    bool pass_due;                        /* then the answer is whole */
    uint64_t doubted_us;
    struct agent_listener listener;
    struct deferred settle;
    uint64_t body_bytes;

    /* Instants on the monotonic clock; 0 = not yet. */
    uint64_t started_us, content_us;
    uint64_t heard_us; /* when bytes of the answer last came */
    uint64_t done_us;  /* when its last event came */
    struct silence silence;
    struct timer silence_timer; /* runs while `run` does */
    void (*answer_over)(struct node_request *req, enum engine_end end, const char *why);
    uint32_t signs_told;  /* reported to the caller, of the engine's signs of life */
    bool loading;         /* the engine loads the model, as was reported to the caller */
    uint64_t reported_us; /* when an assembled answer last showed progress */
    bool tell_progress;   /* an empty chunk is due */
};

void node_request_pool_init(struct node_request_pool *pool, struct agent *agent);
void node_request_pool_finish(struct node_request_pool *pool); /* when no call is left */

/* At the end of a turn: frees the requests that ended in it. */
void node_request_pool_free_dead(struct node_request_pool *pool);

/* A request with nothing but its call, and the call's data; NULL: out of memory. */
MUST_CHECK struct node_request *node_request_create(struct node_request_pool *pool,
                                                    struct server_call *call);

/* Ends the call with a status that is not OK, and the engine's run with it. */
void node_request_fail(struct node_request *req, enum grpc_status status, const char *format,
                       ...) PRINTF_LIKE(3, 4);

/* Reports why there will be no answer, if `kind` says why.  False: the call has ended by it. */
MUST_CHECK bool node_request_cause(struct node_request *req, Drover__V1__Cause__Kind kind,
                                   const struct refusal *refusal);

/* Is its answer, which is whole, without any output? */
MUST_CHECK bool node_request_is_empty(const struct node_request *req);

/* Ends the call with OK; the engine's run is over. */
void node_request_succeed(struct node_request *req);

/* The call is gone by itself: ends the engine's run. */
void node_request_gone(struct node_request *req);

/* Sends an event.  False: the call has ended by it. */
MUST_CHECK bool node_request_send(struct node_request *req,
                                  const Drover__V1__InferEvent *event);

/* Reports the request's place to the caller: 0 = the engine has it.  False: the call has ended
 * by it. */
MUST_CHECK bool node_request_accepted(struct node_request *req, uint32_t position);

/* The engine loads the request's model, or does not any more. */
void node_request_note_loading(struct node_request *req, bool loading);

/* The engine has begun to answer: it has the request's model. */
void node_request_answered(struct node_request *req);

/* The engine has begun its answer: a long body is not kept, once it has been sent. */
void node_request_drop_body(struct node_request *req);

/* Makes a long body one piece with its edits, in `body`, for an edit that is no splice.
 * DRV_ENOMEM. */
MUST_CHECK int node_request_flatten(struct node_request *req);

/* Asks the engine, in the slot that is counted already; `events` get the request as their data.
 * False: the call has ended. */
MUST_CHECK bool node_request_run(struct node_request *req, const struct engine_events *events);

/* The engine's run has ended by itself: the slot is free. */
void node_request_run_over(struct node_request *req);

/* The engine has said the end of its answer, but keeps the connection open: closes that.  The
 * slot is free. */
void node_request_drop_run(struct node_request *req);

/* Takes the slot again that node_request_run_over() gave back this instant. */
void node_request_retake(struct node_request *req);

#endif
