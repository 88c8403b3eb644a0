/*
 * prompt.h - a request's prompt as a chain of prefix hashes.  Pure.
 *
 * Two requests can share an engine's prefix cache as far as their prompts are the same from the
 * start.  The canonical prompt is the chat template's input, independent of the JSON's
 * spelling: tools first, then a system text, then role and text of every message in order.  It
 * is cut into windows of a fixed number of bytes; hash i covers windows 0..i, so an equal hash
 * means an equal beginning.  The unfinished last window is left out.  Of a huge prompt only the
 * beginning is looked at closely, so that none takes long.
 */
#ifndef DROVER_POLICY_PROMPT_H
#define DROVER_POLICY_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct json_value;

#define PROMPT_MAX_WINDOWS 1024

struct prompt {
    uint64_t bytes;      /* of the canonical prompt; each picture and sound counts as 4096 */
    uint64_t text_bytes; /* ... without these */
    bool pictures, sounds;
    uint32_t count; /* hashes; windows beyond PROMPT_MAX_WINDOWS are not named */
    uint64_t hash[PROMPT_MAX_WINDOWS];
};

/*
 * Reads the prompt of a checked JSON body.  `model` salts the chain: caches of different models
 * have nothing in common.  window_bytes is at least 64 and at most 65536.
 */
void prompt_read(struct prompt *out, const char *model, const struct json_value *body,
                 uint32_t window_bytes);

/*
 * Bytes per token of a model after an engine has counted `tokens` (more than 0) in a prompt of
 * so many bytes: a moving average, in which a long prompt weighs more.  Ratios below 1 and
 * above 16 are mistakes of the engine's count and are taken for these.
 */
double prompt_learn_ratio(double bytes_per_token, uint64_t bytes, uint32_t tokens);

#endif
