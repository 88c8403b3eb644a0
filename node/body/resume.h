/*
 * resume.h - continuing an answer that another node began: which answers can be continued, and
 * the request to the engine that continues one.
 *
 * Only an answer that is nothing but its text can be: one choice, streamed, and no option in
 * the request that makes the engine keep a state beside the text (a grammar, a tool call, log
 * probabilities).  The engine is given the text as the beginning of its own answer.  Pure; the
 * way back is node/stream/splice.h.
 */
#ifndef DROVER_NODE_BODY_RESUME_H
#define DROVER_NODE_BODY_RESUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/json.h"

struct buf;
struct error;

/* Can an answer to this request be continued from its text?  `root` is the client's body; a
 * member that is not known to be harmless in `operation` makes it false. */
MUST_CHECK bool resume_possible(int operation, const struct json_value *root);

/* Does an engine of this kind (enum drover.v1.EngineKind) go on from a text given to it? */
MUST_CHECK bool resume_engine_can(int kind, int operation);

/* Does it go on from token ids, and give them when asked for log probabilities?  The chat
 * endpoints take none, and what a llama-server makes of a chat's output (reasoning, calls,
 * stops of the template) it does not do for completions: so a chat goes on from its text. */
MUST_CHECK bool resume_engine_knows_ids(int kind, int operation);

/* Does such an engine begin by saying the given text again? */
MUST_CHECK bool resume_engine_repeats(int kind, int operation);

/* The length of `text` without U+FFFD at its end.  An engine that had to stop inside a
 * character may have said so with one; the next engine then sends the whole character. */
MUST_CHECK size_t resume_text_len(const char *text);

struct resume_request {
    int operation;
    const char *text; /* the answer so far, UTF-8 */
    size_t text_len;  /* 0: nothing to continue from, only limits change */
    uint32_t tokens;  /* output tokens in it */
    const uint32_t
        *token_ids;         /* the same text as ids that this engine knows: better than text */
    size_t token_ids_count; /* 0: not known */
};

/*
 * Appends the body that asks for the rest to `out`: the text appended, limits of the output
 * less the tokens that were given; all else byte for byte.  *over: a limit is reached, there is
 * no rest (`out` is then of no use).  DRV_EINVAL: not a request for which resume_possible();
 * DRV_ENOMEM.
 */
MUST_CHECK int resume_body(struct buf *out, const struct json_value *root,
                           const struct resume_request *request, bool *over, struct error *err);

/* The end that the client still lacks of an answer that has reached its limit. */
struct resume_last {
    int operation;
    const char *id; /* of the answer */
    uint64_t created;
    uint32_t prompt_tokens, output_tokens;
    const char *text; /* all of the answer; of use for responses, with what follows */
    size_t text_len;
    const char *item_id;
    uint32_t next_sequence;
};

/* Appends the events that end the stream, with usage if the client's body asks for it. */
void resume_last_events(struct buf *out, const struct json_value *root,
                        const struct resume_last *last);

#endif
