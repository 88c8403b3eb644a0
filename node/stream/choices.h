/*
 * choices.h - the choices of one answer: which have ended, and the usage of each.
 *
 * An engine that is given several prompts, or `n`, may report usage once for all of them, or
 * once per choice: inside the event that ends the choice, or in an event of its own that
 * follows it (llama-server does both).  The usage of the answer is then the sum; the prompt of
 * `n` choices counts once.  Pure.
 */
#ifndef DROVER_NODE_STREAM_CHOICES_H
#define DROVER_NODE_STREAM_CHOICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

#define CHOICES_MAX 4096

struct token_usage {
    uint32_t prompt_tokens; /* cached ones included */
    uint32_t cached_prompt_tokens;
    uint32_t output_tokens;
};

struct choice_state {
    bool named, ended, has_usage;
    bool reasoned;            /* it has had a finish reason, though output may have followed */
    struct token_usage usage; /* the last that was reported for it */
};

struct choices {
    struct choice_state *list; /* owned */
    size_t count;              /* of `list` */
    uint32_t expected;         /* as the request asks for; 0 = not known */
    uint32_t per_prompt;       /* of them for each prompt; at least 1 */
    uint32_t named, ended, reasoned;
    uint32_t last_ended; /* index */
    bool has_inside;     /* usage came inside of a choice's event */
    bool failed;         /* out of memory, or too many choices: nothing is known any more */
};

void choices_init(struct choices *c);
void choices_finish(struct choices *c);

/* The choices that the request asks for; 0 of either counts as 1. */
void choices_expect(struct choices *c, uint32_t prompts, uint32_t per_prompt);

/* An event names the choice; it has its finish reason if `ended`, and `output`, which takes an
 * earlier reason back: the choice goes on. */
void choices_note(struct choices *c, uint32_t index, bool ended, bool output);

/* Has every choice that was named or is expected its finish reason?  False without any. */
MUST_CHECK bool choices_all_ended(const struct choices *c);

/* Likewise with reasons that output took back: if no more follows they were no mistake. */
MUST_CHECK bool choices_all_reasoned(const struct choices *c);

/* Usage inside of the event of choice `index`, or in an event without choices. */
void choices_usage(struct choices *c, uint32_t index, const struct token_usage *usage);
void choices_usage_apart(struct choices *c, const struct token_usage *usage);

/* Adds the usage up when it was reported per choice.  False: there is at most one report, and
 * *sum is left alone. */
MUST_CHECK bool choices_sum(const struct choices *c, struct token_usage *sum);

#endif
