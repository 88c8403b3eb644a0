/*
 * calls.h - the tool calls of one choice, put together from the deltas of a stream.
 *
 * Engines disagree on how a call begins.  Most count with "index"; some give every call index
 * 0, or none, and only the id or the name shows that another call has begun.  So a delta goes
 * on with the call of its id, else with the last of its index, unless that has another id, or
 * its arguments are whole and the delta brings another name or more arguments.  Pure.
 */
#ifndef DROVER_NODE_STREAM_CALLS_H
#define DROVER_NODE_STREAM_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "node/body/fields.h"

#define CALLS_MAX 256

/* How far the arguments, a JSON object in pieces, have come. */
struct call_arguments {
    unsigned depth;
    bool in_string, escaped;
    bool whole; /* the outermost bracket was closed */
};

/* {"id","type","function":{"name","arguments"}} */
struct tool_call {
    uint64_t index; /* as the engine counts */
    struct fields members;
    struct fields function;
    struct call_arguments arguments;
};

struct calls {
    struct tool_call *list; /* owned; in the order in which they began */
    size_t count;
};

void calls_finish(struct calls *calls);

/* Takes one element of a delta's "tool_calls".  DRV_EINVAL: too many calls; DRV_ENOMEM. */
MUST_CHECK int calls_add(struct calls *calls, const struct json_value *delta);

/* Appends the calls as a JSON array. */
void calls_write(const struct calls *calls, struct buf *out);

/* Takes a function's name and arguments, or what there is of them: `arguments` grow.
 * DRV_ENOMEM. */
MUST_CHECK int calls_add_function(struct fields *function, const struct json_value *delta);

#endif
