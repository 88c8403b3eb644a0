/* strict_head.c - the strict second reading of a request's head. */
#include "worker/http/framing/strict_head.h"

#include <string.h>
#include <strings.h>

/* The lines that frame the message, counted and kept. */
struct framing {
    unsigned content_lengths, transfer_encodings, hosts;
    unsigned minor_version;
    uint64_t content_length;
    const char *name; /* of the last of them */
    bool padded;
    enum strict_expect expect;
};

static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* Where the line that starts at p ends, or NULL when no CRLF ends it.  A line feed or carriage
 * return that is not part of a CRLF is *bare. */
static const char *line_end(const char *p, const char *end, bool *bare)
{
    const char *lf = memchr(p, '\n', (size_t)(end - p));
    const char *cr = memchr(p, '\r', (size_t)(end - p));

    *bare = false;
    if (lf == NULL)
        return NULL;
    if (lf == p || lf[-1] != '\r' || cr != lf - 1) {
        *bare = true;
        return NULL;
    }
    return cr;
}

static bool starts_with_scheme(const char *target, const char *end)
{
    size_t n = (size_t)(end - target);

    return (n > 7 && strncasecmp(target, "http://", 7) == 0) ||
           (n > 8 && strncasecmp(target, "https://", 8) == 0);
}

static const char *check_request_line(struct framing *f, const char *p, const char *end)
{
    const char *target, *version;

    for (target = p; target < end && is_token_char(*target);)
        target++;
    if (target == p || target == end || *target != ' ')
        return "malformed method";
    target++;
    version = memchr(target, ' ', (size_t)(end - target));
    if (version == NULL)
        return "malformed request line";
    if (*target != '/' && !starts_with_scheme(target, version))
        return "the request target must be a path, or a URL of http or https";
    for (const char *c = target; c < version; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7F)
            return "unencoded byte in the request target";
    version++;
    if (end - version != 8 || memcmp(version, "HTTP/1.", 7) != 0 ||
        (version[7] != '0' && version[7] != '1'))
        return "unsupported HTTP version";
    f->minor_version = (unsigned)(version[7] - '0');
    return NULL;
}

static bool name_is(const char *name, size_t n, const char *expected)
{
    return n == strlen(expected) && strncasecmp(name, expected, n) == 0;
}

static const char *check_content_length(struct framing *f, const char *value, size_t n)
{
    if (++f->content_lengths > 1)
        return "more than one Content-Length";
    if (n == 0 || n > 18)
        return "malformed Content-Length";
    for (size_t i = 0; i < n; i++)
        if (value[i] < '0' || value[i] > '9')
            return "malformed Content-Length";
    for (size_t i = 0; i < n; i++)
        f->content_length = f->content_length * 10 + (uint64_t)(value[i] - '0');
    return NULL;
}

static const char *check_host(struct framing *f, const char *value, size_t n)
{
    if (++f->hosts > 1)
        return "more than one Host";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)value[i] <= 0x20 || (unsigned char)value[i] >= 0x7F ||
            strchr("/\\@,?#\"<>", value[i]) != NULL)
            return "malformed Host";
    return NULL;
}

static const char *check_field(struct framing *f, const char *p, const char *end)
{
    const char *name = p, *value, *line_stop = end;
    size_t name_len, value_len;

    if (*p == ' ' || *p == '\t')
        return "folded header line";
    while (p < end && is_token_char(*p))
        p++;
    name_len = (size_t)(p - name);
    if (name_len == 0 || p == end || *p != ':')
        return "malformed header name";
    for (value = p + 1; value < end && (*value == ' ' || *value == '\t');)
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    value_len = (size_t)(end - value);
    for (const char *c = value; c < end; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7F)
            return "control character in a header";

    if (name_is(name, name_len, "content-length")) {
        f->name = name;
        f->padded = end != line_stop;
        return check_content_length(f, value, value_len);
    }
    if (name_is(name, name_len, "expect"))
        f->expect = f->expect == STRICT_EXPECT_NONE && name_is(value, value_len, "100-continue")
                        ? STRICT_EXPECT_CONTINUE
                        : STRICT_EXPECT_OTHER;
    if (name_is(name, name_len, "host"))
        return check_host(f, value, value_len);
    if (name_is(name, name_len, "transfer-encoding")) {
        f->name = name;
        if (++f->transfer_encodings > 1)
            return "more than one Transfer-Encoding";
        if (!name_is(value, value_len, "chunked"))
            return "unsupported Transfer-Encoding";
    }
    return NULL;
}

/* False: the beginning of a line shows that it is none. */
static bool may_become_line(const char *p, const char *end, bool first)
{
    const char *start = p;

    if (first)
        while (p < end && is_token_char(*p))
            p++;
    if (first && p < end && *p != ' ' && !(p == start && *p == '\r'))
        return false;
    for (; p < end; p++)
        if (((unsigned char)*p < 0x20 && *p != '\t' && !(*p == '\r' && p + 1 == end)) ||
            *p == 0x7F)
            return false;
    return true;
}

static const char *refuse_unfinished(struct strict_head *out, const char *p, const char *end,
                                     size_t n, bool first)
{
    if (!may_become_line(p, end, first))
        return "malformed line in the head";
    out->too_large = n >= STRICT_HEAD_MAX_BYTES;
    out->incomplete = !out->too_large;
    return out->too_large ? "the head is too large" : "the head is not complete";
}

const char *strict_head_check(struct strict_head *out, const char *bytes, size_t n)
{
    const char *p = bytes,
               *end = bytes + (n < STRICT_HEAD_MAX_BYTES ? n : STRICT_HEAD_MAX_BYTES);
    struct framing f = {0};
    const char *why, *stop;
    bool bare;

    *out = (struct strict_head){0};
    /* One empty line before the request is let pass, as RFC 9112 asks: some old clients end a
     * POST with it. */
    if (end - p >= 2 && memcmp(p, "\r\n", 2) == 0)
        p += 2;
    for (unsigned line = 0;; line++) {
        stop = line_end(p, end, &bare);
        if (stop == NULL)
            return bare ? "bare CR or LF in the head"
                        : refuse_unfinished(out, p, end, n, line == 0);
        if (stop == p && line != 0)
            break;
        if (line > STRICT_HEAD_MAX_LINES) {
            out->too_large = true;
            return "the head has too many lines";
        }
        why = line == 0 ? check_request_line(&f, p, stop) : check_field(&f, p, stop);
        if (why != NULL)
            return why;
        p = stop + 2;
    }
    if (f.transfer_encodings != 0 && f.content_lengths != 0)
        return "both Content-Length and Transfer-Encoding";
    if (f.transfer_encodings != 0 && f.minor_version == 0)
        return "Transfer-Encoding in HTTP/1.0";
    if (f.hosts == 0 && f.minor_version == 1)
        return "no Host";
    out->head_len = (size_t)(stop + 2 - bytes);
    out->chunked = f.transfer_encodings != 0;
    out->content_length = f.content_length;
    out->framing_at = f.name == NULL ? 0 : (size_t)(f.name - bytes);
    out->padded = f.padded;
    out->expects = f.expect != STRICT_EXPECT_NONE;
    out->expect = f.expect == STRICT_EXPECT_CONTINUE && f.minor_version == 0
                      ? STRICT_EXPECT_NONE
                      : f.expect;
    return NULL;
}
