/*
 * model.h - a node and a model, as a worker sees them.
 *
 * Filled by upstreams.c and model_table.c alone.
 */
#ifndef DROVER_WORKER_UPSTREAMS_MODEL_H
#define DROVER_WORKER_UPSTREAMS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/route/abilities.h"
#include "shm/facts/nodes.h"
#include "shm/share/node_set.h"

struct channel;
struct upstreams;

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

/* A node that serves a model. */
struct upstream_server {
    struct upstream *node; /* borrowed: valid until upstreams_renew() */
    const char *name;      /* its own for the model; borrowed likewise */
    uint64_t model_hash;   /* of that: whose loads and lessons they are */
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

/* One name and the nodes that serve it: a model's, another that a node gives it, or that of an
 * alias with several models, which takes the place of a model of this name. */
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

#endif
