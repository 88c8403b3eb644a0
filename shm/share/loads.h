/*
 * loads.h - at most one load of a model on a node at a time.
 *
 * Sending a request for a model that is not resident makes an engine load it, which takes
 * seconds to minutes.  Before a worker does that it takes a claim, so that the workers
 * together start the load once and let the other requests wait or go elsewhere.  A claim ends
 * by itself after its hold time, and the master takes those of a dead worker back.
 */
#ifndef DROVER_SHM_SHARE_LOADS_H
#define DROVER_SHM_SHARE_LOADS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define LOADS_PER_NODE 8u /* different models being loaded on one node */

/*
 * True: the caller is the one to load the model there, until loads_done() or for `hold_us`.
 * False: another worker is; or the node is busy loading LOADS_PER_NODE other models; or the row
 * has another generation; or, rarely, two tried at the very same moment and both stepped back,
 * so try again at the next occasion.
 */
MUST_CHECK bool loads_claim(struct scoreboard *board, unsigned worker, unsigned node,
                            uint32_t generation, uint64_t model_hash, uint64_t now_mono_us,
                            uint64_t hold_us);
/* Can a claim for the model not be had until another one ends?  Another worker is loading it,
 * or the node is busy loading LOADS_PER_NODE models.  Reads only. */
bool loads_blocked(const struct scoreboard *board, unsigned node, uint32_t generation,
                   uint64_t model_hash, uint64_t now_mono_us);
/* The model is resident, or the load has failed.  Ends the worker's own claim; does nothing
 * when it has none, or not any more. */
void loads_done(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                uint64_t model_hash);

/* W: master, for a worker that is gone. */
void loads_clear_worker(struct scoreboard *board, unsigned worker);

/* W: health, for nodes_claim(). */
void loads_zero(struct scoreboard *board, unsigned node);

#endif
