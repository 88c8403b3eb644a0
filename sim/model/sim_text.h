/*
 * sim_text.h - the words of the simulated engine.
 *
 * A text is a sequence of tokens that depends on the model and the prompt alone, so that every
 * node gives the same answer to the same request, and so that an answer cut anywhere between
 * two tokens can be continued by any node: sim_text_find() gives the place in its text of a
 * prompt that already ends in a part of an answer.
 *
 * The tokens are Latin filler words, each with its space in front, and punctuation.  No token
 * has a space inside, so a text falls into tokens in one way only.  Pure.
 */
#ifndef DROVER_SIM_TEXT_H
#define DROVER_SIM_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;

struct sim_token {
    const char *text; /* plain UTF-8, static */
    const char *json; /* the same escaped for the inside of a JSON string, static */
    uint8_t text_len, json_len;
};

/* One text; a value. */
struct sim_text {
    uint64_t key;
    bool bare_first; /* token 0 has no space in front: it starts a message */
};

/* Token number `index` of the text. */
struct sim_token sim_text_token(const struct sim_text *text, uint32_t index);

/* Its id in the vocabulary; and the token of an id, empty when there is none. */
uint32_t sim_text_id(const struct sim_text *text, uint32_t index);
struct sim_token sim_text_of_id(uint32_t id);
/* The number of ids. */
uint32_t sim_text_ids(void);

/* The place to continue at. */
struct sim_place {
    struct sim_text text;
    uint32_t index; /* first token to give */
    uint32_t skip;  /* bytes of its plain text that the prompt has already */
};

/*
 * Finds the text that follows prompt[0..len) for `model`, and the place in it.
 *
 * `answer_at` <= len is where the answer begins, when the caller knows it (a chat): what stands
 * there is a part of the answer to prompt[0..answer_at), or, when it is not a beginning of that
 * answer, foreign text that changes what follows.  With `known` false (a bare completion) the
 * answer may have begun anywhere from `answer_at` on, and the earliest place that fits counts.
 * So f(P) starting with T implies that f(PT) goes on right after T.
 */
struct sim_place sim_text_find(const char *model, const void *prompt, size_t len,
                               size_t answer_at, bool known);

/* The text of a whole answer: `count` tokens from `place` on; plain, or escaped for JSON. */
void sim_text_add(struct buf *out, const struct sim_place *place, uint32_t count, bool json);

/* The part of a token that is new at `place` when it is the token of place->index; escaping
 * stays right because the tokens that need it are never split. */
struct sim_token sim_text_first(const struct sim_place *place);

#endif
