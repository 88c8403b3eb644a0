/* net.c - addresses as text, sockets that listen. */
#include "base/io/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

#define UNIX_PREFIX "unix:"
#define HOST_BYTES  256 /* a DNS name has at most 253 characters */

static int parse_port(const char *text, uint16_t *port, struct error *err)
{
    uint32_t value = 0;
    size_t n = strlen(text);

    if (n == 0)
        return error_set(err, DRV_EINVAL, "the port is missing");
    if (n > 5 || strspn(text, "0123456789") != n)
        return error_set(err, DRV_EINVAL, "the port is not a number from 0 to 65535");
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (uint32_t)(text[i] - '0');
    if (value > UINT16_MAX)
        return error_set(err, DRV_EINVAL, "the port is not a number from 0 to 65535");
    *port = (uint16_t)value;
    return 0;
}

/* Names and IPv4 addresses; what stands in brackets is checked by inet_pton() instead. */
static bool host_well_formed(const char *host, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = host[i];

        if ((c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' &&
            c != '-' && c != '_')
            return false;
    }
    return true;
}

int net_split(const char *text, char *host, size_t host_cap, uint16_t *port, struct error *err)
{
    const char *start = text, *end, *colon;
    struct in6_addr v6;
    char scopeless[INET6_ADDRSTRLEN];
    size_t n;

    if (text[0] == '[') {
        start = text + 1;
        end = strchr(start, ']');
        if (end == NULL)
            return error_set(err, DRV_EINVAL, "the bracket is not closed");
        colon = end + 1;
        if (*colon != ':')
            return error_set(err, DRV_EINVAL, "the port is missing");
        n = strcspn(start, "%]");
        if (n >= sizeof(scopeless))
            return error_set(err, DRV_EINVAL, "no IPv6 address between the brackets");
        memcpy(scopeless, start, n);
        scopeless[n] = '\0';
        if (inet_pton(AF_INET6, scopeless, &v6) != 1)
            return error_set(err, DRV_EINVAL, "no IPv6 address between the brackets");
    } else {
        colon = strrchr(text, ':');
        if (colon == NULL)
            return error_set(err, DRV_EINVAL, "the port is missing");
        end = colon;
        if (memchr(text, ':', (size_t)(end - text)) != NULL)
            return error_set(err, DRV_EINVAL, "an IPv6 address needs brackets: [ADDRESS]:PORT");
        if (!host_well_formed(start, (size_t)(end - start)))
            return error_set(err, DRV_EINVAL, "the host has a character no host can have");
    }
    n = (size_t)(end - start);
    if (n == 0)
        return error_set(err, DRV_EINVAL, "the host is missing");
    if (n >= host_cap)
        return error_set(err, DRV_EINVAL, "the host is too long");
    memcpy(host, start, n);
    host[n] = '\0';
    return parse_port(colon + 1, port, err);
}

/* Length of a scheme before "://"; 0: none. */
static size_t scheme_len(const char *text)
{
    size_t n =
        strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+.-");

    return n != 0 && strncmp(text + n, "://", 3) == 0 ? n : 0;
}

int net_take_url(char *out, size_t cap, const char *text, bool tls, struct error *err)
{
    size_t scheme = scheme_len(text), n;
    const char *at, *user, *rest, *colon;
    bool plain, secure, ported;

    if (scheme == 0 || strncmp(text, "unix:", 5) == 0) {
        if (strlcpy(out, text, cap) < cap)
            return 0;
        return error_set(err, DRV_EINVAL, "the address is too long");
    }
    plain = scheme == 4 && strncasecmp(text, "http", 4) == 0;
    secure = scheme == 5 && strncasecmp(text, "https", 5) == 0;
    at = text + scheme + strlen("://");
    n = strcspn(at, "/?#");
    rest = at + n;
    user = memrchr(at, '@', n);
    if (user != NULL) { /* and perhaps a password */
        n -= (size_t)(user + 1 - at);
        at = user + 1;
    }
    if (strchr(at, '@') != NULL) /* what is before it is a part of a password, perhaps */
        return error_set(err, DRV_EINVAL, "is a URL with a '@' in its path; write HOST:PORT");
    if (n >= cap)
        return error_set(err, DRV_EINVAL, "is a URL, and too long; write HOST:PORT");
    memcpy(out, at, n);
    out[n] = '\0';
    colon = strrchr(out, ':');
    ported = colon != NULL && (out[0] != '[' || strchr(colon, ']') == NULL);
    if (user == NULL && ported && (tls ? secure : plain) &&
        (rest[0] == '\0' || strcmp(rest, "/") == 0))
        return 0;
    if (secure && !tls)
        return error_set(
            err, DRV_EINVAL,
            "is a URL of a server with TLS, which is off here; write %.80s%s and switch TLS on",
            out, ported ? "" : ":PORT");
    if (plain && tls)
        return error_set(err, DRV_EINVAL,
                         "is a URL without TLS, which is on here; write %.80s%s", out,
                         ported ? "" : ":PORT");
    return error_set(err, DRV_EINVAL, "is a URL; write %.80s%s", out, ported ? "" : ":PORT");
}

