/*
 * agent.h - the state of drover-node: the engine's facts, its slots, the tokens, and its
 * reports to coordinators.
 *
 * The service (service.h) and the reporters (load reports, registrations) use it and listen to
 * its changes; it knows none of them.
 */
#ifndef DROVER_NODE_AGENT_H
#define DROVER_NODE_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "base/secure/tokens.h"
#include "node/answer/answer_names.h"
#include "node/engine/engine.h"
#include "node/engine/kinds/operations.h"
#include "node/report/describe.h"
#include "node/slot_limit.h"
#include "node/slots.h"
#include "proto/drover_common.pb-c.h"
#include "proto/join.h"

struct error;
struct server_call;

#define AGENT_MAX_REQUEST_BYTES (16 * 1024 * 1024)  /* in one message */
#define AGENT_MAX_BODY_BYTES    (128 * 1024 * 1024) /* in parts */
#define AGENT_BODIES_BYTES      (512 * 1024 * 1024) /* of all bodies that come in parts */
#define AGENT_NODE_ID_BYTES     64

/* The changes that a listener hears of. */
enum agent_change {
    AGENT_LOAD_CHANGED = 1 << 0,   /* fields of a LoadReport */
    AGENT_MODELS_CHANGED = 1 << 1, /* fields of a description */
    AGENT_SLOTS_CHANGED = 1 << 2,  /* nothing to report, but a slot may have become free */
};

struct agent_listener {
    void (*on_change)(struct agent_listener *listener, unsigned changes);
    TAILQ_ENTRY(agent_listener) link;
    bool listening; /* `link` is in the agent's list */
};

struct agent_config {
    char node_id[AGENT_NODE_ID_BYTES];
    uint8_t instance_id[JOIN_INSTANCE_BYTES];
    uint32_t slots_min, slots_max; /* as node/slot_limit.h takes them */
    int32_t queue;                 /* -1 = half the slots, rounded up */
    bool resume_ids;               /* ask the engine for token ids where it can give them */
};

struct agent {
    struct loop *loop;     /* borrowed */
    struct engine *engine; /* borrowed */
    struct agent_config config;
    struct slots slots;
    struct slot_limit limit;                      /* how many slots there are */
    struct answer_names answer_names;             /* what models call themselves */
    uint32_t loads;                               /* requests for which a model is loaded */
    uint64_t output_tokens;                       /* of all answers so far */
    struct engine_facts reported;                 /* as the listeners know them */
    struct engine_facts described;                /* as the last description has them */
    Drover__V1__Capacity capacity;                /* of the load report being sent */
    bool draining;                                /* takes no new work */
    bool no_stream_options;                       /* this engine refused them */
    struct operations_missing no_streams;         /* ... the streamed form of these */
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1]; /* newest, previous; "" = none */
    bool has_token;                               /* false: Infer is open to everyone */
    uint64_t load_seq;
    uint64_t models_version; /* grows with every AGENT_MODELS_CHANGED */
    uint64_t looked_mono_us; /* of the look last taken into account */
    struct log_limit news_limit, models_limit;
    TAILQ_HEAD(, agent_listener) listeners;
};

/* Takes the engine's on_facts.  DRV_ENOMEM. */
MUST_CHECK int agent_create(struct agent **out, struct loop *loop, struct engine *engine,
                            const struct agent_config *config, struct error *err);

/* After all that stands on it.  NULL is allowed. */
void agent_destroy(struct agent *agent);

/* The tokens that call proofs may come from; both "": Infer is open to everyone. */
void agent_set_tokens(struct agent *agent, char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1]);

/* Takes no new work from now on; queued and running requests go on. */
void agent_drain(struct agent *agent);

/* Nothing runs and nothing waits. */
MUST_CHECK bool agent_idle(const struct agent *agent);

/* A fresh snapshot with the next sequence number.  Points into the agent's facts. */
void agent_load(struct agent *agent, Drover__V1__LoadReport *out);

/* Describes the engine; good until the facts change. */
void agent_describe(struct agent *agent, struct describe *out);

void agent_listen(struct agent *agent, struct agent_listener *listener);
void agent_unlisten(struct agent *agent, struct agent_listener *listener);

/* `limit` or `loads` has changed: slots open or close, and the coordinators hear of it. */
void agent_resize(struct agent *agent);

/* Something that listeners want to know has changed. */
void agent_changed(struct agent *agent, unsigned changes);

/* Does the call carry a proof of one of our tokens?  Then its connection is no stranger's. */
MUST_CHECK bool agent_authorised(const struct agent *agent, struct server_call *call);

#endif
