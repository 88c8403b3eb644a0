/*
 * member.h - one node that this process looks after: what is known of it, and its row.
 *
 * A member is a node with a row: from the configuration (static) or joined by itself
 * (registry).  Its state is a verdict (policy/fault/node_state.h).  This module writes what
 * follows from a verdict to the scoreboard and to the log.  It raises no event: table.h takes
 * them all.
 */
#ifndef DROVER_HEALTH_MEMBER_H
#define DROVER_HEALTH_MEMBER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/loop.h"
#include "health/news.h"
#include "health/passive/passive.h"
#include "health/probe.h"
#include "health/window.h"
#include "policy/fault/gauge_audit.h"
#include "policy/fault/node_state.h"
#include "shm/nodes.h"

struct attach;
struct config;
struct scoreboard;
struct source;
struct table;

/* Messages to the registry stream of a node.  Each of these but `drain` ends the stream,
 * and the caller forgets it. */
struct attach_ops {
    /* Another stream took its name: of the `same` instance, or of a newer one. */
    void (*superseded)(struct attach *attach, bool same);
    void (*expired)(struct attach *attach); /* nothing came for too long */
    void (*left)(struct attach *attach);    /* it asked to go, and nothing is open there */
    void (*drain)(struct attach *attach, bool drain); /* by the operator */
};

/* All members of a table share this. */
struct member_home {
    struct loop *loop;                   /* borrowed */
    struct scoreboard *board;            /* borrowed */
    const struct config *config;         /* borrowed: replaced by a reload */
    const struct attach_ops *attach_ops; /* borrowed; NULL while no node can have a stream */
    struct window_sample *sample;        /* borrowed: scratch */
};

struct member {
    struct table *table;            /* borrowed: for callbacks; opaque to member.c */
    const struct member_home *home; /* borrowed: the table's */
    struct member *prev, *next;     /* the table's list */
    unsigned slot;
    uint32_t generation;
    struct node_info info; /* as published */
    struct verdict verdict;
    struct probe *probe;       /* owned; NULL while the address is not known */
    struct window *window;     /* owned */
    uint64_t met_mono_us;      /* when this process first saw it; 0 = it was taken over */
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

/* A row and a member for it, JOINING, in no list yet; NULL when all rows are taken or memory is
 * short. */
struct member *member_create(const struct member_home *home, const struct node_info *info);

/* A member for a row that an earlier health process filled; NULL when memory is short. */
struct member *member_adopt(const struct member_home *home, unsigned slot,
                            const struct node_info *info, const struct node_status *status);

/* Frees one that is in no list.  With `empty` its row is emptied too, else it stays as it is.
 */
void member_destroy(struct member *member, bool empty);

/* Feeds the verdict and publishes what changes.  False: nothing did.  Only for table_event().
 */
bool member_step(struct member *member, enum verdict_event event, enum node_reason why);

/* Publishes the cold part if it differs from what is there. */
void member_publish(struct member *member, const struct node_info *info);

/* Publishes how many of its slots are open: as the state and the ramp have it. */
void member_open_slots(struct member *member);

/* Ends a step of its recent figures, and publishes them. */
void member_advance_window(struct member *member);

/* Asks quickly for a while: its state is about to change for the better. */
void member_hurry(struct member *member);

/* Sets the pace of its probe: as the verdict has it, quick while it is new. */
void member_set_pace(struct member *member);

/* A probe that has just been made asks quickly at first. */
void member_begin_eager(struct member *member);

#endif
