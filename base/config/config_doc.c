/* config_doc.c - a YAML document as a small tree that remembers where everything stood. */
#include "base/config/config_doc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/text.h"

#define PATH_BYTES   DOC_PATTERN_BYTES
#define REASON_BYTES 256
#define NO_ANCHORS                                                                  \
    "YAML anchors and aliases (& and *) are not allowed; put a text that starts so" \
    " in quotes"

/* Mappings and sequences that libyaml has opened and not closed yet. */
struct doc_walk {
    struct doc *doc;
    struct doc_item *open[DOC_MAX_DEPTH]; /* containers, outermost first */
    unsigned depth;
    char *key; /* owned: read, and its value has not come yet; NULL = none */
    uint32_t key_line, key_column;
    bool ended; /* the first document is over */
};

/* The file is any bytes at all, and the message goes to a terminal. */
static void make_printable(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != '\0'; p++) {
        if (*p < 0x20 || *p >= 0x7f)
            *p = '?';
    }
}

/* The one place where the shape of a message is decided. */
static int fail_at(const char *name, uint32_t line, uint32_t column, const char *path,
                   struct error *err, const char *fmt, va_list ap)
{
    char reason[REASON_BYTES];
    size_t n = strlen(name);

    (void)vsnprintf(reason, sizeof(reason), fmt, ap);
    if (n > 120)
        name += n - 120;
    (void)error_set(err, DRV_EINVAL, "%s:%u:%u: %s%s%s", name, line, column, path,
                    path[0] == '\0' ? "" : ": ", reason);
    if (err != NULL)
        make_printable(err->text);
    return DRV_EINVAL;
}

static int fail_position(const char *name, uint32_t line, uint32_t column, struct error *err,
                         const char *fmt, ...) PRINTF_LIKE(5, 6);
static int fail_position(const char *name, uint32_t line, uint32_t column, struct error *err,
                         const char *fmt, ...)
{
    va_list ap;
    int rc;

    va_start(ap, fmt);
    rc = fail_at(name, line, column, "", err, fmt, ap);
    va_end(ap);
    return rc;
}

/* "nodes[1].tls.cert"; without `numbers` "nodes[].tls.cert". */
static void write_path(char out[PATH_BYTES], const struct doc_item *item, bool numbers)
{
    const struct doc_item *up[DOC_MAX_DEPTH + 1];
    unsigned n = 0;
    size_t used = 0;
    int w;

    out[0] = '\0';
    for (; item != NULL && item->parent != NULL && n < ARRAY_LEN(up); item = item->parent)
        up[n++] = item;
    while (n-- > 0 && used < PATH_BYTES - 1) {
        if (up[n]->key != NULL)
            w = snprintf(out + used, PATH_BYTES - used, "%s%.40s", used == 0 ? "" : ".",
                         up[n]->key);
        else if (numbers)
            w = snprintf(out + used, PATH_BYTES - used, "[%u]", up[n]->index);
        else
            w = snprintf(out + used, PATH_BYTES - used, "[]");
        if (w > 0)
            used += (size_t)w;
    }
}

int doc_fail(const struct doc *doc, const struct doc_item *item, struct error *err,
             const char *fmt, ...)
{
    char path[PATH_BYTES];
    va_list ap;
    int rc;

    write_path(path, item, true);
    va_start(ap, fmt);
    rc = fail_at(doc->name, item == NULL ? 1 : item->line, item == NULL ? 1 : item->column,
                 path, err, fmt, ap);
    va_end(ap);
    return rc;
}

void doc_pattern(char out[DOC_PATTERN_BYTES], const struct doc_item *item)
{
    write_path(out, item, false);
}

const char *doc_shown(const struct doc_item *item, const char *value)
{
    return item != NULL && item->written != NULL ? item->written : value;
}

int doc_replace(const struct doc *doc, struct doc_item *item, const char *text, bool secret,
                struct error *err)
{
    char *copy;

