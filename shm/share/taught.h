/*
 * taught.h - what the refusals of the last minutes taught about nodes.
 *
 * A node that refuses a request for what its engine lacks (base/kinds.h, enum ability) teaches
 * all workers at once.  A lesson is about one model of one node generation, and is forgotten
 * after TAUGHT_US: the engine may have been started anew.  A node has TAUGHT_PER_NODE lessons;
 * of more the oldest go.
 */
#ifndef DROVER_SHM_SHARE_TAUGHT_H
#define DROVER_SHM_SHARE_TAUGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"

struct scoreboard;

#define TAUGHT_PER_NODE 32u
#define TAUGHT_US       UINT64_C(600000000)

/* A figure that is at most such a part above the known one is the known one. */
#define TAUGHT_FIGURE_PART 16u

/* Added to an operation: a lesson about its streamed form alone. */
#define TAUGHT_STREAM 32u

/* The subject of a lesson. */
struct lesson {
    uint64_t model_hash;
    enum ability ability;
    uint32_t detail; /* OPERATION: which; else 0 */
};

/* `figure`: of CONTEXT tokens that the node has, of MESSAGE_BYTES bytes that it refused;
 * else 1. Ignored when the row has another generation. */
void taught_note(struct scoreboard *board, unsigned node, uint32_t generation,
                 const struct lesson *lesson, uint32_t figure, uint64_t now_mono_us);

/* The figure; 0 = nothing was taught, or it is forgotten.  A lesson brings *until_mono_us
 * forward to when it will be. */
uint32_t taught_find(const struct scoreboard *board, unsigned node, uint32_t generation,
                     const struct lesson *lesson, uint64_t now_mono_us,
                     uint64_t *until_mono_us);

/* The node has shown the contrary.  False: there was no such lesson. */
bool taught_forget(struct scoreboard *board, unsigned node, uint32_t generation,
                   const struct lesson *lesson);

/* Was anything taught about the node that is not forgotten yet? */
MUST_CHECK bool taught_any(const struct scoreboard *board, unsigned node, uint32_t generation,
                           uint64_t now_mono_us);

/* Moves with every lesson that says something new: a reader's copies may be wrong then. */
uint64_t taught_epoch(const struct scoreboard *board);

/* W: health, for nodes_claim(), and when the node's engine says something new. */
void taught_zero(struct scoreboard *board, unsigned node);

#endif