static int parse_unix(struct net_addr *out, const char *path, struct error *err)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&out->sa;

    if (path[0] != '/')
        return error_set(err, DRV_EINVAL, "the path of a Unix socket must start with /");
    if (strlen(path) >= sizeof(un->sun_path))
        return error_set(err, DRV_EINVAL,
                         "the path of a Unix socket has at most %zu characters",
                         sizeof(un->sun_path) - 1);
    memset(out, 0, sizeof(*out));
    un->sun_family = AF_UNIX;
    (void)snprintf(un->sun_path, sizeof(un->sun_path), "%s", path);
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
    return 0;
}

/* Stores up to `cap` addresses, and returns how many. */
static int resolve(struct net_addr *out, size_t cap, const char *text, int flags,
                   struct error *err)
{
    char host[HOST_BYTES], service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    uint16_t port;
    int rc, n = 0;

    memset(out, 0, sizeof(*out));
    if (strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
        rc = parse_unix(out, text + strlen(UNIX_PREFIX), err);
        return rc != 0 ? rc : 1;
    }
    rc = net_split(text, host, sizeof(host), &port, err);
    if (rc != 0)
        return rc;
    (void)snprintf(service, sizeof(service), "%u", (unsigned)port);
    rc = getaddrinfo(host, service, &hints, &list);
    if (rc == EAI_SYSTEM)
        return error_sys(err, "resolve");
    if (rc == EAI_MEMORY)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (rc != 0) {
        if ((flags & AI_NUMERICHOST) != 0)
            return error_set(err, DRV_EINVAL, "the host is not a numeric address");
        return error_set(err, DRV_ENOENT, "%s", gai_strerror(rc));
    }
    for (const struct addrinfo *ai = list; ai != NULL && (size_t)n < cap; ai = ai->ai_next) {
        memset(&out[n], 0, sizeof(out[n]));
        memcpy(&out[n].sa, ai->ai_addr, ai->ai_addrlen);
        out[n++].len = ai->ai_addrlen;
    }
    freeaddrinfo(list);
    return n;
}

int net_resolve(struct net_addr *out, const char *text, struct error *err)
{
    int n = resolve(out, 1, text, 0, err);

    return n < 0 ? n : 0;
}

int net_resolve_all(struct net_addr *out, size_t cap, const char *text, struct error *err)
{
    return resolve(out, cap, text, 0, err);
}

int net_parse(struct net_addr *out, const char *text, struct error *err)
{
    int n = resolve(out, 1, text, AI_NUMERICHOST, err);

    return n < 0 ? n : 0;
}

void net_format_host(char *out, size_t cap, const struct net_addr *addr)
{
    const struct sockaddr *sa = (const struct sockaddr *)&addr->sa;

    if (cap == 0)
        return;
    out[0] = '\0';
    if (addr->len == 0 || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
        return;
    /* Longer than the buffer: better nothing than half an address. */
    if (getnameinfo(sa, addr->len, out, (socklen_t)(cap > INT_MAX ? INT_MAX : cap), NULL, 0,
                    NI_NUMERICHOST) != 0)
        out[0] = '\0';
}

uint16_t net_port(const struct net_addr *addr)
{
    if (addr->len == 0)
        return 0;
    if (addr->sa.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&addr->sa)->sin_port);
    if (addr->sa.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&addr->sa)->sin6_port);
    return 0;
}

void net_unmap(struct net_addr *addr)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&addr->sa;
    struct sockaddr_in in = {.sin_family = AF_INET};

    if (addr->len < sizeof(*in6) || addr->sa.ss_family != AF_INET6 ||
        !IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        return;
    in.sin_port = in6->sin6_port;
    memcpy(&in.sin_addr, in6->sin6_addr.s6_addr + 12, sizeof(in.sin_addr));
    memset(addr, 0, sizeof(*addr));
    memcpy(&addr->sa, &in, sizeof(in));
    addr->len = sizeof(in);
}

