/*
 * answer.h - the engine's answer on its way to the caller.
 *
 * Asks the engine and works on its answer until the request ends.
 */
#ifndef DROVER_NODE_ANSWER_H
#define DROVER_NODE_ANSWER_H

struct node_request;

/* Asks the engine, in the slot that is counted already.  The call may have ended afterwards. */
void answer_start(struct node_request *req);

/* Ends a stream with `out` as its last bytes, without an engine. */
void answer_last(struct node_request *req);

#endif
