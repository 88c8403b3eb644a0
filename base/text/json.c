/*
 * json.c - reading and editing JSON text in place.
 *
 * json_check.c alone meets unknown bytes.  The rest walk text that it has accepted; their loops
 * are bounded by the end of the span all the same.
 */
#include "base/text/json.h"

#include <assert.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json_check.h"
#include "base/text/json_scan.h"
#include "base/text/text.h"

/* The longest number whose value we look at; longer ones are well-formed but have no value. */
#define MAX_NUMBER_BYTES 128

int json_hex_value(char c)
{
    return json_scan_hex(c);
}

/* ---- checking ---------------------------------------------------------------------------- */

int json_check_as(struct json_value *root, const void *text, size_t n, bool lenient,
                  struct error *err)
{
    struct json_checker checker;

    json_checker_init(&checker, NULL, lenient);
    return json_checker_go(&checker, text, n, true, root, err) == JSON_CHECKED ? 0 : DRV_EINVAL;
}

/* ---- walking ----------------------------------------------------------------------------- */

/* Is the quote at p part of an escape?  `begin` is the first byte that may be a backslash. */
static bool is_escaped(const char *p, const char *begin)
{
    const char *back = p;

    while (back > begin && back[-1] == '\\')
        back--;
    return (p - back) % 2 != 0;
}

/* Past the closing quote of the string that starts at p.  Each walk over a body passes its long
 * strings, and memchr() is the fastest way to. */
static const char *skip_string(const char *p, const char *end)
{
    const char *begin = p + 1;

    for (p = begin; p < end; p++) {
        p = memchr(p, '"', (size_t)(end - p));
        if (p == NULL)
            return end; /* impossible in checked text */
        if (!is_escaped(p, begin))
            return p + 1;
    }
    return end;
}

/* Past the value that starts at p if it is long, or NULL. */
static const char *jump(const struct json_skips *skips, const char *p)
{
    return skips == NULL || skips->count == 0 ? NULL : json_skips_find(skips, p);
}

/* Past the value that starts at p. */
static const char *skip_value(const char *p, const char *end, const struct json_skips *skips)
{
    unsigned depth = 0;
    const char *to;

    do {
        switch (*p) {
        case '"':
            to = jump(skips, p);
            p = to != NULL ? to : skip_string(p, end);
            break;
        case '{':
        case '[':
            to = jump(skips, p);
            if (to != NULL) {
                p = to;
                break;
            }
            depth++;
            p++;
            break;
        case '}':
        case ']':
            depth--;
            p++;
            break;
        case ',':
        case ':':
        case ' ':
        case '\t':
        case '\n':
        case '\r':
            p++;
            break;
        default: /* number or word */
            while (p < end && !json_is_space(*p) && *p != ',' && *p != '}' && *p != ']')
                p++;
            break;
        }
    } while (depth != 0 && p < end);
    return p;
}

void json_iter_init(struct json_iter *it, const struct json_value *container)
{
    *it = (struct json_iter){0};
    if (container->type != JSON_OBJECT && container->type != JSON_ARRAY)
        return;
    it->at = container->text + 1;
    it->end = container->text + container->len - 1;
    it->object = container->type == JSON_OBJECT;
    it->skips = container->skips;
}

/* Takes the value at *at. */
static struct json_value take(const char **at, const char *end, const struct json_skips *skips)
{
    struct json_value value = {.type = json_type_of(**at), .text = *at, .skips = skips};

    *at = skip_value(*at, end, skips);
    value.len = (size_t)(*at - value.text);
    return value;
}

bool json_iter_next(struct json_iter *it, struct json_value *key, struct json_value *value)
{
    const char *p = it->at;

    *key = (struct json_value){0};
    *value = (struct json_value){0};
    while (p < it->end && (json_is_space(*p) || *p == ','))
        p++;
    if (p >= it->end)
        return false;
    if (it->object) {
        *key = take(&p, it->end, it->skips);
        while (p < it->end && (json_is_space(*p) || *p == ':'))
            p++;
        if (p >= it->end)
            return false;
    }
    *value = take(&p, it->end, it->skips);
    it->at = p;
    return true;
}

void json_pick(const struct json_value *object, const char *const *names,
               struct json_value *out, size_t n)
{
    struct json_value key, value;
    struct json_iter it;

    memset(out, 0, n * sizeof(*out));
    if (object->type != JSON_OBJECT)
        return;
    json_iter_init(&it, object);
    for (unsigned i = 0; i < JSON_MAX_PICKED && json_iter_next(&it, &key, &value); i++) {
        for (size_t j = 0; j < n; j++) {
            if (json_equal(&key, names[j]))
                out[j] = value;
        }
    }
}

bool json_has_items(const struct json_value *value)
{
    struct json_value key, item;
    struct json_iter it;

    json_iter_init(&it, value);
    return json_iter_next(&it, &key, &item);
}

struct json_value json_get(const struct json_value *object, const char *name)
{
    struct json_value found;

    json_pick(object, &name, &found, 1);
    return found;
}

/* ---- strings ----------------------------------------------------------------------------- */

#define REPLACEMENT UINT32_C(0xFFFD)

