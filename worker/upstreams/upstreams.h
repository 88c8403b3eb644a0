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
#include "base/hash.h"
#include "shm/facts/nodes.h"
#include "worker/upstreams/model.h"

struct config;
struct error;
struct upstreams; /* opaque */
struct attempt;
struct loop;
struct scoreboard;

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
 * serve (base/model_name.h), or the one that differs by a ":latest" at the end alone. */
void upstreams_settle_name(struct upstreams *upstreams, char model[NODE_MODEL_BYTES]);
/* Makes of the name that a client sent the id of the model that it is to have, by the
 * configuration's aliases: a model's own name goes before an alias that ends in '*', and after
 * any other.  Returns how many models the alias has, of which a node is asked for its own; 0:
 * it is no alias. */
unsigned upstreams_resolve(struct upstreams *upstreams, char model[NODE_MODEL_BYTES]);
/* The configuration that they were made with. */
const struct config *upstreams_config(const struct upstreams *upstreams);
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
bool upstreams_drains(const struct upstream *node);

/* Is it the node with this hash of its name?  0: any is. */
static inline bool upstreams_is_holder(const struct upstream_server *server, uint64_t holder)
{
    return holder == 0 || hash_text(server->node->info.name) == holder;
}

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
