/*
 * unasked.h - an event that is in a stream only because the node asked for usage.
 *
 * A client that did not ask for usage does not get that event.  But llama-server puts its
 * timings there, which it puts into the event before when no one asks.  Pure.
 */
#ifndef DROVER_NODE_BODY_UNASKED_H
#define DROVER_NODE_BODY_UNASKED_H

#include <stdbool.h>

#include "base/attrs.h"

struct buf;
struct json_value;

/* Appends the members of a usage event that no other event of its stream has, each with a comma
 * before it.  False: there are none. */
MUST_CHECK bool unasked_members(struct buf *out, const struct json_value *root);

#endif
