/*
 * doubt.h - an answer of another model than the asked one, as far as is known, is held.
 *
 * An engine may be replaced by another within milliseconds, under requests that are on their
 * way; llama-server does not look at the model that a request names.  So an answer under an
 * unexpected name waits for a full look at the engine.  If the engine still has the model, the
 * name is its own (answer_names.h remembers it) and the answer goes on; if it has not, the
 * request fails before the caller has seen anything, and is retried elsewhere.  Some answers
 * have the asked name in any case (llama-server's embeddings): an answer that a full look
 * overtakes, as the first one after a pause, waits for its end, too.
 */
#ifndef DROVER_NODE_ANSWER_DOUBT_H
#define DROVER_NODE_ANSWER_DOUBT_H

struct json_value;
struct node_request;

/* Looks at the name in an answer, or in an event of it.  `req->doubted` afterwards: sender.h
 * sends nothing until it is cleared here. */
void doubt_check(struct node_request *req, const struct json_value *root);

/* The answer is forgotten, and the next one is checked anew. */
void doubt_reset(struct node_request *req);

#endif
