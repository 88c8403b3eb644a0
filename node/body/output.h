/*
 * output.h - has an answer any output, and why did it end?  Pure.
 *
 * Output is text, reasoning, a call, a refusal, sound, an image, and whatever member or part is
 * not known here: only what says nothing in every member is no output.
 */
#ifndef DROVER_NODE_BODY_OUTPUT_H
#define DROVER_NODE_BODY_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct json_value;

#define OUTPUT_REASON_BYTES 32

/* Of a message, or a delta of one, of OpenAI's or Ollama's APIs. */
MUST_CHECK bool output_in_message(const struct json_value *message);

/* Of a content block (Anthropic) or an item of output (Responses) of this type, before its
 * text is known. */
MUST_CHECK bool output_in_type(const struct json_value *type);

/* Of a whole answer to an operation that streams (meter_streams()). */
MUST_CHECK bool output_in_answer(int operation, const struct json_value *root);

/* Copies a reason to end, unless it is no word; `out` has OUTPUT_REASON_BYTES. */
void output_take_reason(char *out, const struct json_value *reason);

/* The reason of a whole answer, "" where it has none. */
void output_reason(char *out, int operation, const struct json_value *root);

#endif
