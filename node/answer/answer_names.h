/*
 * answer_names.h - what a model calls itself in answers.
 *
 * Most engines answer with the name that was asked for, or with another that they list.  Some
 * have one of their own: a file's, or one with a date.  The names that have been confirmed once
 * are remembered, so that a new one shows that another engine may have taken the place.  Pure.
 */
#ifndef DROVER_NODE_ANSWER_NAMES_H
#define DROVER_NODE_ANSWER_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct engine_facts;
struct json_value;

#define ANSWER_NAMES_MAX  256 /* the oldest is forgotten */
#define ANSWER_NAMES_VARY 8   /* a model with so many names may have any */

struct answer_names {
    struct {
        uint64_t model, name; /* hashes */
    } pairs[ANSWER_NAMES_MAX];
    uint32_t count; /* ever remembered */
};

/* The name in an answer, or in an event of one, of any surface; "" when there is none.  `out`
 * is cut at `cap`. */
void answer_names_read(char *out, size_t cap, const struct json_value *root);

/* Appends bytes[0..n), in which the answer or event `root` stands, with `name` in the place of
 * each name that answer_names_read() knows.  A name elsewhere in `root` is left as it is. */
void answer_names_replace(struct buf *out, const void *bytes, size_t n,
                          const struct json_value *root, const char *name);

/* May an answer of `model`, asked for as `sent`, have this name?  ("" may be.) */
MUST_CHECK bool answer_names_expect(const struct answer_names *names,
                                    const struct engine_facts *facts, const char *model,
                                    const char *sent, const char *answered);

/* The engine, as it is known now, answers for `model` with this name. */
void answer_names_learn(struct answer_names *names, const char *model, const char *answered);

/* Another engine may come up here. */
void answer_names_forget(struct answer_names *names);

#endif