uint64_t net_peer_key(const struct sockaddr *sa)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    uint64_t key = 0;

    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;

        memcpy(&key, &in->sin_addr, sizeof(in->sin_addr));
        key |= UINT64_C(1) << 63;
    } else if (sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        memcpy(&key, in6->sin6_addr.s6_addr + 12, sizeof(struct in_addr));
        key |= UINT64_C(1) << 63;
    } else if (sa->sa_family == AF_INET6) {
        memcpy(&key, &in6->sin6_addr, sizeof(key));
        key |= UINT64_C(1) << 62;
    }
    return key;
}

void net_format(char *out, size_t cap, const struct net_addr *addr)
{
    char host[NET_TEXT_BYTES];

    if (cap == 0)
        return;
    out[0] = '\0';
    if (addr->len == 0)
        return;
    if (addr->sa.ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&addr->sa;
        size_t head = offsetof(struct sockaddr_un, sun_path);
        size_t n = addr->len > head ? strnlen(un->sun_path, addr->len - head) : 0;

        (void)snprintf(out, cap, UNIX_PREFIX "%.*s", (int)n, un->sun_path);
        return;
    }
    net_format_host(host, sizeof(host), addr);
    (void)snprintf(out, cap, addr->sa.ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
                   (unsigned)net_port(addr));
}

/* Removes the file of a Unix socket that has no listener any more.  A live one, or a file
 * that is no socket, stays, and bind() fails. */
static void remove_stale(const struct net_addr *addr)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&addr->sa;
    struct stat st;
    int fd;

    if (lstat(un->sun_path, &st) == -1 || !S_ISSOCK(st.st_mode))
        return;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return;
    if (connect(fd, (const struct sockaddr *)&addr->sa, addr->len) == -1 &&
        errno == ECONNREFUSED)
        (void)unlink(un->sun_path);
    (void)close(fd);
}

bool net_is_local(const char *text)
{
    struct in6_addr v6;
    struct in_addr v4;
    char host[HOST_BYTES];
    uint16_t port;

    if (strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        return true;
    if (net_split(text, host, sizeof(host), &port, NULL) != 0)
        return false;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcasecmp(host, "localhost") == 0;
}

static bool v4_is_private(uint32_t address)
{
    return address >> 24 == IN_LOOPBACKNET || address >> 24 == 10 ||
           address >> 20 == (172 << 4 | 1) || address >> 16 == (192 << 8 | 168) ||
           address >> 16 == (169 << 8 | 254) || address >> 22 == (100 << 2 | 1);
}

bool net_is_private(const char *address)
{
    struct in6_addr v6;
    struct in_addr v4;

    if (inet_pton(AF_INET, address, &v4) == 1)
        return v4_is_private(ntohl(v4.s_addr));
    if (inet_pton(AF_INET6, address, &v6) != 1)
        return false;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
        memcpy(&v4, v6.s6_addr + 12, sizeof(v4));
        return v4_is_private(ntohl(v4.s_addr));
    }
    return IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_LINKLOCAL(&v6) ||
           (v6.s6_addr[0] & 0xfe) == 0xfc;
}

int net_listen(const char *text, int backlog, struct error *err)
{
    struct net_addr addr;
    int one = 1;
    int fd, rc;

    rc = net_resolve(&addr, text, err);
    if (rc != 0)
        return rc;
    fd = socket(addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return error_sys(err, "socket");
    if (addr.sa.ss_family == AF_UNIX) {
        remove_stale(&addr);
    } else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == -1) {
        rc = error_sys(err, "SO_REUSEADDR");
        goto fail;
    }
    if (bind(fd, (const struct sockaddr *)&addr.sa, addr.len) == -1) {
        rc = error_sys(err, "bind");
        goto fail;
    }
    if (listen(fd, backlog) == -1) {
        rc = error_sys(err, "listen");
        goto fail;
    }
    return fd;

fail:
    (void)close(fd);
    return rc;
}

int net_local(struct net_addr *out, int fd, struct error *err)
{
    memset(out, 0, sizeof(*out));
    out->len = sizeof(out->sa);
    if (getsockname(fd, (struct sockaddr *)&out->sa, &out->len) == -1) {
        out->len = 0;
        return error_sys(err, "getsockname");
    }
    return 0;
}
