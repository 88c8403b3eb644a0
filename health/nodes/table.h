/*
 * table.h - the nodes this process looks after, and the one place that takes events about them.
 *
 * Every check of a node (its probe, its lease, its registry stream, the resolver of its name,
 * the record of its requests) and every command of the operator ends in node_table_event().
 * That function alone moves a verdict and does what follows.  The table knows none of its
 * callers.
 *
 * The configuration (nodes/configured.h) or a lease (registry/lease.h) keeps a node alive.  A
 * node that is GONE stays in the list until the end of the loop's turn, so that its cause can
 * finish; node_table_find() does not find it any more.
 */
#ifndef DROVER_HEALTH_NODES_TABLE_H
#define DROVER_HEALTH_NODES_TABLE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "health/model_shares.h"
#include "health/nodes/state.h"

struct fence;
struct flap;
struct noise;
struct error;
struct dns_source;

struct node_table {
    struct node_home home; /* loop, scoreboard, configuration: of all nodes */
    TAILQ_HEAD(, node) nodes;
    struct dns_source *sources; /* of names/names.h, which owns them */
    unsigned count;
    SSL_CTX *registry_tls;  /* owned; to probe nodes that joined with TLS; NULL = cannot */
    uint64_t alive_mono_us; /* end of the last turn of the loop; see lease_check_gap() */
    uint64_t violations;    /* of the gauges, since the start */
    bool leases_held; /* nodes that joined have been sent to another process: none expires */
    uint64_t ejections, kept; /* since the start; see health/ejections.h */
    struct timer recent_stats_timer, gauge_audit_timer, ejections_timer;
    struct fence *fence; /* owned; of registry/lease.c */
    struct flap *flap;   /* owned */
    struct noise *noise; /* owned */
    struct model_shares shares;
    bool shares_known; /* while the records of all nodes are looked at, once they were needed */
    struct recent_stats_sample *sample; /* owned; scratch */
};

/* Repairs what an earlier health process may have left half-written, and makes a node of each
 * row that it finds; leases and static nodes adopt them.  DRV_ENOMEM; DRV_EINVAL: TLS
 * files. */
MUST_CHECK int node_table_create(struct node_table **out, struct loop *loop,
                                 struct scoreboard *board, const struct config *config,
                                 struct error *err);
/* Leaves the rows as they are.  NULL is allowed. */
void node_table_destroy(struct node_table *table);

/* The node of this name that is not GONE, or NULL. */
struct node *node_table_find(const struct node_table *table, const char *name);

/* A row and a node for it, JOINING; NULL when the table is full or memory is short. */
struct node *table_add(struct node_table *table, const struct node_info *info);

/* Ends a node at once; with `empty` its row is emptied too, else it stays as it is. */
void table_remove(struct node *node, bool empty);

/* Feeds the verdict; publishes, logs and acts on what changes. */
void node_table_event(struct node *node, enum node_event event, enum node_reason why);

/* Begins to wait until nothing is open on it, `limit_us` at most (UINT64_MAX: no limit). */
void table_leave(struct node *node, enum node_reason why, uint64_t limit_us);

/* The operator's command.  DRV_ENOENT: no such node. */
MUST_CHECK int node_table_drain(struct node_table *table, const char *name, bool drain);

#endif
