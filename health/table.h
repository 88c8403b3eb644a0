/*
 * table.h - the nodes this process looks after, and their rows in the scoreboard.
 *
 * A member is a node with a row: from the configuration (static) or joined by itself
 * (registry). Its state is a verdict (policy/fault/node_state.h); member_event() is the only
 * way to change it and the only place that writes states to the scoreboard.  What keeps a
 * member alive: the configuration, or its lease (lease.h).
 *
 * A member that is GONE stays in the list until the end of the loop's turn, so that whoever
 * caused it can finish; table_find() does not find it any more.
 */
#ifndef DROVER_HEALTH_TABLE_H
#define DROVER_HEALTH_TABLE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/loop.h"
#include "base/net.h"
#include "health/news.h"
#include "health/passive/passive.h"
#include "health/probe.h"
#include "health/window.h"
#include "policy/fault/gauge_audit.h"
#include "policy/fault/node_state.h"
#include "shm/nodes.h"

struct attach;
struct fence;
struct flap;
struct config;
struct config_node;
struct error;
struct source;
struct scoreboard;
struct table;

struct member {
    struct table *table;
    struct member *prev, *next;
    unsigned slot;
    uint32_t generation;
    struct node_info info; /* as published */
    struct verdict verdict;
    struct probe *probe;       /* owned; NULL while the address is not known */
    struct window *window;     /* owned */
    uint64_t met_mono_us;      /* when this process first saw it */
    uint64_t load_seq;         /* of the last report taken */
    uint64_t load_mono_us;     /* when that was; 0 = never */
    enum node_reason load_bad; /* why it cannot serve, by that report; NODE_REASON_NONE */
    struct news said_probe, said_load, said_description; /* what the log has of its failures */
    unsigned eager_left; /* quick probes it may still have before the steady pace */
    bool replaced;       /* a reload gives its name to another: not for long */
    bool adopted;        /* an earlier health process let it in */
    struct invariant invariant;
    struct passive passive;
    struct deferred burial; /* queued iff GONE */

    /* Leaving: the scoreboard is looked at until nothing is open there. */
    struct timer idle_timer;
    unsigned idle_looks;       /* in a row */
    uint64_t leave_by_mono_us; /* UINT64_MAX = no limit */

    /* Static members. */
    char *config_name;     /* owned; of its entry in the configuration */
    struct source *source; /* borrowed; NULL = its address is in the configuration */
    SSL_CTX *tls;          /* owned */
    char *tls_name;        /* owned */

    /* Registry members; see lease.h. */
    struct attach *attach; /* borrowed: its stream; NULL = none */
    struct timer lease_timer;
    uint64_t heard_mono_us; /* when its last message came */
};

struct table {
    struct loop *loop;           /* borrowed */
    struct scoreboard *board;    /* borrowed */
    const struct config *config; /* borrowed: replaced by table_reload() */
    struct member members;       /* list head; only prev and next are used */
    struct source *sources;      /* owned list; see health/names/names.h */
    unsigned count;
    SSL_CTX *registry_tls;  /* owned; to probe nodes that joined with TLS; NULL = cannot */
    uint64_t alive_mono_us; /* end of the last turn of the loop; see lease_check_gap() */
    uint64_t violations;    /* of the invariant, since the start */
    bool leases_held; /* nodes that joined have been sent to another process: none expires */
    uint64_t ejections, spared; /* since the start; see health/passive/passive.h */
    struct timer window_timer, invariant_timer, passive_timer;
    struct fence *fence;          /* owned */
    struct flap *flap;            /* owned */
    struct window_sample *sample; /* owned; scratch */
};

/*
 * Repairs what an earlier health process may have left half-written, takes over the rows it
 * finds, and adds the static nodes.  Nothing is probed before the loop turns.  DRV_ENOMEM;
 * DRV_EINVAL: TLS files.
 */
MUST_CHECK int table_create(struct table **out, struct loop *loop, struct scoreboard *board,
                            const struct config *config, struct error *err);
/* Leaves the rows as they are.  NULL is allowed. */
void table_destroy(struct table *table);

/* Takes another configuration, which must outlive the table or the next reload: new static
 * nodes come, missing ones drain and go, changed ones change, the others are left in peace. */
void table_reload(struct table *table, const struct config *config);

/* The member of this name that is not GONE, or NULL. */
struct member *table_find(const struct table *table, const char *name);

/* The operator's wish.  DRV_ENOENT: no such node. */
MUST_CHECK int table_drain(struct table *table, const char *name, bool drain);

/* ---- for member.c, names.c, lease.c, registry.c and table.c ------------------------------ */

/* A new member for entry `index` of the configuration, called `name`, which still needs an
 * address; NULL when there is no room. */
struct member *table_add_static(struct table *table, unsigned index, const char *name);

/* Reads a node's totals into table->sample. */
void table_sample(struct table *table, unsigned slot);

/* A row and a member for it, JOINING; NULL when the table is full or memory is short. */
struct member *member_create(struct table *table, const struct node_info *info);

/* A member for a row that an earlier health process filled; NULL when memory is short. */
struct member *member_adopt(struct table *table, unsigned slot, const struct node_info *info,
                            const struct node_status *status);

/* Feeds the verdict; publishes, logs and acts on what changes. */
void member_event(struct member *member, enum verdict_event event, enum node_reason why);

/* Publishes the cold part if it differs from what is there. */
void member_publish(struct member *member, const struct node_info *info);

/* Starts (again) to probe `addr`. */
void member_probe(struct member *member, const struct net_addr *addr);

/* Takes a load report: to the scoreboard, and the node at its word if it cannot serve. */
void member_load(struct member *member, const Drover__V1__LoadReport *load);

/* Ends a member at once; with `empty` its row is emptied too, otherwise it stays as it is. */
void member_destroy(struct member *member, bool empty);

/* Begins to wait until nothing is open on it, `limit_us` at most (UINT64_MAX: no limit). */
void member_leave(struct member *member, enum node_reason why, uint64_t limit_us);

#endif
