/* forwarded.c - the client of a request that came through proxies. */
#include "worker/http/framing/forwarded.h"

#include <string.h>

/* "10.0.0.1", "10.0.0.1:80", "2600::1", "[2600::1]", "[2600::1]:80", any of them in quotes. */
static bool parse_hop(struct peer_address *out, const char *p, size_t n)
{
    const char *end;

    if (n >= 2 && p[0] == '"' && p[n - 1] == '"') {
        p++;
        n -= 2;
    }
    if (n != 0 && p[0] == '[') {
        end = memchr(p, ']', n);
        if (end == NULL || (end + 1 != p + n && end[1] != ':'))
            return false;
        p++;
        n = (size_t)(end - p);
    } else {
        end = memchr(p, ':', n);
        if (end != NULL && memchr(end + 1, ':', n - (size_t)(end + 1 - p)) == NULL)
            n = (size_t)(end - p); /* the port of an IPv4 address */
    }
    return peer_address_parse(out, p, n);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

bool forwarded_walk(struct peer_address *hop, const char *value, size_t n,
                    const struct proxy_net *trusted, unsigned trusted_count)
{
    for (;;) {
        const char *comma = memrchr(value, ',', n);
        const char *p = comma == NULL ? value : comma + 1, *end = value + n;
        struct peer_address before;

        if (!proxies_have(trusted, trusted_count, hop))
            return false;
        while (p < end && is_space(*p))
            p++;
        while (end > p && is_space(end[-1]))
            end--;
        if (!parse_hop(&before, p, (size_t)(end - p)))
            return false;
        *hop = before;
        if (comma == NULL)
            return true;
        n = (size_t)(comma - value);
    }
}
