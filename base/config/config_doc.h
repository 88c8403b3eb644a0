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
    bool plain;            /* a scalar without quotes */
    char *key;             /* owned; NULL iff the root or an element of a list */
    char *text;            /* owned; NULL iff no scalar; has no NUL inside */
    unsigned index;        /* place among the siblings */
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

/* The item at "limits.max_nodes"; NULL when the file does not have it. */
const struct doc_item *doc_find(const struct doc *doc, const char *path);
/* The same, or the nearest one above it that the file has: where a message about a default
 * belongs. */
const struct doc_item *doc_near(const struct doc *doc, const char *path);

/* Fills `err` with "NAME:LINE:COLUMN: KEY.PATH: reason" and returns DRV_EINVAL.  `item` NULL:
 * line 1, no path.  Bytes that a terminal might obey are replaced. */
int doc_fail(const struct doc *doc, const struct doc_item *item, struct error *err,
             const char *fmt, ...) PRINTF_LIKE(4, 5);

#endif
