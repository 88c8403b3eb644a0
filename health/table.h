/*
 * table.h - the nodes this process looks after, and the one place that takes events about them.
 *
 * Every check of a node (its probe, its lease, its registry stream, the resolver of its name,
 * the record of its requests) and every command of the operator ends in table_event().  That
 * function alone moves a verdict and does what follows.  The table knows none of its callers.
 *
 * The configuration (nodes/configured.h) or a lease (registry/lease.h) keeps a member alive.  A
 * member that is GONE stays in the list until the end of the loop's turn, so that its cause can
 * finish; table_find() does not find it any more.
 */
#ifndef DROVER_HEALTH_TABLE_H
#define DROVER_HEALTH_TABLE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/loop.h"
#include "health/member.h"
#include "health/model_shares.h"

struct fence;
struct flap;
struct error;
struct source;

struct table {
    struct member_home home; /* loop, scoreboard, configuration: of all members */
    struct member members;   /* list head; only prev and next are used */
    struct source *sources;  /* of names/names.h, which owns them */
    unsigned count;
    SSL_CTX *registry_tls;  /* owned; to probe nodes that joined with TLS; NULL = cannot */
    uint64_t alive_mono_us; /* end of the last turn of the loop; see lease_check_gap() */
    uint64_t violations;    /* of the gauges, since the start */
    bool leases_held; /* nodes that joined have been sent to another process: none expires */
    uint64_t ejections, spared; /* since the start; see health/passive/passive.h */
    struct timer window_timer, invariant_timer, passive_timer;
    struct fence *fence; /* owned; of registry/lease.c */
    struct flap *flap;   /* owned */
    struct model_shares shares;
    bool shares_known; /* while the records of all nodes are looked at, once they were needed */
    struct window_sample *sample; /* owned; scratch */
};

/* Repairs what an earlier health process may have left half-written, and makes a member of each
 * row that it finds; those who keep members alive take them over.  DRV_ENOMEM; DRV_EINVAL: TLS
 * files. */
MUST_CHECK int table_create(struct table **out, struct loop *loop, struct scoreboard *board,
                            const struct config *config, struct error *err);
/* Leaves the rows as they are.  NULL is allowed. */
void table_destroy(struct table *table);

/* The member of this name that is not GONE, or NULL. */
struct member *table_find(const struct table *table, const char *name);

/* A row and a member for it, JOINING; NULL when the table is full or memory is short. */
struct member *table_add(struct table *table, const struct node_info *info);

/* Ends a member at once; with `empty` its row is emptied too, else it stays as it is. */
void table_remove(struct member *member, bool empty);

/* Feeds the verdict; publishes, logs and acts on what changes. */
void table_event(struct member *member, enum verdict_event event, enum node_reason why);

/* Begins to wait until nothing is open on it, `limit_us` at most (UINT64_MAX: no limit). */
void table_leave(struct member *member, enum node_reason why, uint64_t limit_us);

/* The operator's wish.  DRV_ENOENT: no such node. */
MUST_CHECK int table_drain(struct table *table, const char *name, bool drain);

#endif
