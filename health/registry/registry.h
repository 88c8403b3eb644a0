/*
 * registry.h - the service through which nodes join: drover.v1.Registry.
 *
 * One stream a node.  This module reads and writes the messages and checks whom it talks
 * to; lease.h says how joining, silence and leaving count.  The table reports the fate of a
 * node by the node_stream_ops of health/nodes/state.h.  Nothing is allocated for a peer but a
 * small struct until it has proven the join token.
 */
#ifndef DROVER_HEALTH_REGISTRY_H
#define DROVER_HEALTH_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct config;
struct error;
struct loop;
struct registry; /* opaque */
struct snapshot_counts;
struct node_table;

/* Takes over the listening socket.  `config` is borrowed until registry_reload() or the end.
 * DRV_ENOMEM; DRV_EINVAL: TLS files; DRV_ESYS. */
MUST_CHECK int registry_create(struct registry **out, struct loop *loop,
                               struct node_table *table, const struct config *config,
                               int listen_fd, struct error *err);

/* Informs every node that we stop, and closes once all have it or `grace_us` is over; then
 * *done becomes true. */
void registry_stop(struct registry *registry, uint64_t grace_us, bool *done);

/* NULL is allowed.  Before the table. */
void registry_destroy(struct registry *registry);

/* Tokens, lease and heartbeat of another configuration; TLS files and the address stay. */
void registry_reload(struct registry *registry, const struct config *config);

/* Fills the fields that begin with registry_. */
void registry_counts(const struct registry *registry, struct snapshot_counts *out);

#endif
