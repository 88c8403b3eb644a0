/* origins.c - which web pages a browser may let use the API. */
#include "base/secure/origins.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/text/text.h"

struct slice {
    const char *p;
    size_t n;
};

/* SCHEME://HOST[:PORT].  A port that is the scheme's own is left empty. */
struct parts {
    struct slice scheme, host, port;
};

static bool slice_is(struct slice s, const char *text)
{
    return s.n == strlen(text) && strncasecmp(s.p, text, s.n) == 0;
}

static bool same(struct slice a, struct slice b)
{
    return a.n == b.n && strncasecmp(a.p, b.p, a.n) == 0;
}

static bool ends_with(struct slice s, struct slice tail)
{
    return s.n > tail.n && strncasecmp(s.p + s.n - tail.n, tail.p, tail.n) == 0;
}

/* False: no scheme, no host, or more than an origin has. */
static bool split(struct parts *out, const char *text, size_t n)
{
    const char *sep = memmem(text, n, "://", 3), *end = text + n, *host, *stop, *colon;

    if (sep == NULL || sep == text)
        return false;
    host = sep + 3;
    stop = host;
    if (host < end && *host == '[') { /* an IPv6 address has colons of its own */
        stop = memchr(host, ']', (size_t)(end - host));
        if (stop == NULL)
            return false;
    }
    colon = memchr(stop, ':', (size_t)(end - stop));
    *out = (struct parts){
        .scheme = {text, (size_t)(sep - text)},
        .host = {host, (size_t)((colon == NULL ? end : colon) - host)},
        .port = {"", 0},
    };
    if (colon != NULL)
        out->port = (struct slice){colon + 1, (size_t)(end - colon - 1)};
    if (out->host.n == 0 || (colon != NULL && out->port.n == 0))
        return false;
    if (memchr(host, '/', (size_t)(end - host)) != NULL ||
        memchr(host, '@', (size_t)(end - host)) != NULL)
        return false;
    if ((slice_is(out->scheme, "http") && slice_is(out->port, "80")) ||
        (slice_is(out->scheme, "https") && slice_is(out->port, "443")))
        out->port.n = 0;
    return true;
}

/* 127.x.x.x, and nothing that only begins so: 127.example.com is another host. */
static bool is_loopback_v4(struct slice host)
{
    unsigned dots = 0, digits = 0;

    if (host.n < 4 || memcmp(host.p, "127.", 4) != 0)
        return false;
    for (size_t i = 0; i < host.n; i++) {
        if (host.p[i] == '.') {
            if (digits == 0)
                return false;
            dots++;
            digits = 0;
        } else if (host.p[i] >= '0' && host.p[i] <= '9' && digits < 3) {
            digits++;
        } else {
            return false;
        }
    }
    return dots == 3 && digits != 0;
}

static bool is_loopback(const struct parts *origin)
{
    static const char below[] = ".localhost";

    if (!slice_is(origin->scheme, "http") && !slice_is(origin->scheme, "https"))
        return false;
    return slice_is(origin->host, "localhost") || slice_is(origin->host, "[::1]") ||
           ends_with(origin->host, (struct slice){below, sizeof(below) - 1}) ||
           is_loopback_v4(origin->host);
}

static bool matches(const char *pattern, const struct parts *origin)
{
    struct parts want;

    if (strcmp(pattern, ORIGINS_LOOPBACK) == 0)
        return is_loopback(origin);
    if (!split(&want, pattern, strlen(pattern)) || !same(want.scheme, origin->scheme))
        return false;
    if (slice_is(want.host, "*"))
        return want.port.n == 0 || slice_is(want.port, "*") || same(want.port, origin->port);
    if (want.host.p[0] == '*') {
        if (!ends_with(origin->host, (struct slice){want.host.p + 1, want.host.n - 1}))
            return false;
    } else if (!same(want.host, origin->host)) {
        return false;
    }
    return slice_is(want.port, "*") || same(want.port, origin->port);
}

bool origin_is_listed(const char *const *patterns, size_t count, const char *origin, size_t n)
{
    bool no_origin = text_equals(origin, n, "null"), valid;
    struct parts parts = {0};

    valid = !no_origin && text_is_printable(origin, n) && split(&parts, origin, n);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(patterns[i], "*") == 0)
            return true;
        if (no_origin ? strcmp(patterns[i], "null") == 0
                      : valid && matches(patterns[i], &parts))
            return true;
    }
    return false;
}

static bool is_port(struct slice port)
{
    unsigned value = 0;

    if (port.n == 0 || slice_is(port, "*"))
        return true;
    for (size_t i = 0; i < port.n; i++) {
        if (port.p[i] < '0' || port.p[i] > '9' || port.n > 5)
            return false;
        value = value * 10 + (unsigned)(port.p[i] - '0');
    }
    return value >= 1 && value <= UINT16_MAX;
}

int origin_pattern_check(const char *pattern, struct error *err)
{
    size_t n = strlen(pattern);
    struct parts parts;
    const char *star;

    if (strcmp(pattern, "*") == 0 || strcmp(pattern, "null") == 0 ||
        strcmp(pattern, ORIGINS_LOOPBACK) == 0)
        return 0;
    if (n != 0 && pattern[n - 1] == '/')
        return error_set(err, DRV_EINVAL,
                         "an origin has no path; leave out the slash at the end");
    if (!text_is_printable(pattern, n) || memchr(pattern, ' ', n) != NULL ||
        !split(&parts, pattern, n) || memchr(parts.scheme.p, '*', parts.scheme.n) != NULL)
        return error_set(err, DRV_EINVAL,
                         "an origin is SCHEME://HOST[:PORT], as https://chat.example.com or "
                         "app://*; or 'loopback', 'null' or '*'");
    star = memchr(parts.host.p, '*', parts.host.n);
    if (star != NULL && parts.host.n != 1 &&
        (star != parts.host.p || parts.host.n < 3 || parts.host.p[1] != '.' ||
         memchr(star + 1, '*', parts.host.n - 1) != NULL))
        return error_set(err, DRV_EINVAL,
                         "'*' stands for a whole host, or for what is before a dot: "
                         "https://*.example.com");
    if (!is_port(parts.port))
        return error_set(err, DRV_EINVAL, "the port must be from 1 to 65535, or *");
    return 0;
}
