/*
 * patience.h - how long the engine may be silent while it answers.
 *
 * node/silence.h decides; here is the timer that asks it, and what follows: the engine's life
 * is reported to the caller, the answer is over where nothing can follow, or the request fails.
 */
#ifndef DROVER_NODE_ANSWER_PATIENCE_H
#define DROVER_NODE_ANSWER_PATIENCE_H

#include <stdint.h>

#include "node/engine/engine.h"

struct node_request;

/* `over` ends the answer, as the end of the engine does.  From now on until the request drops
 * its run.  The call may have ended afterwards. */
typedef void (*patience_over_cb)(struct node_request *req, enum engine_end end,
                                 const char *why);
void patience_start(struct node_request *req, patience_over_cb over);

/* Output came, of so many tokens.  The limit changes with the first of it. */
void patience_content(struct node_request *req, uint32_t tokens);

/* The engine has said its end: soon the answer is over if nothing follows. */
void patience_ends(struct node_request *req);

#endif
