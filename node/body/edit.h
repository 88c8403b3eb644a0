/*
 * edit.h - the few changes the node makes to a client's JSON body before the engine gets it.
 *
 * The engine is always asked for a stream, whatever the client wants: llama-server notices a
 * closed connection only while it streams, and only a stream shows progress.  Pure.
 */
#ifndef DROVER_NODE_BODY_EDIT_H
#define DROVER_NODE_BODY_EDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/json.h"

struct buf;
struct error;
struct splices;

/* A client's body, checked once for all its readers. */
struct edit_source {
    int operation;    /* enum drover.v1.Operation */
    const void *body; /* borrowed */
    size_t n;
    struct json_value root; /* of the body; JSON_NONE: it is a form */
};

/* Checks a body, which must be a JSON object unless the operation takes a form.  DRV_EINVAL,
 * with the place and the reason in `err`. */
MUST_CHECK int edit_check(struct edit_source *out, int operation, const void *body, size_t n,
                          struct error *err);

/*
 * The same for a body that comes in parts, each checked as it comes: bytes[0..n) are what is
 * there, `last`: that is the whole.  It may be destroyed (NULL is allowed) when the source that
 * it gave is not read any more.  DRV_EAGAIN: in order as far as it goes; else as edit_check().
 */
struct edit_checker;
MUST_CHECK struct edit_checker *edit_checker_create(int operation); /* NULL: no memory */
void edit_checker_destroy(struct edit_checker *checker);
MUST_CHECK int edit_checker_go(struct edit_checker *checker, struct edit_source *out,
                               const void *body, size_t n, bool last, struct error *err);

struct edit_options {
    const char *model;        /* "" = keep */
    const char *content_type; /* of the body; needed of a form only, may be NULL */
    bool usage;     /* ask for usage in a stream of chat completions and completions */
    bool no_usage;  /* this engine refuses stream_options: never add it */
    bool token_ids; /* ask for the log probabilities that carry a llama-server's ids */
    bool stream;    /* the client's choice */
};

struct edit_outcome {
    bool streaming;   /* the engine is asked for a stream */
    bool usage_added; /* usage is in the stream only because of us */
    bool usage_asked; /* the client asked for it */
    /* Of the request: prompts in one completion, and `n` choices for each. */
    uint32_t prompts, choices;
};

/*
 * Appends the body with the edits of `opts` to `out`; bytes that no edit names are kept.  In
 * a form only the field "model" is changed, where there is one.  DRV_ENOMEM.
 */
MUST_CHECK int edit_body(struct buf *out, const struct edit_source *source,
                         const struct edit_options *opts, struct edit_outcome *outcome,
                         struct error *err);

/*
 * The same edits as splices of the body, which is not copied and has to stay.  `out` is made
 * here; finish it whatever the result.  DRV_EFULL: there are too many of them (a member that
 * stands there many times); DRV_ENOMEM.
 */
MUST_CHECK int edit_splices(struct splices *out, const struct edit_source *source,
                            const struct edit_options *opts, struct edit_outcome *outcome,
                            struct error *err);

/* Appends the edited body as the client meant it: not streamed.  DRV_EINVAL: it is no JSON
 * object; DRV_ENOMEM. */
MUST_CHECK int edit_unstreamed(struct buf *out, int operation, const void *body, size_t n,
                               bool usage_added);

/* Appends the body without its member `name`.  As edit_unstreamed(). */
MUST_CHECK int edit_without(struct buf *out, const void *body, size_t n, const char *name);

#endif