/* Writes one code point as UTF-8; returns the number of bytes. */
static size_t put_utf8(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

static uint32_t hex4(const char *p)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++)
        v = v << 4 | (uint32_t)(json_hex_value(p[i]) & 0xF);
    return v;
}

/* Decodes the escape at *at (which points at the backslash) and moves past it.  A surrogate
 * without its partner sets *lone. */
static uint32_t decode_escape(const char **at, const char *end, bool *lone)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *p = *at + 1;
    const char *hit;
    uint32_t cp, low;

    if (p >= end) { /* impossible in checked text */
        *at = end;
        return REPLACEMENT;
    }
    if (*p != 'u') {
        *at = p + 1;
        hit = strchr(from, *p);
        return hit != NULL && *hit != '\0' ? (uint32_t)(unsigned char)to[hit - from]
                                           : (uint32_t)(unsigned char)*p;
    }
    if (end - p < 5) {
        *at = end;
        return REPLACEMENT;
    }
    cp = hex4(p + 1);
    *at = p + 5;
    if (cp < 0xD800 || cp > 0xDFFF)
        return cp;
    if (cp < 0xDC00 && end - p >= 11 && p[5] == '\\' && p[6] == 'u') {
        low = hex4(p + 7);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *at = p + 11;
            return 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    *lone = true;
    return REPLACEMENT;
}

/* Decodes the next character of a string, or a byte of it, and moves past it.  Returns how many
 * bytes it has. */
static size_t decode_next(char bytes[4], const char **at, const char *end, bool *lone)
{
    if (**at == '\\')
        return put_utf8(bytes, decode_escape(at, end, lone));
    bytes[0] = *(*at)++;
    return 1;
}

bool json_equal(const struct json_value *string, const char *plain)
{
    const char *p, *end;
    bool lone = false;
    size_t left;

    if (string->type != JSON_STRING || string->len < 2)
        return false;
    p = string->text + 1;
    end = string->text + string->len - 1;
    if (p < end && *p != *plain && *p != '\\')
        return false; /* most names that are asked for differ here */
    left = strlen(plain);
    if ((size_t)(end - p) < left || (size_t)(end - p) / 6 > left)
        return false; /* decoding never makes a string longer, nor a sixth of it */
    if (memchr(p, '\\', (size_t)(end - p)) == NULL)
        return (size_t)(end - p) == left && memcmp(p, plain, left) == 0;
    while (p < end) {
        char bytes[4];
        size_t n = decode_next(bytes, &p, end, &lone);

        if (n > left || memcmp(bytes, plain, n) != 0)
            return false;
        plain += n;
        left -= n;
    }
    return left == 0;
}

void json_pieces_init(struct json_pieces *it, const struct json_value *string)
{
    *it = (struct json_pieces){0};
    if (string->type != JSON_STRING || string->len < 2)
        return;
    it->at = string->text + 1;
    it->end = string->text + string->len - 1;
}

bool json_pieces_next(struct json_pieces *it, const char **piece, size_t *n)
{
    const char *back;
    bool lone = false;

    if (it->at >= it->end)
        return false;
    if (*it->at == '\\') {
        *n = put_utf8(it->bytes, decode_escape(&it->at, it->end, &lone));
        *piece = it->bytes;
        return true;
    }
    back = memchr(it->at, '\\', (size_t)(it->end - it->at));
    *piece = it->at;
    it->at = back == NULL ? it->end : back;
    *n = (size_t)(it->at - *piece);
    return true;
}

void json_decode(struct buf *out, const struct json_value *string)
{
    struct json_pieces it;
    const char *piece;
    size_t n;

    json_pieces_init(&it, string);
    while (json_pieces_next(&it, &piece, &n))
        buf_add(out, piece, n);
}

bool json_name(char *out, size_t cap, const struct json_value *string)
{
    const char *p, *end;
    bool lone = false;
    size_t len = 0;

    if (string->type != JSON_STRING || string->len < 2 || cap == 0)
        return false;
    p = string->text + 1;
    end = string->text + string->len - 1;
    while (p < end) {
        char bytes[4];
        size_t n = decode_next(bytes, &p, end, &lone);

        if (n > cap - 1 - len)
            return false;
        memcpy(out + len, bytes, n);
        len += n;
    }
    out[len] = '\0';
    if (lone)
        return false;
    for (size_t i = 0; i < len;) {
        uint32_t code;
        size_t n = text_utf8_sequence(out + i, len - i, &code);

        if (n == 0 || code < 0x20 || (code >= 0x7F && code <= 0x9F))
            return false;
        i += n;
    }
    return true;
}

/* ---- numbers ----------------------------------------------------------------------------- */

/* strtod() follows the locale, and droverctl sets one. */
static locale_t c_locale(void)
{
    static locale_t locale;

    if (locale == (locale_t)0)
        locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return locale;
}

