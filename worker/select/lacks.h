/*
 * lacks.h - what a request needs, which nodes lack it, and what a refusal teaches.
 *
 * Rank and score of a node are policy/route/abilities.h's.  This file brings together the
 * request, the nodes of its model, and the lessons in the scoreboard.
 */
#ifndef DROVER_WORKER_SELECT_LACKS_H
#define DROVER_WORKER_SELECT_LACKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct attempt;
struct prompt;
struct request;
struct select_request;
struct upstream_model;

/* Fills req->need.  `prompt` may be NULL: the body is no JSON. */
void lacks_read(struct request *req, const struct prompt *prompt);

/* Sets what the choice of a node has to heed: `need` and `most_score`. */
void lacks_bar(const struct request *req, const struct upstream_model *model,
               struct select_request *out);

/* The attempt's node has refused the request for attempt->cause, or has only made a stream of a
 * document, as that says: all workers learn it. */
void lacks_learn(struct attempt *attempt);

/* The attempt's node answers: it has what the request needs, whatever it once refused. */
void lacks_unlearn(struct attempt *attempt);

/* Is there a node for the request that is away, and that may have what it needs? */
MUST_CHECK bool lacks_is_away(const struct request *req);

/* The largest context of the nodes of its model; 0 = not known. */
uint32_t lacks_most_context(const struct request *req);

#endif