    if (strlen(text) > DOC_TEXT_MAX)
        return doc_fail(doc, item, err, "is longer than %d bytes", DOC_TEXT_MAX);
    if (!text_is_utf8(text, strlen(text)))
        return doc_fail(doc, item, err, "is no text: what was put in is not UTF-8");
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return doc_fail(doc, item, err, "has a control character");
    }
    copy = strdup(text);
    if (copy == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (secret && item->written == NULL)
        item->written = item->text;
    else
        free(item->text);
    item->text = copy;
    item->plain = false;
    return 0;
}

static void write_text(struct buf *out, const char *text)
{
    size_t n = strlen(text);
    uint32_t code;

    buf_str(out, "\"");
    for (size_t at = 0, step; at < n; at += step) {
        step = text_utf8_sequence(text + at, n - at, &code);
        if (step == 0) {
            step = 1; /* libyaml lets none through */
            code = 0xfffd;
        }
        if (code < 0x20 || code >= 0x7f || code == '"' || code == '\\')
            buf_printf(out, "\\U%08x", (unsigned)code);
        else
            buf_add(out, text + at, 1);
    }
    buf_str(out, "\"");
}

/* Recursion is bounded by DOC_MAX_DEPTH. */
static void write_item(struct buf *out, const struct doc_item *item)
{
    const struct doc_item *inner;

    if (item->kind == DOC_SCALAR) {
        write_text(out, item->text);
        return;
    }
    buf_str(out, item->kind == DOC_MAPPING ? "{" : "[");
    for (inner = item->first; inner != NULL; inner = inner->next) {
        if (inner->key != NULL) {
            write_text(out, inner->key);
            buf_str(out, ": ");
        }
        write_item(out, inner);
        buf_str(out, inner->next == NULL ? "" : ", ");
    }
    buf_str(out, item->kind == DOC_MAPPING ? "}" : "]");
}

void doc_write(struct buf *out, const struct doc *doc)
{
    write_item(out, doc->root);
    buf_str(out, "\n");
}

void doc_destroy(struct doc *doc)
{
    struct doc_item *item, *next;

    if (doc == NULL)
        return;
    for (item = doc->all; item != NULL; item = next) {
        next = item->chain;
        free(item->key);
        free(item->text);
        free(item->written);
        free(item);
    }
    free(doc->name);
    free(doc);
}

const struct doc_item *doc_get(const struct doc_item *item, const char *key)
{
    if (item == NULL || item->kind != DOC_MAPPING)
        return NULL;
    for (item = item->first; item != NULL; item = item->next) {
        if (strcmp(item->key, key) == 0)
            return item;
    }
    return NULL;
}

const struct doc_item *doc_at(const struct doc_item *item, unsigned index)
{
    if (item == NULL || item->kind != DOC_LIST)
        return NULL;
    for (item = item->first; item != NULL && item->index != index;)
        item = item->next;
    return item;
}

struct doc_item *doc_next(struct doc_item *item)
{
    if (item->first != NULL)
        return item->first;
    while (item != NULL && item->next == NULL)
        item = item->parent;
    return item == NULL ? NULL : item->next;
}

/* Follows the path as far as the file has it; *path is what is left. */
static const struct doc_item *walk_path(const struct doc *doc, const char **path)
{
    const struct doc_item *item = doc->root, *next;
    char key[64];

    while (**path != '\0') {
        size_t n = strcspn(*path, ".");

        if (n >= sizeof(key))
            return item;
        memcpy(key, *path, n);
        key[n] = '\0';
        next = doc_get(item, key);
        if (next == NULL)
            return item;
        item = next;
        *path += n + ((*path)[n] == '.');
    }
    return item;
}

const struct doc_item *doc_find(const struct doc *doc, const char *path)
{
    const struct doc_item *item = walk_path(doc, &path);

    return *path == '\0' ? item : NULL;
}

const struct doc_item *doc_near(const struct doc *doc, const char *path)
{
    return walk_path(doc, &path);
}

