/*
 * lease.h - the life of nodes that join by themselves.
 *
 *   heard within two and a half heartbeats    all is well
 *   silent for longer, or stream broken   the lease is lost: DOWN at once
 *   nothing heard for lease_ms            GONE; the node must register anew
 *
 * The same instance that registers again before the end keeps its row; a newer instance of the
 * same name takes its place, and an older one (see fence.h) is refused as long as the name is
 * held.  Time in which this process itself was stopped does not count.
 *
 * A node taken over from an earlier health process has no stream yet: it stays as it was until
 * it attaches again or lease_ms after our start have passed.
 */
#ifndef DROVER_HEALTH_LEASE_H
#define DROVER_HEALTH_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/io/net.h"
#include "proto/drover_common.pb-c.h"

struct node_stream;
struct node;
struct node_info;
struct node_table;

enum lease_answer {
    LEASE_JOINED = 0,
    LEASE_RESUMED,
    LEASE_FULL,     /* no row is free */
    LEASE_RESERVED, /* the name belongs to a node of the configuration */
    LEASE_OLDER,    /* a newer instance holds the name */
};

/* A node that has proven the token.  On JOINED and RESUMED *out is its node and `stream` its
 * stream; an older stream of that name is informed. */
MUST_CHECK enum lease_answer lease_join(struct node **out, struct node_table *table,
                                        const struct node_info *info,
                                        const struct net_addr *addr,
                                        struct node_stream *stream);

/* Any message came on its stream. */
void lease_heard(struct node *node);

/* Its stream ended, for any reason. */
void lease_broken(struct node *node);

/* It asked to go; 0: it did not say how long it waits. */
void lease_leave(struct node *node, uint32_t drain_ms);

/* Adopts the nodes that joined an earlier health process, and starts their clocks. */
void lease_start(struct node_table *table);

/* Call at the end of each turn, and before silence is measured: if the loop has stood still for
 * long, all leases are extended by that time. */
void lease_check_gap(struct node_table *table);

/* Nodes are asked to spread their reconnects over this. */
uint32_t lease_spread_ms(const struct node_table *table);

#endif
