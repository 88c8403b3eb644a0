/*
 * json_check.c - checks that a text is JSON, in one go or in pieces.
 *
 * The only functions that meet unknown bytes: one pass, a bit per open container instead of
 * recursion.  A check stops between two tokens, before a number or a word that is cut off, or
 * anywhere in a string but in an escape.
 */
#include "base/text/json_check.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/json_scan.h"

/* A longer number is refused: it is begun anew where a piece of the text ends. */
#define MAX_NUMBER_BYTES 4096

/* ---- the long values ------------------------------------------------------------------- */

void json_skips_finish(struct json_skips *skips)
{
    free(skips->list);
    *skips = (struct json_skips){0};
}

/* The first that does not begin before it. */
static size_t place_of(const struct json_skips *skips, size_t from)
{
    size_t low = 0, high = skips->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (skips->list[middle].from < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const char *json_skips_find(const struct json_skips *skips, const char *at)
{
    size_t from = (size_t)(at - skips->text), i = place_of(skips, from);

    return i < skips->count && skips->list[i].from == from ? skips->text + skips->list[i].to
                                                           : NULL;
}

/* A value comes behind those within it, and before them in the list.  Without memory it is not
 * listed. */
static bool list_value(struct json_skips *skips, size_t from, size_t to)
{
    size_t i = place_of(skips, from);

    if (skips->count == skips->cap) {
        size_t cap = skips->cap == 0 ? 16 : 2 * skips->cap;
        struct json_skip *list = reallocarray(skips->list, cap, sizeof(*list));

        if (list == NULL)
            return false;
        skips->list = list;
        skips->cap = cap;
    }
    memmove(skips->list + i + 1, skips->list + i, (skips->count - i) * sizeof(*skips->list));
    skips->list[i] = (struct json_skip){.from = from, .to = to};
    skips->count++;
    return true;
}

/* ---- tokens ---------------------------------------------------------------------------- */

struct check {
    struct json_checker *c;
    const char *at, *end;
    bool last; /* nothing comes behind `end` */
    bool cut;  /* a token goes on there */
};

/* Each check_* consumes its piece and returns true, or leaves `at` at the offending byte. */

static bool fail(struct check *k, const char *why)
{
    k->cut = k->at == k->end;
    k->c->why = k->cut ? "unexpected end" : why;
    return false;
}

/* Behind the backslash. */
static bool check_escape(struct check *k)
{
    k->at++;
    if (k->at == k->end)
        return fail(k, NULL);
    if (*k->at == 'u') {
        k->at++;
        for (int i = 0; i < 4; i++, k->at++)
            if (k->at == k->end || json_scan_hex(*k->at) < 0)
                return fail(k, "bad \\u escape");
    } else if (*k->at != '\0' && strchr("\"\\/bfnrt", *k->at) != NULL) {
        k->at++;
    } else {
        return fail(k, "unknown escape");
    }
    return true;
}

/* Behind the opening quote, or at a place inside. */
static bool check_string(struct check *k)
{
    for (;;) {
        const char *escape;

        k->at = json_scan_plain(k->at, k->end);
        if (k->at == k->end)
            return fail(k, NULL);
        if (*k->at == '"') {
            k->at++;
            return true;
        }
        if (*k->at != '\\')
            return fail(k, "control character in a string");
        escape = k->at;
        if (!check_escape(k)) {
            if (k->cut && !k->last)
                k->at = escape;
            return false;
        }
    }
}

static bool check_digits(struct check *k)
{
    if (k->at == k->end || !json_is_digit(*k->at))
        return fail(k, "digit expected");
    while (k->at < k->end && json_is_digit(*k->at))
        k->at++;
    return true;
}

static bool check_word(struct check *k, const char *word)
{
    for (; *word != '\0'; word++, k->at++)
        if (k->at == k->end || *k->at != *word)
            return fail(k, "unknown word");
    return true;
}

static bool check_number(struct check *k)
{
    if (*k->at == '-')
        k->at++;
    if (k->c->lenient && k->at < k->end && *k->at == 'I')
        return check_word(k, "Infinity");
    if (k->at < k->end && *k->at == '0')
        k->at++;
    else if (!check_digits(k))
        return false;
    if (k->at < k->end && *k->at == '.') {
        k->at++;
        if (!check_digits(k))
            return false;
    }
    if (k->at < k->end && (*k->at == 'e' || *k->at == 'E')) {
        k->at++;
        if (k->at < k->end && (*k->at == '+' || *k->at == '-'))
            k->at++;
        if (!check_digits(k))
            return false;
    }
    return true;
}

/* Any value that is neither a container nor a string. */
static bool check_scalar(struct check *k)
{
    switch (*k->at) {
    case 't':
        return check_word(k, "true");
    case 'f':
        return check_word(k, "false");
    case 'n':
        return check_word(k, "null");
    default: /* a byte, not an enum */
        if (*k->at == '-' || json_is_digit(*k->at) || (k->c->lenient && *k->at == 'I'))
            return check_number(k);
        if (k->c->lenient && *k->at == 'N')
            return check_word(k, "NaN");
        return fail(k, "value expected");
    }
}

/* ---- the text -------------------------------------------------------------------------- */

/* A value or a name has ended at k->at: it is listed if it is long.  `listed`: bytes of it that
 * are in the list already. */
static void note_length(struct check *k, const char *text, size_t from, size_t listed)
{
    struct json_checker *c = k->c;
    size_t to = (size_t)(k->at - text);

    if (c->skips == NULL)
        return;
    if (to - from - listed >= JSON_SKIP_BYTES && list_value(c->skips, from, to))
        listed = to - from;
    if (c->depth != 0)
        c->open[c->depth - 1].listed += listed;
}

static bool in_object(const struct json_checker *c)
{
    return (c->objects >> (c->depth - 1) & 1) != 0;
}

static void end_value(struct json_checker *c)
{
    c->state = c->depth == 0 ? JSON_CHECK_END : JSON_CHECK_AFTER;
}

static bool open_container(struct check *k, const char *text)
{
    struct json_checker *c = k->c;
    bool object = *k->at == '{';

    if (c->depth == JSON_MAX_DEPTH)
        return fail(k, "nested too deeply");
    if (object)
        c->objects |= UINT64_C(1) << c->depth;
    else
        c->objects &= ~(UINT64_C(1) << c->depth);
    c->open[c->depth].from = (size_t)(k->at - text);
    c->open[c->depth].listed = 0;
    c->depth++;
    k->at++;
    c->state = object ? JSON_CHECK_FIRST_KEY : JSON_CHECK_FIRST_ITEM;
    return true;
}

static void close_container(struct check *k, const char *text)
{
    struct json_checker *c = k->c;

    k->at++;
    c->depth--;
    note_length(k, text, c->open[c->depth].from, c->open[c->depth].listed);
    end_value(c);
}

/* At the first byte of a value. */
static bool begin_value(struct check *k, const char *text)
{
    struct json_checker *c = k->c;
    const char *begin = k->at;
    bool whole;

    if (c->depth == 0)
        c->root = (size_t)(begin - text);
    if (*begin == '{' || *begin == '[')
        return open_container(k, text);
    if (*begin == '"') {
        c->string = (size_t)(begin - text);
        c->state = JSON_CHECK_IN_STRING;
        k->at++;
        return true;
    }
    whole = check_scalar(k) && (k->at != k->end || k->last);
    if (!whole && k->at != k->end)
        return false;
    if (k->at - begin > MAX_NUMBER_BYTES) {
        k->c->why = "a number of too many digits";
        k->cut = false;
        return false;
    }
    if (whole) {
        end_value(c);
        return true;
    }
    if (!k->last) {
        k->at = begin;
        k->cut = true;
    }
    return false;
}

static bool end_string(struct check *k, const char *text)
{
    struct json_checker *c = k->c;

    if (!check_string(k))
        return false;
    note_length(k, text, c->string, 0);
    if (c->state == JSON_CHECK_IN_KEY)
        c->state = JSON_CHECK_COLON;
    else
        end_value(c);
    return true;
}

static bool begin_key(struct check *k, const char *text)
{
    if (*k->at != '"')
        return fail(k, "member name expected");
    k->c->string = (size_t)(k->at - text);
    k->c->state = JSON_CHECK_IN_KEY;
    k->at++;
    return true;
}

static bool go_on_behind_value(struct check *k, const char *text)
{
    bool object = in_object(k->c);

    if (*k->at == ',') {
        k->at++;
        k->c->state = object ? JSON_CHECK_KEY : JSON_CHECK_VALUE;
        return true;
    }
    if (*k->at != (object ? '}' : ']'))
        return fail(k, object ? "',' or '}' expected" : "',' or ']' expected");
    close_container(k, text);
    return true;
}

/* Takes the token at k->at, which is not at the end. */
static bool take_token(struct check *k, const char *text)
{
    struct json_checker *c = k->c;

    switch (c->state) {
    case JSON_CHECK_FIRST_ITEM:
        if (*k->at != ']')
            return begin_value(k, text);
        close_container(k, text);
        return true;
    case JSON_CHECK_VALUE:
        return begin_value(k, text);
    case JSON_CHECK_FIRST_KEY:
        if (*k->at != '}')
            return begin_key(k, text);
        close_container(k, text);
        return true;
    case JSON_CHECK_KEY:
        return begin_key(k, text);
    case JSON_CHECK_IN_KEY:
    case JSON_CHECK_IN_STRING:
        return end_string(k, text);
    case JSON_CHECK_COLON:
        if (*k->at != ':')
            return fail(k, "':' expected");
        k->at++;
        c->state = JSON_CHECK_VALUE;
        return true;
    case JSON_CHECK_AFTER:
        return go_on_behind_value(k, text);
    case JSON_CHECK_END:
        return fail(k, "bytes after the value");
    }
    assert(false && "state outside the enum");
    return false;
}

void json_checker_init(struct json_checker *c, struct json_skips *skips, bool lenient)
{
    /* `open` is set as it is used. */
    c->skips = skips;
    c->lenient = lenient;
    c->state = JSON_CHECK_VALUE;
    c->done = c->root = c->string = 0;
    c->depth = 0;
    c->objects = 0;
    c->why = NULL;
}

static bool is_in_string(const struct json_checker *c)
{
    return c->state == JSON_CHECK_IN_STRING || c->state == JSON_CHECK_IN_KEY;
}

static enum json_checked bad(const struct check *k, const char *text, struct error *err)
{
    (void)error_set(err, DRV_EINVAL, "at byte %zu: %s", (size_t)(k->at - text), k->c->why);
    return JSON_CHECK_BAD;
}

enum json_checked json_checker_go(struct json_checker *c, const void *bytes, size_t n,
                                  bool last, struct json_value *root, struct error *err)
{
    const char *text = n == 0 ? "" : bytes, *begin = text + c->done;
    struct check k = {.c = c, .at = begin, .end = text + n, .last = last};
    bool going = true;

    assert(c->done <= n);
    *root = (struct json_value){0};
    while (going) {
        if (!is_in_string(c))
            k.at = json_skip_space(k.at, k.end);
        going = k.at != k.end && take_token(&k, text);
    }
    c->done = (size_t)(k.at - text);
    if (c->why != NULL && !k.cut)
        return bad(&k, text, err);
    if (!last) {
        c->why = NULL;
        return JSON_CHECK_MORE;
    }
    if (c->state != JSON_CHECK_END) {
        (void)fail(&k, NULL);
        return bad(&k, text, err);
    }
    if (c->skips != NULL)
        c->skips->text = text;
    while (json_is_space(text[n - 1]))
        n--;
    *root = (struct json_value){.type = json_type_of(text[c->root]),
                                .text = text + c->root,
                                .len = n - c->root,
                                .skips = c->skips};
    return JSON_CHECKED;
}
