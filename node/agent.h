/*
 * agent.h - drover-node's gRPC service: drover.v1.Inference in front of one engine.
 *
 * struct agent is shared by agent.c (the service and its bookkeeping), infer.c (the life of one
 * request) and attach.c (what coordinators are told); main.c makes it and asks it to drain.
 */
#ifndef DROVER_NODE_AGENT_H
#define DROVER_NODE_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/secure/tokens.h"
#include "node/admission.h"
#include "node/describe.h"
#include "node/engine/engine.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/join.h"
#include "proto/rpc/grpc/server.h"
#include "proto/wire.h"

struct error;
struct exec; /* infer.c: one request */

#define AGENT_METHODS           5
#define AGENT_MAX_REQUEST_BYTES (16 * 1024 * 1024)
#define AGENT_NODE_ID_BYTES     64

/* What a listener is told about. */
enum agent_change {
    AGENT_LOAD_CHANGED = 1 << 0,   /* what a LoadReport says */
    AGENT_MODELS_CHANGED = 1 << 1, /* what a description says */
};

struct agent_listener {
    void (*on_change)(struct agent_listener *listener, unsigned changes);
    struct agent_listener *prev, *next; /* both NULL iff not listening */
};

struct agent_config {
    char node_id[AGENT_NODE_ID_BYTES];
    uint8_t instance_id[JOIN_INSTANCE_BYTES];
    uint32_t slots;  /* 0 = what the engine says, or 1 */
    int32_t queue;   /* -1 = half the slots, rounded up */
    bool resume_ids; /* ask the engine for token ids where it can tell them */
};

struct agent {
    struct loop *loop;     /* borrowed */
    struct engine *engine; /* borrowed */
    struct agent_config config;
    struct admission admission;
    uint64_t output_tokens;                       /* of all answers so far */
    struct engine_facts told;                     /* as the listeners know them */
    struct engine_facts described;                /* as the last description has them */
    bool draining;                                /* takes no new work */
    bool no_stream_options;                       /* this engine refused them */
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1]; /* newest, previous; "" = none */
    bool has_token;                               /* false: Infer is open to everyone */
    uint64_t load_seq;
    uint64_t models_version;         /* grows with every AGENT_MODELS_CHANGED */
    uint64_t looked_mono_us;         /* of the look last taken into account */
    struct agent_listener listeners; /* list head */
    struct exec *dead;               /* to be freed at the end of the turn */
    struct deferred turn;            /* frees the dead, starts the waiting */
    struct wire_arena arena;
    struct log_limit failures;     /* of engine failures in the log */
    struct health_service *health; /* owned; destroyed after the server */
    struct server_method methods[AGENT_METHODS];
};

/* Takes the engine's on_facts.  DRV_ENOMEM. */
MUST_CHECK int agent_create(struct agent **out, struct loop *loop, struct engine *engine,
                            const struct agent_config *config, struct error *err);

/* After the server that serves its methods.  NULL is allowed. */
void agent_destroy(struct agent *agent);

/* The tokens that call proofs may come from; both "": Infer is open to everyone. */
void agent_set_tokens(struct agent *agent, char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1]);

/* Takes no new work from now on; what is queued or runs goes on. */
void agent_drain(struct agent *agent);

/* Nothing runs and nothing waits. */
MUST_CHECK bool agent_idle(const struct agent *agent);

/* A fresh snapshot with the next sequence number.  Points into the agent's facts. */
void agent_load(struct agent *agent, Drover__V1__LoadReport *out);

/* Describes the engine; good until the facts change. */
void agent_describe(struct agent *agent, struct describe *out);

void agent_listen(struct agent *agent, struct agent_listener *listener);
void agent_unlisten(struct agent *agent, struct agent_listener *listener);

/* For infer.c: something that a report shows has changed. */
void agent_changed(struct agent *agent, unsigned changes);

/* For infer.c: does the call carry a proof of one of our tokens? */
MUST_CHECK bool agent_authorised(const struct agent *agent, const struct server_call *call);

#endif
