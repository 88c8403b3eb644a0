/*
 * upstreams.h - this worker's picture of the nodes, and its own connection to each.
 *
 * The scoreboard's node table is the truth; the upstreams are a private copy of its cold part,
 * renewed when the table's epoch moves, with one gRPC channel per node that may get traffic.
 * State and load are always read live.  A node that leaves, or whose row goes to another, is
 * retired: attempts that still run there keep it alive, and the last one to let go frees it.
 */
#ifndef DROVER_WORKER_UPSTREAMS_UPSTREAMS_H
#define DROVER_WORKER_UPSTREAMS_UPSTREAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "policy/route/abilities.h"
#include "shm/facts/nodes.h"
#include "shm/share/node_set.h"

struct channel;
struct config;
struct error;
struct upstreams; /* opaque */
struct attempt;
struct loop;
struct scoreboard;

/* The fields of a routing decision come first, on one cache line. */
struct upstream {
    unsigned node_id;
    bool retired;
    bool reachable;          /* there is a channel, and it is not backing off */
    enum node_state state;   /* at the last renewal; upstreams_usable() looks live */
    uint64_t full_mono_us;   /* until when it gets nothing, as it said it is full */
    struct channel *channel; /* owned; NULL until the node is first UP */
    /* private to upstreams.c */
    struct upstreams *upstreams;
    unsigned refs;
    uint32_t version; /* nodes_version() of `info` */
    struct upstream *next_retired;
    struct node_info info; /* as of the last renewal */
};

/* The assumption about a model before anything was learned. */
#define UPSTREAMS_BYTES_PER_TOKEN 4.0

/* One model name (or alias a node gives) and the nodes that serve it. */
struct upstream_server {
    struct upstream *node; /* borrowed: valid until upstreams_renew() */
    uint32_t load_ms;
    uint32_t operations;
    /* Copies from `node`, so that a routing decision reads one dense table. */
    uint32_t node_id;
    uint32_t generation;
    uint32_t slots, queue;
    uint16_t state;             /* enum drover.v1.ModelState */
    uint16_t weight;            /* at least 1 */
    uint32_t max_request_bytes; /* in one message or in parts; 0 = unknown */
    float prefill_tokens_per_s;
    /* Its abilities for the model, as its engine says and as its refusals taught. */
    struct abilities_known known;
    uint32_t refused_operations; /* bit (1 << drover.v1.Operation) */
    uint32_t refused_streams; /* likewise, of which perhaps only the streamed form is missing */
    uint32_t refused_bytes;   /* the least message that was too large; 0 = none */
};
struct upstream_model {
    char id[NODE_MODEL_BYTES];
    uint32_t operations; /* of any server */
    struct upstream_server *servers;
    size_t servers_count;
    uint32_t lacks;         /* of any server */
    uint32_t least_context; /* of those that are known; 0 = none is */
    uint32_t most_context;
    uint32_t cursor;        /* for balance_choose() */
    double bytes_per_token; /* of prompts; learned by this worker from reported usage */
    uint32_t queue_row;     /* in shm/queue/model_queues.h */
    /* For select/demand.c: the nodes that serve it now and what they can do. */
    uint64_t measured_mono_us; /* 0 = never */
    struct node_set serving;
    uint32_t serving_count;
    uint32_t slots;
    /* Of requests of each class; 0 = not known yet. */
    double places_per_s[OP_CLASSES_LEARNED];
    uint64_t return_mono_us; /* when the last rejected request should come back */
};

MUST_CHECK int upstreams_create(struct upstreams **out, struct loop *loop,
                                const struct config *config, struct scoreboard *board,
                                unsigned worker, void (*on_change)(void *data, bool models),
                                void *data, struct error *err);
void upstreams_destroy(struct upstreams *upstreams);

/* Renews the picture if the table's epoch moved, at most every 10 ms: copies the rows that
 * changed, and makes the models anew when one did, or when a refusal taught something.  Call
 * once a turn.  Calls on_change when something moved, and when a node's connection is there or
 * its back-off began or ended; `models`: nodes came, went or changed. */
void upstreams_renew(struct upstreams *upstreams);
/* Has the node table not moved since? */
bool upstreams_are_current(const struct upstreams *upstreams);

/* The model called `id`, or NULL when no node names it. */
struct upstream_model *upstreams_find(struct upstreams *upstreams, const char *id);
/* The same for a newcomer: where the model is not known, the table is looked at again first, as
 * the node that has it may just have come. */
struct upstream_model *upstreams_find_fresh(struct upstreams *upstreams, const char *id);
/* A name that no node has becomes the one that Ollama nodes list for it, and that only they
 * serve (base/model_name.h). */
void upstreams_settle_name(struct upstreams *upstreams, char model[NODE_MODEL_BYTES]);
/* All of them, until the next upstreams_renew(). */
struct upstream_model *upstreams_all_models(struct upstreams *upstreams, size_t *count);
/* The node of this row, or NULL if the row has another generation here. */
struct upstream *upstreams_at(struct upstreams *upstreams, unsigned node_id,
                              uint32_t generation);
/*
 * May a node that has named no model have any?  While its engine loads, for load_us (the time
 * that limits.load_ms gives an engine for a load); while its engine is down, for 5 minutes, as
 * a machine that boots needs some; and for a minute after it joined.  Then a node that never
 * gets ready, or a machine that stays off, makes no name of a model unknown.  Pure.
 */
MUST_CHECK bool upstreams_may_have_any(const struct node_status *status, uint64_t load_us,
                                       uint64_t now_mono_us);

/* Are nodes about to name models: one starts or loads, or the coordinator has just started and
 * former nodes may come back? */
bool upstreams_models_awaited(const struct upstreams *upstreams);
/* May there be models that no node has named yet: as above, or no node has joined at all? */
bool upstreams_models_unknown(const struct upstreams *upstreams);
/* How many nodes are known; is any of them UP or on PROBATION? */
size_t upstreams_size(const struct upstreams *upstreams);
bool upstreams_any_up(const struct upstreams *upstreams);

/* May a request be sent there now?  UP or on PROBATION by the table, and its channel is not
 * backing off. */
bool upstreams_usable(const struct upstream *node);

/* Does the node take a request of so many bytes, in one message or in parts, as far as it said?
 */
static inline bool upstreams_takes(const struct upstream_server *server, uint64_t message_bytes)
{
    return server->max_request_bytes == 0 || message_bytes <= server->max_request_bytes;
}

/* An attempt holds on to the node, and lets go. */
void upstreams_hold(struct upstream *node);
void upstreams_let_go(struct upstream *node);

#endif
