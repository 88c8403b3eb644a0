/*
 * fields.h - a JSON object under construction: members in order, each with its value as JSON
 * text, as a string that grows, or as an array that grows.  Pure.
 */
#ifndef DROVER_NODE_BODY_FIELDS_H
#define DROVER_NODE_BODY_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "base/text/json.h"

#define FIELDS_MAX 64 /* members of one object; more are refused */

enum field_kind {
    FIELD_RAW = 0, /* `value` is JSON text */
    FIELD_STRING,  /* `value` is the inside of a JSON string, escapes kept */
    FIELD_ARRAY,   /* `value` is the inside of a JSON array */
};

struct field {
    enum field_kind kind;
    struct buf name;  /* owned: the member's name as JSON text, with quotes */
    struct buf value; /* owned */
};

struct fields {
    struct field *list; /* owned */
    size_t count, cap;
    bool failed; /* out of memory, or too many members */
};

void fields_finish(struct fields *f);

/* The member called `name` (JSON text with quotes), or NULL. */
struct field *fields_find(const struct fields *f, const struct json_value *name);
struct field *fields_find_str(const struct fields *f, const char *name);

/* Sets a member to a copy of a JSON value, whatever it was. */
void fields_set(struct fields *f, const struct json_value *name,
                const struct json_value *value);
void fields_set_str(struct fields *f, const char *name, const char *json);

/* Appends to a string member / the elements of an array to an array member; made when missing,
 * and a null or a member of another kind is replaced. */
void fields_append(struct fields *f, const struct json_value *name,
                   const struct json_value *string);
void fields_extend(struct fields *f, const struct json_value *name,
                   const struct json_value *array);

/* Sets every member of `object`. */
void fields_merge(struct fields *f, const struct json_value *object);

/* Appends `"name":value` of one member. */
void field_write(const struct field *field, struct buf *out);

/* Appends all members, comma-separated, without braces; leaves out `except` (may be NULL).
 * True when it wrote one. */
bool fields_write(const struct fields *f, struct buf *out, const char *except);

#endif
