/*
 * empty.h - is an answer without output right, because the request or its end explains that?
 * Pure.
 *
 * An engine that is wrong and fast gives whole answers with nothing in them.  But a model may
 * be asked for nothing, end at once at a stop sequence, or give what is not text.  An answer
 * that is not explained is tried on another node, so what is explained here costs an engine
 * that lies its detection, and what is not costs an honest one a second run.
 *
 *   it is explained where                                         for example
 *   -----------------------------------------------------------   ---------------------------
 *   its reason to end says so                                     content_filter, tool_calls
 *   ... a limit, and the engine counted output                    length
 *   no output is wanted                                           "max_tokens": 0
 *   nothing is asked: the model is only to be loaded or unloaded  "messages": [], no prompt
 *   a gap is filled, which may need nothing                       "suffix"
 *   the answer's beginning, or a tool's result, is the last word  {"role": "assistant"}, "tool"
 *   there are stop sequences, and the engine counted output       "stop": ["\n"]
 */
#ifndef DROVER_POLICY_FAULT_EMPTY_H
#define DROVER_POLICY_FAULT_EMPTY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct json_value;

/* `body`: the request's, checked.  `reason`: the answer's own, as its engine spells it; "" or
 * any word that is not known here explains nothing.  `output_tokens`: as the engine counted. */
MUST_CHECK bool empty_is_explained(const struct json_value *body, const char *reason,
                                   uint32_t output_tokens);

#endif
