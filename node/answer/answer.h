/*
 * answer.h - the engine's answer on its way to the caller.
 *
 * Asks the engine and works on its answer until the request ends.
 */
#ifndef DROVER_NODE_ANSWER_H
#define DROVER_NODE_ANSWER_H

#include "node/engine/engine.h"

struct node_request;

/* Asks the engine, in the slot that is counted already.  The call may have ended afterwards. */
void answer_start(struct node_request *req);

/* The engine's answer has ended, by itself or because nothing follows it.  The call may have
 * ended afterwards.  `why`: what a broken connection said. */
void answer_end(struct node_request *req, enum engine_end end, const char *why);

/* Ends a stream with `out` as its last bytes, without an engine. */
void answer_last(struct node_request *req);

#endif
