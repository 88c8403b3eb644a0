/*
 * operations.h - the operations of a kind of engine, and those that one engine turned out not
 * to have.
 *
 * A kind without a fixed list gets every operation of the OpenAI and Anthropic APIs: one that
 * the engine does not have costs a 404 once in a while, one that is never tried is never found.
 * Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_OPERATIONS_H
#define DROVER_NODE_ENGINE_KINDS_OPERATIONS_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

#define OPERATION(name) (UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_##name)

/* Ollama's own API. */
#define OPERATIONS_OLLAMA_API                                                        \
    (OPERATION(OLLAMA_CHAT) | OPERATION(OLLAMA_GENERATE) | OPERATION(OLLAMA_EMBED) | \
     OPERATION(OLLAMA_EMBEDDINGS) | OPERATION(OLLAMA_SHOW))

/* Of a model that only embeds, on an engine that has all operations. */
#define OPERATIONS_EMBEDDING                                                             \
    (OPERATION(EMBEDDINGS) | OPERATION(RERANK) | OPERATION(OLLAMA_EMBED) |               \
     OPERATION(OLLAMA_EMBEDDINGS) | OPERATION(OLLAMA_SHOW) | OPERATION(TOKENIZE) |       \
     OPERATION(DETOKENIZE) | OPERATION(PROPS) | OPERATION(SCORE) | OPERATION(CLASSIFY) | \
     OPERATION(POOLING))

/* The operations that an engine of this kind has or may have, a bit each. */
MUST_CHECK uint32_t operations_of_kind(uint32_t kind);

#define OPERATIONS_MISSING_ROWS 64
#define OPERATIONS_MISSING_US   UINT64_C(600000000) /* then the engine is asked again */

/* Operations that an engine answered with "no such thing"; zeroed = nothing.  When all rows are
 * taken, the oldest is forgotten. */
struct operations_missing {
    struct {
        uint64_t model;         /* hash of its id */
        uint64_t until_mono_us; /* 0 = free */
        uint32_t operation;     /* a bit */
    } rows[OPERATIONS_MISSING_ROWS];
};

/* The engine does not offer `operation` (an enum drover.v1.Operation) for this model. */
void operations_note_missing(struct operations_missing *missing, const char *model,
                             int operation, uint64_t now_mono_us);

/* The operations that are not to be tried on this model now, a bit each. */
MUST_CHECK uint32_t operations_missing_of(const struct operations_missing *missing,
                                          const char *model, uint64_t now_mono_us);

#endif
