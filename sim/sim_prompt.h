/*
 * sim_prompt.h - the canonical prompt: one text that stands for all the input of a request.
 *
 * Each message is its role, a newline, its content and a newline; then comes "assistant" and a
 * newline, and what of the answer the request already holds.  A bare completion is its prompt
 * and nothing else.  The simulated engine's text, token counts and cache blocks come from this
 * text alone.  Pure.
 */
#ifndef DROVER_SIM_PROMPT_H
#define DROVER_SIM_PROMPT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "sim/model/sim_operation.h"

struct buf;
struct error;

struct sim_prompt {
    struct buf *text; /* borrowed: appended to, from its head on */
    size_t answer_at; /* where the answer begins */
    bool known;       /* false: a bare completion, that may hold a part of its answer */
};

/* Appends the canonical prompt of a generating operation.  DRV_EINVAL: the request lacks what
 * the operation needs, `err` has the words for the client; DRV_ENOMEM. */
MUST_CHECK int sim_prompt_build(struct sim_prompt *prompt, enum sim_operation operation,
                                const cJSON *root, struct error *err);

/* Appends the text of a string, or the JSON of anything else. */
void sim_prompt_add(struct buf *out, const cJSON *item);

#endif
