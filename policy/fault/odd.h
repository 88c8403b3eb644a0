/*
 * odd.h - decides whether a node refuses or answers nothing more often than its peers.  Pure.
 *
 * A request that a node refuses, or answers with nothing, goes to another node; if that one has
 * an answer, the first was contradicted.  One contradiction says little: a model may end at
 * once by chance.  So a node is odd only where its share of contradictions is far beyond that
 * of its best peer of the same model, in the same time.  Where all nodes refuse alike nothing
 * is contradicted, and where all models end at once now and then the shares are alike.
 *
 * A client with odd requests contradicts an engine that is strict, beside one that is lenient.
 * So the word of one client does not count where two others are answered.  One other is no
 * proof: it may be the friend of a node that refuses all the rest.
 */
#ifndef DROVER_POLICY_FAULT_ODD_H
#define DROVER_POLICY_FAULT_ODD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

/* Of one node, within the window. */
struct odd_counts {
    uint32_t answered;
    uint32_t contradicted;
    /* Of these: a bit for each client, or for some together; 0 = not known. */
    uint64_t answered_clients, contradicted_clients;
};

/* A node that answers for fewer than this is not judged, nor a measure for others. */
#define ODD_LEAST 5u
/* The difference to the peer in standard errors: chance has one in 30,000 of that. */
#define ODD_SIGMAS 4.0

/* The better of two measures: the one with the lesser share; one of too few is none. */
struct odd_counts odd_better(struct odd_counts one, struct odd_counts other);

/* Is `node` odd, measured by its best peer?  At least 1 - `success_pct` of its share must be
 * contradicted (0: never). */
MUST_CHECK bool odd_is(struct odd_counts node, struct odd_counts best, uint32_t success_pct);

#endif
