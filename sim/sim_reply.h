/*
 * sim_reply.h - how a text becomes the events of a stream, or one answer.
 *
 * All that an event holds beside its token is prepared once a run, so that a token costs three
 * copies.  Pure.
 */
#ifndef DROVER_SIM_REPLY_H
#define DROVER_SIM_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "sim/model/sim_text.h"
#include "sim/sim_answer.h"
#include "sim/sim_request.h"

struct sim_reply {
    const struct sim_request *request; /* borrowed */
    const struct sim_ident *ident;     /* borrowed */
    const char *before;                /* static: an event up to the token's text */
    size_t before_len;
    struct buf after;         /* owned: and what comes after it */
    size_t tail_at, tail_len; /* inside `after`: the members that every event has */
    uint32_t sequence;        /* of the events of RESPONSES */
};

/* The figures of a run that ends. */
struct sim_outcome {
    uint32_t cached_tokens;
    uint32_t output_tokens;
    uint64_t prompt_us, output_us; /* time in prefill and decode, queueing not included */
};

/* Prepares the events.  DRV_ENOMEM. */
MUST_CHECK int sim_reply_init(struct sim_reply *reply, const struct sim_request *request,
                              const struct sim_ident *ident);
void sim_reply_finish(struct sim_reply *reply);

const char *sim_reply_content_type(const struct sim_reply *reply);

/* The parts of a streamed answer: before the first token, each token, after the last. */
void sim_reply_open(struct sim_reply *reply, struct buf *out, uint32_t cached_tokens);
void sim_reply_token(struct sim_reply *reply, struct buf *out, uint32_t index);
void sim_reply_close(struct sim_reply *reply, struct buf *out,
                     const struct sim_outcome *outcome);

/* The whole answer of a request that wants no stream. */
void sim_reply_whole(struct sim_reply *reply, struct buf *out,
                     const struct sim_outcome *outcome);

/* An error inside a stream that has begun. */
void sim_reply_error(struct sim_reply *reply, struct buf *out, const char *message);

#endif
