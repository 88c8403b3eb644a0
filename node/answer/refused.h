/*
 * refused.h - what follows an error of the engine: it passes, it ends the call, or the engine
 * is asked again.
 *
 * The node changes requests: it asks for a stream, for usage, for log probabilities.  Where one
 * of these may be what the engine refuses, it is asked once more without.
 */
#ifndef DROVER_NODE_ANSWER_REFUSED_H
#define DROVER_NODE_ANSWER_REFUSED_H

#include <stdbool.h>

#include "base/attrs.h"

struct node_request;

/* The engine's stream makes no answer, and its client did not ask for a stream: is the engine
 * to be asked once more, as the client asked?  True: refused_apply() does it. */
MUST_CHECK bool refused_unusable(struct node_request *req);

/* The engine answered `http_status`, and `out` is the error's body; its run is over.  True: the
 * request was changed, and its slot taken again, for answer_start().  False: the call has
 * ended. */
MUST_CHECK bool refused_apply(struct node_request *req);

#endif
