/*
 * refused.h - what follows an error of the engine: it passes, it ends the call, or the engine
 * is asked again.
 *
 * The node changes requests: it asks for a stream, for usage, for log probabilities.  Where one
 * of these may be what the engine refuses, it is asked once more without.  So it is without a
 * stream for which the client asked, where the engine says that it is the stream: the document
 * becomes one (node/answer/as_stream.h).  An engine that has none at all is not asked again
 * for ten minutes, and the caller learns that streams are better had elsewhere.
 */
#ifndef DROVER_NODE_ANSWER_REFUSED_H
#define DROVER_NODE_ANSWER_REFUSED_H

#include <stdbool.h>

#include "base/attrs.h"

struct node_request;

/* The engine's stream makes no answer, and its client did not ask for a stream: is the engine
 * to be asked once more, as the client asked?  True: refused_apply() does it. */
MUST_CHECK bool refused_unusable(struct node_request *req);

/* Makes the request that is about to be sent one for a document, where the engine is known to
 * have no stream of its operation and model.  DRV_ENOMEM, DRV_EINVAL: it cannot be edited. */
MUST_CHECK int refused_unstream(struct node_request *req);

/* The request has a whole document for its answer: if the engine has no stream, the next
 * requests and the caller know.  False: the call has ended. */
MUST_CHECK bool refused_note_unstreamed(struct node_request *req);

/* The engine answered `http_status`, and `out` is the error's body; its run is over.  True: the
 * request was changed, and its slot taken again, for answer_start().  False: the call has
 * ended. */
MUST_CHECK bool refused_apply(struct node_request *req);

#endif
