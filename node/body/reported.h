/*
 * reported.h - the error that an engine's body, or an event of it, reports, whatever the status
 * of the answer.
 *
 * Fills in the engine's words, which may be empty, and the HTTP status that they name, or 0.
 * Pure.
 */
#ifndef DROVER_NODE_BODY_REPORTED_H
#define DROVER_NODE_BODY_REPORTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct json_value;

/* Does the JSON report a failure? */
MUST_CHECK bool reported_in(const struct json_value *root, char *text, size_t cap,
                            uint32_t *status);

/* Has this choice of an answer failed, or one of them?  `given`: output came before; an answer
 * that was aborted without any is none. */
MUST_CHECK bool reported_in_choice(const struct json_value *choice, bool given, char *text,
                                   size_t cap, uint32_t *status);
MUST_CHECK bool reported_in_choices(const struct json_value *root, char *text, size_t cap,
                                    uint32_t *status);

/* The JSON is an error, as something else than itself says. */
void reported_as_error(const struct json_value *root, char *text, size_t cap, uint32_t *status);

/* The engine's words in an error body of any surface; falls back to the start of the bytes
 * themselves.  True when it is JSON with an error in it. */
bool reported_text(const void *body, size_t n, char *text, size_t cap, uint32_t *status);

#endif
