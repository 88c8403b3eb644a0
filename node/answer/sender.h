/*
 * sender.h - the bytes of an answer on their way to the caller.
 *
 * Bytes added in one turn of the loop leave at its end, as one chunk, after the head, unless
 * the answer is doubted (doubt.h); the engine is paused while too much waits.  `out` and what
 * is said of it in the request is written here alone, but for an error's body.
 */
#ifndef DROVER_NODE_ANSWER_SENDER_H
#define DROVER_NODE_ANSWER_SENDER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct engine_header;
struct json_value;
struct node_request;
struct seen;
struct sse_event;

/* Keeps those of the engine's headers that may pass, for the head. */
void sender_keep_headers(struct node_request *req, const struct engine_header *headers,
                         size_t count);

/* Adds bytes to the next chunk.  False: the call has ended. */
MUST_CHECK bool sender_add(struct node_request *req, const void *bytes, size_t n);

/* The same for an event of the answer, which names the model as the client did where it should.
 */
MUST_CHECK bool sender_add_event(struct node_request *req, const struct sse_event *event,
                                 const struct json_value *root);

/* Remembers where the event that was just added, if it ends a choice, may grow; it waits for
 * the next event then. */
void sender_note_end(struct node_request *req, const struct sse_event *event,
                     const struct seen *seen);

/* Takes a usage event that only we asked for: members that it alone has go into the event
 * before, where the engine puts them when no one asks.  False: the call has ended. */
MUST_CHECK bool sender_add_unasked(struct node_request *req, const struct json_value *root);

/* Adds the last event of the format, which the engine still owed when its connection broke or
 * fell silent: clients take a stream without it for cut.  False: the call has ended. */
MUST_CHECK bool sender_add_last(struct node_request *req);

/* Sends at the end of the turn, even if nothing is added. */
void sender_flush_soon(struct node_request *req);

/* Sends what was added.  False: the call has ended. */
MUST_CHECK bool sender_flush(struct node_request *req);

/* The call's send queue has room again: the engine may go on. */
void sender_writable(struct node_request *req);

/* Sends all there is and ends the call well. */
void sender_pass(struct node_request *req);

#endif
