/*
 * token_ids.h - the token ids of an answer, out of the log probabilities that a llama-server
 * was asked for.
 *
 * A text that is cut into tokens again does not always give the tokens it was made of, so an
 * answer that goes on from its text may take another turn than the undisturbed one; one that
 * goes on from its ids does not.  llama-server sends ids only inside "logprobs", so these are
 * asked for and taken out again: the rest of an event is the same to the byte.
 *
 * The ids count only as long as their bytes are the text's: of a character made of several
 * tokens, and of text that was held back for a stop sequence, llama-server sends the last id
 * alone.  From there on they are not known.  Completions only.  Pure.
 */
#ifndef DROVER_NODE_STREAM_TOKEN_IDS_H
#define DROVER_NODE_STREAM_TOKEN_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

struct sse_event;

struct token_ids {
    bool lost;       /* some text had no ids, or not all: nothing is known any more */
    struct buf list; /* owned: uint32_t each, since the last token_ids_taken() */
    struct buf out;  /* owned: the changed event */
    struct buf text, bytes;
};

void token_ids_init(struct token_ids *ids);
void token_ids_finish(struct token_ids *ids);

/* The event without its log probabilities; *out borrows from `in` and from `ids` until the next
 * call.  An event of another kind is left as it is.  DRV_ENOMEM. */
MUST_CHECK int token_ids_event(struct token_ids *ids, const struct sse_event *in,
                               struct sse_event *out);

/* The ids of the text since the last token_ids_taken(); NULL and 0 when they are not known. */
const uint32_t *token_ids_of_text(const struct token_ids *ids, size_t *count);
void token_ids_taken(struct token_ids *ids);

#endif
