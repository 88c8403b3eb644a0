/*
 * queue.h - the requests of this worker that wait for a place on a node.
 *
 * A request that waits is an entry embedded in its owner: the queue never sees a request.
 * Entries of equal need (model, operation, abilities, exclusions: all that decides which nodes
 * could serve them) stand in one list, in the order of their keys.  A key is a time: the
 * smaller goes first, over all lists and all workers.
 *
 * An entry may be planned on one node (policy/route/hold.h).  That is its owner's knowledge:
 * reach() gives this node alone then, and its need is another.
 *
 * For each node the worker publishes the least key of its entries that the node could serve
 * (worker/queue/announce.h).  A place goes to the entry whose key is the least of the node's
 * row.  So an entry that cannot use a node never blocks one that can, in any list or worker,
 * for any model.
 *
 * A newcomer, a retry and a resume ask queue_rights() with their keys before they choose a
 * node, and have no other right to a place.
 */
#ifndef DROVER_WORKER_QUEUE_H
#define DROVER_WORKER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "shm/share/node_set.h"
#include "worker/queue/announce.h"
#include "worker/queue/rights.h"

struct queue;
struct queue_list;

struct queue_entry {
    struct queue_list *list; /* NULL iff it is not in the queue */
    struct queue_entry *prev, *next;
    uint64_t key;
    uint32_t position; /* in its list, when that was last counted */
    uint32_t priced;   /* the round of pricing in which it was last tried */
    /* W: the owner, before queue_add() and queue_move(); part of the need.  It has a slot in
     * prospect, so it is not before those that wait for one. */
    bool planned;
    bool is_pending; /* it is in queue->pending: */
    TAILQ_ENTRY(queue_entry) in_pending;
};
TAILQ_HEAD(queue_pending, queue_entry);

enum queue_start {
    QUEUE_STARTED = 0, /* the entry has left the queue */
    QUEUE_LOST,        /* another process was faster: the place is gone */
    QUEUE_PLANNED,  /* the entry waits on, for the node of a plan, which may be a new one: the
                     * owner has called queue_move() */
    QUEUE_DECLINED, /* the entry does not use the place; where reach() still names the node,
                     * it is passed over there for QUEUE_DECLINE_US */
};

#define QUEUE_DECLINE_US UINT64_C(10000)

struct queue_reach {
    struct node_set nodes; /* empty before */
    /* When the answer changes by itself; UINT64_MAX (as before) = only when queue_renew() says
     * so. */
    uint64_t until_mono_us;
    uint32_t *generation; /* by node: of the node that is meant, to be set for `nodes` */
};

/* The owner of the entries. */
struct queue_owner {
    /*
     * Chooses a node within the rights, claims a place and starts.  It takes the entry out with
     * queue_remove() if and only if it gives QUEUE_STARTED; it may add and remove others.
     */
    enum queue_start (*start)(struct queue_entry *entry, const struct queue_rights *rights);
    /* The nodes that an entry could use, by facts that only this worker knows: models,
     * operation, abilities, exclusions, pauses, the connection.  All entries of a list have the
     * same. */
    void (*reach)(const struct queue_entry *entry, struct queue_reach *out);
};

struct queue {
    struct loop *loop;
    const struct queue_owner *owner; /* borrowed */
    struct announce announce;
    struct queue_list **lists; /* owned, by the key of their first entry */
    size_t lists_count, lists_cap;
    struct queue_list *bucket[256]; /* the same, by need */
    uint32_t waiting;
    uint32_t renewals;      /* lists that have seen fewer ask reach() again */
    uint64_t until_mono_us; /* when the first answer of reach() changes by itself */
    struct node_set look;   /* nodes to be looked at before the turn ends */
    bool dirty;             /* the words have to be worked out again */
    uint32_t generation[NODE_SET_NODES]; /* of the nodes that something reaches */
    bool price;     /* some are to be looked at for plans and places beyond the slots */
    uint32_t round; /* of pricing */
    uint32_t turn;  /* of the lists in it */
    struct queue_pending pending; /* to be priced as soon as there is time */
    bool passing;                 /* inside the pass at the end of a turn */
    unsigned tries;               /* entries that this pass has tried to start */
    struct deferred turn_end;
    struct timer timer; /* runs while anything waits */
    struct timer again; /* the pass had more to do than fits a turn */
};

/* `wake_fds` (borrowed) has an eventfd per worker, or is NULL.  Nodes have windows of
 * `hold_us`; 0 = they have none.  No request takes a place beyond the slots of a node while an
 * entry waits for that node whose key is lower by more than times->overcommit_us. */
void queue_init(struct queue *queue, struct loop *loop, struct scoreboard *board,
                unsigned worker, const int *wake_fds, uint64_t hold_us,
                const struct route_times *times, const struct queue_owner *owner);
/* The queue is empty by then. */
void queue_finish(struct queue *queue);

/* Puts an entry in, behind those with the same key.  `need`: equal for entries that reach()
 * gives the same nodes for.  Another look at the nodes follows at the end of the turn.
 * DRV_ENOMEM. */
MUST_CHECK int queue_add(struct queue *queue, struct queue_entry *entry, uint64_t need,
                         uint64_t key);
void queue_remove(struct queue *queue, struct queue_entry *entry); /* fine when not in it */
/* The need of an entry has changed; its key has not.  When memory is short it stays where it
 * is. */
void queue_move(struct queue *queue, struct queue_entry *entry, uint64_t need);

/* The plan of an entry is void: it is priced at the end of this turn, or of one of the next if
 * there are many. */
void queue_price(struct queue *queue, struct queue_entry *entry);

/*
 * The places a request with this key may take now.  queue_reach() must be filled in before, as
 * by the owner's reach().  `entry`: itself, if it is in the queue, else NULL.
 */
struct queue_reach queue_reach(struct queue *queue);
void queue_rights(struct queue *queue, const struct queue_entry *entry, uint64_t key,
                  const struct node_set *nodes, struct queue_rights *out);
/* Does nothing wait, here or elsewhere?  Then a request needs no rights, nor its reach(). */
MUST_CHECK bool queue_is_idle(const struct queue *queue);

/* This worker has made room on the node, or may have opened its window, and its gauge says so;
 * or an entry that was planned there has left. */
void queue_room(struct queue *queue, unsigned node);
/* The eventfd of this worker was readable, and has been read: nodes were offered, or, where
 * none was, a worker has died and every node is worth a look. */
void queue_woken(struct queue *queue);
/* The result of reach() may have changed for any entry. */
void queue_renew(struct queue *queue);

/*
 * How many entries of this worker that have no plan would go before a request with this key on
 * its nodes: of every list those with a lower key, each counted by the share of its nodes that
 * are among `nodes`. About, if they are many.  `entry` as in queue_rights().
 */
double queue_ahead(struct queue *queue, const struct queue_entry *entry, uint64_t key,
                   const struct node_set *nodes);

#endif
