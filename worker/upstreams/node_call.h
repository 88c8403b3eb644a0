/*
 * node_call.h - one Infer call to one node, and the rules of its event stream.
 *
 * It turns the wire into six callbacks and checks the node's promises (head once and first,
 * finish last, byte count right); a node that breaks one has failed, and later messages do not
 * change that.  It knows nothing of clients, retries or gauges.
 */
#ifndef DROVER_WORKER_NODE_CALL_H
#define DROVER_WORKER_NODE_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "worker/api/surface.h"

struct node_call; /* opaque */
struct config;
struct error;
struct upstream;
struct client_request;
struct wire_arena;

/* Messages are borrowed for the callback.  A callback may call node_call_cancel(). */
struct node_call_events {
    void (*on_accepted)(void *data, const Drover__V1__Accepted *accepted);
    void (*on_head)(void *data, const Drover__V1__ResponseHead *head);
    void (*on_chunk)(void *data, const Drover__V1__Chunk *chunk);
    /* Why there is no answer, before the event that ends it.  May be NULL. */
    void (*on_cause)(void *data, const Drover__V1__Cause *cause);
    void (*on_finish)(void *data, const Drover__V1__Finish *finish);
    /* Exactly once, unless node_call_cancel() came first; the call is freed afterwards.
     * result->status is GRPC_OK only when on_finish came before. */
    void (*on_end)(void *data, const struct call_result *result);
};

struct node_call_options {
    uint32_t number;            /* 0 = first */
    const char *model;          /* as the node calls it */
    uint32_t prompt_tokens;     /* estimate, for the node */
    const char *resume_text;    /* to go on with an answer that another node began; else NULL */
    uint32_t resume_tokens;     /* output tokens in it */
    const uint32_t *resume_ids; /* the same as token ids, if known; else NULL */
    size_t resume_ids_count;
    uint64_t vocabulary;     /* of the ids */
    const char *response_id; /* to keep, with `created` */
    uint64_t created;
    const char *item_id;    /* RESPONSES: likewise */
    uint32_t next_sequence; /* RESPONSES: of the first event that follows */
    const struct config *config;
    struct wire_arena *arena; /* borrowed: shared by all attempts of the process */
};

/* Starts it.  Holds on to the node until it ends.  DRV_ENOMEM. */
MUST_CHECK int node_call_start(struct node_call **out, struct upstream *node,
                               const struct client_request *request,
                               const struct node_call_options *options,
                               const struct node_call_events *events, void *data,
                               struct error *err);

/* At most so many bytes is the message that starts it, without a text to go on from. */
uint64_t node_call_message_bytes(const struct client_request *request);

/* Bytes of the body that still lie where the request has them: it must not be freed before. */
size_t node_call_unsent(const struct node_call *nc);

/* Did it end because the message, of at most so many bytes, is larger than the node takes?  A
 * full node says when to come back; gRPC libraries answer a message beyond their limit with the
 * same status and without that. */
bool node_call_is_too_large(const struct call_result *result, uint64_t message_bytes);

/* Did it end without the node having had the request: no connection, or the call was not taken?
 */
bool node_call_is_unseen(const struct call_result *result);

/* The client's error for a call that ended without a whole answer, if no other node helps. */
enum api_error node_call_error(const struct call_result *result);

/* Cancels the call at the node, and frees.  NULL is allowed. */
void node_call_cancel(struct node_call *nc);

/* Message bytes that came and were not given back; gives all of them back, so that the node may
 * send as many more.  Until then at most one stream window (256 KiB) is under way. */
size_t node_call_unreleased(const struct node_call *nc);
void node_call_release(struct node_call *nc);

#endif
