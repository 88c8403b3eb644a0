/*
 * json.h - reading and editing JSON text in place, without a tree.
 *
 * The worker must find a few members of a body it otherwise passes on untouched, and the node
 * must change a few; neither may reformat what the client wrote.  So: json_check() proves once
 * that a text is well-formed (RFC 8259, bounded depth, iteratively), and everything else walks
 * text that has been checked, by spans into it.  Pure; allocates only where it says so.
 *
 * Member names are compared after decoding escapes, so "mod\u0065l" is "model".
 */
#ifndef DROVER_BASE_JSON_H
#define DROVER_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/json_check.h"

struct buf;
struct error;

/*
 * Checks that the whole of text[0..n) is one JSON value, optionally between white space, and
 * stores it in *root.  DRV_EINVAL: not JSON, or nested deeper than JSON_MAX_DEPTH; `err` says
 * at which byte and why ("at byte 17: unexpected end").  A byte-order mark, NUL outside
 * strings, raw control characters in strings and trailing bytes are errors; invalid UTF-8
 * inside strings is not.  `lenient`: NaN, Infinity and -Infinity are numbers, as some engines
 * write them (Python does); they have no value for json_number() and json_uint().
 */
MUST_CHECK int json_check_as(struct json_value *root, const void *text, size_t n, bool lenient,
                             struct error *err);

static inline int json_check(struct json_value *root, const void *text, size_t n,
                             struct error *err)
{
    return json_check_as(root, text, n, false, err);
}

/* Of an engine's text. */
static inline bool json_check_lenient(struct json_value *root, const void *text, size_t n)
{
    return json_check_as(root, text, n, true, NULL) == 0;
}

/* Iterates over the members of an object or the elements of an array, in order.
 * For an array `key` is left JSON_NONE.  Returns false at the end, or for any other type. */
struct json_iter {
    const char *at, *end;
    bool object;
    const struct json_skips *skips; /* the container's */
};
void json_iter_init(struct json_iter *it, const struct json_value *container);
MUST_CHECK bool json_iter_next(struct json_iter *it, struct json_value *key,
                               struct json_value *value);

/* An array or an object that is not empty? */
MUST_CHECK bool json_has_items(const struct json_value *value);

/* The member called `name`, or JSON_NONE.  With duplicates the last one counts, as in the
 * parsers of the engines. */
struct json_value json_get(const struct json_value *object, const char *name);
/* The same for `n` names in one walk, which is what counts where a value is long.  Members
 * beyond JSON_MAX_PICKED are not looked at. */
#define JSON_MAX_PICKED 65536
void json_pick(const struct json_value *object, const char *const *names,
               struct json_value *out, size_t n);

/* Does this string value, decoded, equal `plain`? */
bool json_equal(const struct json_value *string, const char *plain);

/* Iterates over the pieces of a string value's decoded text, without a copy of all of it:
 * UTF-8, a lone surrogate becomes U+FFFD.  *piece is borrowed until the next call.  Returns
 * false at the end, or for any other type. */
struct json_pieces {
    const char *at, *end;
    char bytes[4]; /* of an escape */
};
void json_pieces_init(struct json_pieces *it, const struct json_value *string);
MUST_CHECK bool json_pieces_next(struct json_pieces *it, const char **piece, size_t *n);

/* Decodes a string value: appends its pieces to `out`. */
void json_decode(struct buf *out, const struct json_value *string);

/* Decodes into a fixed buffer, NUL-terminated.  False when it is not a string, does not fit, or
 * contains a NUL, a control character or invalid UTF-8: no good as a name. */
MUST_CHECK bool json_name(char *out, size_t cap, const struct json_value *string);

/* A number value as double / as unsigned integer within [0, max]; false when it is not one. */
MUST_CHECK bool json_number(double *out, const struct json_value *number);
MUST_CHECK bool json_uint(uint64_t *out, const struct json_value *number, uint64_t max);

/* The value of a hexadecimal digit; -1 when it is none. */
int json_hex_value(char c);

/* Appends `n` bytes as a quoted JSON string, escaping as needed.  Invalid UTF-8 becomes U+FFFD.
 */
void json_quote(struct buf *out, const void *bytes, size_t n);
void json_quote_str(struct buf *out, const char *text);

/*
 * One change to the top level of an object: member `name` becomes `value` (JSON text).  An
 * existing member is replaced where it stands (all duplicates of it), a missing one is added at
 * the front; with value NULL it is removed.
 */
struct json_edit {
    const char *name;
    const char *value; /* JSON text, or NULL to remove */
};

#define JSON_MAX_EDITS 64

/* Appends object `root` with the edits applied to `out`; every byte not named by an edit is
 * kept. DRV_EINVAL: root is not an object, or there are more than JSON_MAX_EDITS.  DRV_ENOMEM:
 * out->failed. */
MUST_CHECK int json_edit(struct buf *out, const struct json_value *root,
                         const struct json_edit *edits, size_t n_edits);

#endif
