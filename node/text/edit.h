/*
 * edit.h - the few changes the node makes to a client's JSON body before the engine gets it.
 *
 * The engine is always asked for a stream, whatever the client wants: llama-server notices a
 * closed connection only while it streams, and only a stream shows progress.  Pure.
 */
#ifndef DROVER_NODE_EDIT_H
#define DROVER_NODE_EDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct error;

struct edit_wishes {
    const char *model;        /* "" = keep */
    const char *content_type; /* of the body; needed of a form only, may be NULL */
    bool usage;     /* ask for usage in a stream of chat completions and completions */
    bool no_usage;  /* this engine refuses stream_options: never add it */
    bool token_ids; /* ask for the log probabilities that a llama-server tells ids with */
    bool stream;    /* what the client asked for */
};

struct edit_outcome {
    bool json;        /* the operation has a JSON body */
    bool streaming;   /* the engine is asked for a stream */
    bool usage_added; /* usage is in the stream only because of us */
};

/*
 * Appends the body with the edits of `wishes` for `operation` to `out`; bytes that no edit
 * names are kept.  In a form only the field "model" is changed, where there is one. DRV_EINVAL:
 * the body is not a JSON object; DRV_ENOMEM.
 */
MUST_CHECK int edit_body(struct buf *out, int operation, const void *body, size_t n,
                         const struct edit_wishes *wishes, struct edit_outcome *outcome,
                         struct error *err);

#endif