/* Adds an item where the walk stands.  The pending key, if any, becomes its own. */
static struct doc_item *add_item(struct doc_walk *w, enum doc_kind kind,
                                 const yaml_event_t *event)
{
    struct doc_item *item = calloc(1, sizeof(*item));
    struct doc_item *parent = w->depth == 0 ? NULL : w->open[w->depth - 1];

    if (item == NULL)
        return NULL;
    item->chain = w->doc->all;
    w->doc->all = item;
    w->doc->count++;
    item->kind = kind;
    item->line = (uint32_t)event->start_mark.line + 1;
    item->column = (uint32_t)event->start_mark.column + 1;
    /* A missing value is reported where its key is, and so is a container: its own start may
     * be a line further down. */
    if (w->key != NULL &&
        (kind != DOC_SCALAR || event->start_mark.index == event->end_mark.index)) {
        item->line = w->key_line;
        item->column = w->key_column;
    }
    item->key = w->key;
    w->key = NULL;
    item->parent = parent;
    if (parent == NULL) {
        w->doc->root = item;
    } else {
        if (parent->last != NULL) {
            item->index = parent->last->index + 1;
            parent->last->next = item;
        } else {
            parent->first = item;
        }
        parent->last = item;
    }
    return item;
}

static bool has_tag(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.tag != NULL;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.tag != NULL;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.tag != NULL;
    default: /* an enum of libyaml's; the others cannot carry one */
        return false;
    }
}

static bool has_anchor(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor != NULL;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor != NULL;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor != NULL;
    default:
        return false;
    }
}

