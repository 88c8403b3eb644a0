/*
 * state.h - one node that this process looks after: its facts and its row.
 *
 * Each has a row: it is from the configuration (static) or joined by itself
 * (registry).  Its state is a verdict (policy/fault/node_state.h).  This module writes what
 * follows from a verdict to the scoreboard and to the log.  It raises no event: table.h takes
 * them all.
 */
#ifndef DROVER_HEALTH_NODES_STATE_H
#define DROVER_HEALTH_NODES_STATE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "health/ejections.h"
#include "health/nodes/log_once.h"
#include "health/nodes/probe.h"
#include "health/nodes/recent_stats.h"
#include "policy/fault/gauge_audit.h"
#include "policy/fault/node_state.h"
#include "shm/facts/nodes.h"

struct node_stream;
struct config;
struct scoreboard;
struct dns_source;
struct node_table;

/* Messages to the registry stream of a node.  Each of these but `drain` ends the stream,
 * and the caller forgets it. */
struct node_stream_ops {
    /* Another stream took its name: of the `same` instance, or of a newer one. */
    void (*superseded)(struct node_stream *stream, bool same);
    void (*expired)(struct node_stream *stream); /* nothing came for too long */
    void (*left)(struct node_stream *stream);    /* it asked to go, and nothing is open there */
    void (*drain)(struct node_stream *stream, bool drain); /* by the operator */
};

/* All nodes of a table share this. */
struct node_home {
    struct loop *loop;           /* borrowed */
    struct scoreboard *board;    /* borrowed */
    const struct config *config; /* borrowed: replaced by a reload */
    const struct node_stream_ops
        *node_stream_ops;               /* borrowed; NULL while no node can have a stream */
    struct recent_stats_sample *sample; /* borrowed: scratch */
    struct noise *noise;                /* borrowed */
};

struct node {
    struct node_table *table;     /* borrowed: for callbacks; opaque to state.c */
    const struct node_home *home; /* borrowed: the table's */
    TAILQ_ENTRY(node) link;       /* in the table's list */
    unsigned node_id;
    uint32_t generation;
    struct node_info info; /* as published, but for models that find no room in its row */
    uint32_t models_in_row;
    bool short_of_room;
    struct log_limit room_limit;
    struct verdict verdict;
    struct probe *probe;               /* owned; NULL while the address is not known */
    struct recent_stats *recent_stats; /* owned */
    uint64_t met_mono_us;      /* when this process first saw it; 0 = it was taken over */
    uint64_t load_seq;         /* of the last report taken */
    uint64_t load_mono_us;     /* when that was; 0 = never */
    enum node_reason load_bad; /* why it cannot serve, by that report; NODE_REASON_NONE */
    char load_detail[NODE_DETAIL_BYTES]; /* the node's own words about its engine */
    struct log_once said_probe, said_load,
        said_description; /* what the log has of its failures */
    unsigned eager_left;  /* quick probes it may still have before the steady pace */
    bool replaced;        /* a reload gives its name to another: not for long */
    bool adopted;         /* an earlier health process let it in */
    struct gauge_audit gauge_audit;
    struct ejections ejections;
    struct deferred free_later; /* queued iff GONE */

    /* Leaving: the scoreboard is looked at until nothing is open there. */
    struct timer idle_timer;
    unsigned idle_looks;       /* in a row */
    uint64_t leave_by_mono_us; /* UINT64_MAX = no limit */

    /* Static nodes. */
    char *config_name;         /* owned; of its entry in the configuration */
    struct dns_source *source; /* borrowed; NULL = its address is in the configuration */
    SSL_CTX *tls;              /* owned */
    char *tls_name;            /* owned */

    /* Registry nodes; see lease.h. */
    struct node_stream *stream; /* borrowed: its stream; NULL = none */
    struct timer lease_timer;
    uint64_t heard_mono_us; /* when its last message came */
};

/* May there be a line in the log about the node?  (policy/fault/noise.h) */
MUST_CHECK bool node_speaks(const struct node *node);

/* A row and a node for it, JOINING, in no list yet; NULL when all rows are taken or memory is
 * short. */
struct node *node_create(const struct node_home *home, const struct node_info *info);

/* A node for a row that an earlier health process filled; NULL when memory is short. */
struct node *node_adopt(const struct node_home *home, unsigned node_id,
                        const struct node_info *info, const struct node_status *status);

/* Frees one that is in no list.  With `empty` its row is emptied too, else it stays as it is.
 */
void node_destroy(struct node *node, bool empty);

/* Feeds the verdict and publishes what changes.  False: nothing did.  Only for
 * node_table_event().
 */
bool node_step(struct node *node, enum node_event event, enum node_reason why);

/* Says in the log what the table's configuration does to its models that `before` did not. */
void node_config_changed(const struct node *node, const struct config *before);

/* Publishes the cold part if it has changed. */
void node_publish(struct node *node, const struct node_info *info);

/* Publishes why it is not usable, or what it lacks; "" = all is well. */
void node_set_detail(struct node *node, const char *detail);

/* Publishes the number of its open slots, by the state and the ramp. */
void node_open_slots(struct node *node);

/* Ends a step of its recent figures, and publishes them. */
void node_advance_window(struct node *node);

/* Asks quickly for a while: its state is about to change for the better. */
void node_hurry(struct node *node);

/* Sets the pace of its probe: as the verdict has it, quick while it is new. */
void node_set_pace(struct node *node);

/* A probe that has just been made asks quickly at first. */
void node_begin_eager(struct node *node);

#endif
