/*
 * json_check.h - checks that a text is JSON, in one go or in pieces, and remembers where its
 * long values end.
 *
 * A walk over a checked text passes what it does not want byte by byte, and a body may have a
 * hundred megabytes.  So a check can stop after any byte and go on later, and it can list the
 * values that are long to pass: a walk that has the list jumps over them.  Pure; only the list
 * allocates.
 */
#ifndef DROVER_BASE_JSON_CHECK_H
#define DROVER_BASE_JSON_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;

#define JSON_MAX_DEPTH 64

enum json_type {
    JSON_NONE = 0, /* the harmless value: no such member */
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
};

/* One value inside a checked text: `text` is borrowed and not NUL-terminated; strings include
 * their quotes, objects and arrays their brackets. */
struct json_value {
    enum json_type type;
    const char *text;
    size_t len;
    const struct json_skips *skips; /* borrowed; NULL = none */
};

/* A value is listed when it has so many bytes that no listed value within it has. */
#define JSON_SKIP_BYTES ((size_t)4 * 1024)

/* The long values of one text, in the order of their beginnings. */
struct json_skips {
    struct json_skip {
        size_t from, to;
    } * list; /* owned */
    size_t count, cap;
    const char *text; /* borrowed; set when the check is done */
};

void json_skips_finish(struct json_skips *skips);
/* Where the value that begins at `at` ends, or NULL when it is not listed. */
MUST_CHECK const char *json_skips_find(const struct json_skips *skips, const char *at);

enum json_check_state {
    JSON_CHECK_VALUE = 0,  /* a value comes */
    JSON_CHECK_FIRST_ITEM, /* ... or the end of the array */
    JSON_CHECK_FIRST_KEY,  /* a member's name comes, or the end of the object */
    JSON_CHECK_KEY,        /* a member's name comes */
    JSON_CHECK_IN_KEY,     /* in it */
    JSON_CHECK_COLON,      /* behind it */
    JSON_CHECK_IN_STRING,  /* in a string that is a value */
    JSON_CHECK_AFTER,      /* behind a value that is inside another */
    JSON_CHECK_END,        /* behind the whole */
};

struct json_checker {
    struct json_skips *skips; /* borrowed; NULL: none are listed */
    bool lenient;
    enum json_check_state state;
    size_t done;         /* bytes of the text */
    size_t root, string; /* where these begin */
    unsigned depth;
    uint64_t objects; /* bit (depth - 1): the innermost open container is an object */
    struct {
        size_t from;
        size_t listed; /* bytes of the listed values in it */
    } open[JSON_MAX_DEPTH];
    const char *why; /* set on failure */
};

/* Of the value that begins so, in checked text. */
static inline enum json_type json_type_of(char first)
{
    switch (first) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default: /* a byte, not an enum */
        return JSON_NUMBER;
    }
}

/* `skips`, if any, is zero; `lenient` as of json_check_as(). */
void json_checker_init(struct json_checker *checker, struct json_skips *skips, bool lenient);

enum json_checked {
    JSON_CHECKED = 0, /* the text is JSON */
    JSON_CHECK_MORE,  /* ... as far as it goes */
    JSON_CHECK_BAD,   /* it is not */
};

/* Goes on to the end of text[0..n), which begins with all that there was at the last call; it
 * may have moved.  `last`: that is the whole text.  `err` is set with JSON_CHECK_BAD, *root
 * with JSON_CHECKED. */
MUST_CHECK enum json_checked json_checker_go(struct json_checker *checker, const void *text,
                                             size_t n, bool last, struct json_value *root,
                                             struct error *err);

#endif