static int take_scalar(struct doc_walk *w, const yaml_event_t *event, struct error *err)
{
    const struct doc_item *parent = w->depth == 0 ? NULL : w->open[w->depth - 1];
    const char *text = (const char *)event->data.scalar.value;
    uint32_t line = (uint32_t)event->start_mark.line + 1;
    uint32_t column = (uint32_t)event->start_mark.column + 1;
    struct doc_item *item;
    char *copy;

    if (memchr(text, '\0', event->data.scalar.length) != NULL)
        return fail_position(w->doc->name, line, column, err, "a NUL byte in a text");
    copy = strdup(text);
    if (copy == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (parent != NULL && parent->kind == DOC_MAPPING && w->key == NULL) {
        w->key = copy;
        w->key_line = line;
        w->key_column = column;
        return 0;
    }
    item = add_item(w, DOC_SCALAR, event);
    if (item == NULL) {
        free(copy);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    item->text = copy;
    item->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return 0;
}

static int open_container(struct doc_walk *w, enum doc_kind kind, const yaml_event_t *event,
                          struct error *err)
{
    const struct doc_item *parent = w->depth == 0 ? NULL : w->open[w->depth - 1];
    uint32_t line = (uint32_t)event->start_mark.line + 1;
    uint32_t column = (uint32_t)event->start_mark.column + 1;
    struct doc_item *item;

    if (parent != NULL && parent->kind == DOC_MAPPING && w->key == NULL)
        return fail_position(w->doc->name, line, column, err, "a key must be a plain text");
    if (w->depth == DOC_MAX_DEPTH)
        return fail_position(w->doc->name, line, column, err,
                             "nested deeper than %d levels; no key here is", DOC_MAX_DEPTH);
    item = add_item(w, kind, event);
    if (item == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    w->open[w->depth++] = item;
    return 0;
}

static int take_event(struct doc_walk *w, const yaml_event_t *event, struct error *err)
{
    uint32_t line = (uint32_t)event->start_mark.line + 1;
    uint32_t column = (uint32_t)event->start_mark.column + 1;

    if (w->doc->count >= DOC_MAX_ITEMS)
        return fail_position(w->doc->name, line, column, err, "more than %d values",
                             DOC_MAX_ITEMS);
    if (event->type == YAML_ALIAS_EVENT || has_anchor(event))
        return fail_position(w->doc->name, line, column, err, "%s", NO_ANCHORS);
    if (has_tag(event))
        return fail_position(w->doc->name, line, column, err,
                             "YAML tags (!) are not allowed; put a text that starts so in "
                             "quotes");
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (w->ended)
            return fail_position(w->doc->name, line, column, err,
                                 "a second document starts here; the file must have one");
        return 0;
    case YAML_DOCUMENT_END_EVENT:
        w->ended = true;
        return 0;
    case YAML_SCALAR_EVENT:
        return take_scalar(w, event, err);
    case YAML_MAPPING_START_EVENT:
        return open_container(w, DOC_MAPPING, event, err);
    case YAML_SEQUENCE_START_EVENT:
        return open_container(w, DOC_LIST, event, err);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        w->depth--;
        return 0;
    default: /* the stream's own start and end */
        return 0;
    }
}

static void locate(const char *text, size_t offset, uint32_t *line, uint32_t *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else {
            ++*column;
        }
    }
}

/* Is there a tab in the white space that `line` begins with? */
static bool tab_indented(const char *text, size_t n, size_t line)
{
    size_t at = 0;

    for (; line > 0 && at < n; at++)
        line -= text[at] == '\n';
    for (; at < n && (text[at] == ' ' || text[at] == '\t'); at++) {
        if (text[at] == '\t')
            return true;
    }
    return false;
}

static int fail_syntax(const yaml_parser_t *parser, const char *text, size_t n,
                       const char *name, struct error *err)
{
    const char *problem = parser->problem != NULL ? parser->problem : "not YAML";
    uint32_t line = (uint32_t)parser->problem_mark.line + 1;
    uint32_t column = (uint32_t)parser->problem_mark.column + 1;

    if (parser->error == YAML_MEMORY_ERROR)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (parser->error == YAML_READER_ERROR) {
        locate(text, parser->problem_offset < n ? parser->problem_offset : n, &line, &column);
        return fail_position(name, line, column, err, "not a text file: %s", problem);
    }
    if (tab_indented(text, n, parser->problem_mark.line))
        return fail_position(name, line, column, err,
                             "a tab in the indentation; YAML wants spaces");
    if (parser->context != NULL && (strcmp(parser->context, "while scanning an alias") == 0 ||
                                    strcmp(parser->context, "while scanning an anchor") == 0))
        return fail_position(name, line, column, err, "%s", NO_ANCHORS);
    if (parser->context != NULL && parser->context_mark.line != parser->problem_mark.line)
        return fail_position(name, line, column, err, "%s (%s from line %zu)", problem,
                             parser->context, parser->context_mark.line + 1);
    return fail_position(name, line, column, err, "%s", problem);
}

static int walk_events(struct doc_walk *w, const char *text, size_t n, struct error *err)
{
    yaml_parser_t parser;
    yaml_event_t event;
    bool more = true;
    int rc = 0;

    if (!yaml_parser_initialize(&parser))
        return error_set(err, DRV_ENOMEM, "out of memory");
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    while (rc == 0 && more) {
        if (!yaml_parser_parse(&parser, &event)) {
            rc = fail_syntax(&parser, text, n, w->doc->name, err);
            break;
        }
        more = event.type != YAML_STREAM_END_EVENT;
        rc = take_event(w, &event, err);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    free(w->key);
    w->key = NULL;
    return rc;
}

int doc_parse(struct doc **out, const char *text, size_t n, const char *name, struct error *err)
{
    struct doc_walk w = {0};
    const char *nul;
    uint32_t line, column;
    int rc;

    *out = NULL;
    if (n == 0)
        text = ""; /* libyaml insists on a pointer */
    nul = memchr(text, '\0', n);
    if (n > DOC_MAX_BYTES)
        return fail_position(name, 1, 1, err, "larger than 1 MiB; this is no configuration");
    if (nul != NULL) {
        locate(text, (size_t)(nul - text), &line, &column);
        return fail_position(name, line, column, err, "not a text file: a NUL byte");
    }
    w.doc = calloc(1, sizeof(*w.doc));
    if (w.doc == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    w.doc->name = strdup(name);
    if (w.doc->name == NULL)
        rc = error_set(err, DRV_ENOMEM, "out of memory");
    else
        rc = walk_events(&w, text, n, err);
    if (rc == 0 && w.doc->root == NULL)
        rc = doc_fail(w.doc, NULL, err, "the file is empty");
    if (rc != 0) {
        doc_destroy(w.doc);
        return rc;
    }
    *out = w.doc;
    return 0;
}
