/*
 * config_doc.h - a YAML document as a small tree that remembers where everything stood.
 *
 * libcyaml fills the structs, but forgets positions and forgives much: it reads "12abc" as 12,
 * "010" as 8 and any word as true.  So the document is walked first, by libyaml's events, into
 * this tree; every check takes the line of its error from here.  The accepted
 * YAML is narrow: one document, no anchors, aliases or tags, eight levels deep.
 */
#ifndef DROVER_BASE_CONFIG_DOC_H
#define DROVER_BASE_CONFIG_DOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct error;

#define DOC_MAX_BYTES (1024 * 1024)
#define DOC_MAX_DEPTH 8
#define DOC_MAX_ITEMS 65536

enum doc_kind {
    DOC_SCALAR = 0,
    DOC_MAPPING,
    DOC_LIST,
};

struct doc_item {
    enum doc_kind kind;
    uint32_t line, column; /* counted from 1; of the value, or of the key of a container */
    bool plain;            /* a scalar without quotes, and all of it from the file */
    char *key;             /* owned; NULL iff the root or an element of a list */
    char *text;            /* owned; NULL iff no scalar; has no NUL inside */
    char *written;  /* owned; as it stands in the file; NULL iff nothing of `text` is from
                       elsewhere */
    unsigned index; /* place among the siblings */
    struct doc_item *parent, *first, *last, *next;
    struct doc_item *chain; /* all items of the document, for freeing */
};

struct doc {
    char *name;            /* owned; the file, for messages */
    struct doc_item *root; /* NULL iff the document is empty */
    struct doc_item *all;
    unsigned count;
};

/* Parses text[0..n).  DRV_EINVAL with one line for a person; DRV_ENOMEM. */
MUST_CHECK int doc_parse(struct doc **out, const char *text, size_t n, const char *name,
                         struct error *err);
void doc_destroy(struct doc *doc); /* NULL is allowed */

/* The value of a key, or element `index` of a list; NULL when there is none or `item` is NULL
 * or of another kind. */
const struct doc_item *doc_get(const struct doc_item *item, const char *key);
const struct doc_item *doc_at(const struct doc_item *item, unsigned index);

/* The one after it in the order of the file, containers before what is in them; NULL: none. */
struct doc_item *doc_next(struct doc_item *item);

/* The item at "limits.max_nodes"; NULL when the file does not have it. */
const struct doc_item *doc_find(const struct doc *doc, const char *path);
/* The same, or the nearest one above it that the file has: where a message about a default
 * belongs. */
const struct doc_item *doc_near(const struct doc *doc, const char *path);

/* Puts another text in place of a scalar's.  `secret`: a part of it must not be shown; see
 * doc_shown().  DRV_EINVAL: no UTF-8, a control character, too long; DRV_ENOMEM. */
#define DOC_TEXT_MAX 1024
MUST_CHECK int doc_replace(const struct doc *doc, struct doc_item *item, const char *text,
                           bool secret, struct error *err);

/* The part of a value that a message may quote: `value`, or what stands in the file where the
 * environment had a part in it.  `item` may be NULL, and one that is no scalar. */
const char *doc_shown(const struct doc_item *item, const char *value);

/* "nodes[].tls.cert": the place of an item, whichever element of a list it is in. */
#define DOC_PATTERN_BYTES 160
void doc_pattern(char out[DOC_PATTERN_BYTES], const struct doc_item *item);

/* Appends the document as YAML that means the same to every parser: quoted, on one line. */
void doc_write(struct buf *out, const struct doc *doc);

/* Fills `err` with "NAME:LINE:COLUMN: KEY.PATH: reason" and returns DRV_EINVAL.  `item` NULL:
 * line 1, no path.  Bytes that a terminal might obey are replaced. */
int doc_fail(const struct doc *doc, const struct doc_item *item, struct error *err,
             const char *fmt, ...) PRINTF_LIKE(4, 5);

#endif
