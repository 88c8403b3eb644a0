/*
 * assemble.h - makes the answer that an engine gives without streaming from the one that it
 * streams.
 *
 * Text deltas are concatenated as JSON text, escapes and all, so nothing is decoded and
 * nothing can be lost; members that this file does not know keep the last value an event gave
 * them, byte for byte.  Pure.
 */
#ifndef DROVER_NODE_STREAM_ASSEMBLE_H
#define DROVER_NODE_STREAM_ASSEMBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct assembler;
struct buf;
struct error;
struct json_value;
struct token_usage;

/* More than this in one answer is an engine that does not stop. */
#define ASSEMBLE_MAX_BYTES (64 * 1024 * 1024)

/* For an operation that streams (meter_streams()).  NULL: out of memory. */
MUST_CHECK struct assembler *assembler_create(int operation);
void assembler_destroy(struct assembler *a); /* NULL is allowed */

/* Takes the JSON of the next event, in order, [DONE] and errors left out.  An array is a list
 * of events, and what is neither object nor array holds nothing.  DRV_EINVAL: not what this
 * format may hold; DRV_ETOOBIG; DRV_ENOMEM. */
MUST_CHECK int assembler_add(struct assembler *a, const struct json_value *root);

/* The counts of the answer's usage become these: the engine reported them per choice. */
void assembler_set_usage(struct assembler *a, const struct token_usage *usage);

/* Appends the answer.  DRV_EINVAL: nothing was streamed that could be one; DRV_ENOMEM. */
MUST_CHECK int assembler_write(const struct assembler *a, struct buf *out, struct error *err);

#endif