bool json_number(double *out, const struct json_value *number)
{
    char text[MAX_NUMBER_BYTES + 1];
    double v;

    if (number->type != JSON_NUMBER || number->len > MAX_NUMBER_BYTES)
        return false;
    memcpy(text, number->text, number->len);
    text[number->len] = '\0';
    v = c_locale() == (locale_t)0 ? strtod(text, NULL) : strtod_l(text, NULL, c_locale());
    if (!isfinite(v))
        return false;
    *out = v;
    return true;
}

bool json_uint(uint64_t *out, const struct json_value *number, uint64_t max)
{
    uint64_t v = 0;
    double d;

    if (number->type != JSON_NUMBER)
        return false;
    for (size_t i = 0; i < number->len; i++) {
        unsigned digit = (unsigned)(number->text[i] - '0');

        if (!json_is_digit(number->text[i])) {
            /* "1e3", "8.0": integers all the same, as the engines' parsers see them. */
            if (!json_number(&d, number) || d < 0 || d > 0x1p53 || d != (double)(uint64_t)d)
                return false;
            v = (uint64_t)d;
            break;
        }
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    if (v > max)
        return false;
    *out = v;
    return true;
}

/* ---- writing ----------------------------------------------------------------------------- */

void json_quote(struct buf *out, const void *bytes, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = bytes;
    size_t run = 0; /* bytes before p[i] that go out as they are */

    buf_add(out, "\"", 1);
    for (size_t i = 0; i < n;) {
        char escape[6] = "\\";
        size_t escape_len = 2;
        uint32_t code;
        size_t sequence = text_utf8_sequence(p + i, n - i, &code);

        if (sequence != 0 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') {
            run += sequence;
            i += sequence;
            continue;
        }
        if (sequence == 0) {
            escape_len = put_utf8(escape, REPLACEMENT);
        } else if (p[i] == '"' || p[i] == '\\') {
            escape[1] = (char)p[i];
        } else if (p[i] == '\n' || p[i] == '\r' || p[i] == '\t') {
            escape[1] = p[i] == '\n' ? 'n' : p[i] == '\r' ? 'r' : 't';
        } else {
            memcpy(escape, "\\u00", 4);
            escape[4] = hex[p[i] >> 4];
            escape[5] = hex[p[i] & 0xF];
            escape_len = 6;
        }
        buf_add(out, p + i - run, run);
        buf_add(out, escape, escape_len);
        run = 0;
        i++;
    }
    if (run != 0)
        buf_add(out, p + n - run, run);
    buf_add(out, "\"", 1);
}

void json_quote_str(struct buf *out, const char *text)
{
    json_quote(out, text, strlen(text));
}

/* ---- editing ----------------------------------------------------------------------------- */

/* Bit i: the object has the member that edits[i] names. */
static uint64_t edits_present(const struct json_value *root, const struct json_edit *edits,
                              size_t n_edits)
{
    struct json_value key, value;
    struct json_iter it;
    uint64_t present = 0;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value))
        for (size_t i = 0; i < n_edits; i++)
            if (json_equal(&key, edits[i].name))
                present |= UINT64_C(1) << i;
    return present;
}

static const struct json_edit *edit_for(const struct json_value *key,
                                        const struct json_edit *edits, size_t n_edits)
{
    for (size_t i = 0; i < n_edits; i++)
        if (json_equal(key, edits[i].name))
            return &edits[i];
    return NULL;
}

/* Appends what lies between the members before and after it: with a comma exactly if something
 * has been written before. */
static void add_gap(struct buf *out, const char *gap, const char *end, bool first)
{
    const char *comma = memchr(gap, ',', (size_t)(end - gap));

    if (first && comma != NULL) {
        buf_add(out, gap, (size_t)(comma - gap));
        gap = comma + 1;
    } else if (!first && comma == NULL) {
        buf_add(out, ",", 1);
    }
    buf_add(out, gap, (size_t)(end - gap));
}

int json_edit(struct buf *out, const struct json_value *root, const struct json_edit *edits,
              size_t n_edits)
{
    struct json_value key, value;
    struct json_iter it;
    const char *done; /* everything of root before this has been dealt with */
    uint64_t present;
    bool first = true;

    if (root->type != JSON_OBJECT || n_edits > JSON_MAX_EDITS)
        return DRV_EINVAL;
    present = edits_present(root, edits, n_edits);
    buf_add(out, "{", 1);
    for (size_t i = 0; i < n_edits; i++) {
        if (edits[i].value == NULL || (present >> i & 1) != 0)
            continue;
        if (!first)
            buf_add(out, ",", 1);
        json_quote_str(out, edits[i].name);
        buf_add(out, ":", 1);
        buf_str(out, edits[i].value);
        first = false;
    }
    done = root->text + 1;
    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        const struct json_edit *edit = edit_for(&key, edits, n_edits);
        const char *end = value.text + value.len;

        if (edit != NULL && edit->value == NULL) {
            done = end;
            continue;
        }
        add_gap(out, done, key.text, first);
        buf_add(out, key.text, (size_t)(value.text - key.text));
        if (edit != NULL)
            buf_str(out, edit->value);
        else
            buf_add(out, value.text, value.len);
        first = false;
        done = end;
    }
    buf_add(out, done, (size_t)(root->text + root->len - done));
    return out->failed ? DRV_ENOMEM : 0;
}
