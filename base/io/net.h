/* net.h - addresses as text, sockets that listen. */
#ifndef DROVER_BASE_NET_H
#define DROVER_BASE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/attrs.h"

struct error;

struct net_addr {
    struct sockaddr_storage sa;
    socklen_t len; /* 0 = none */
};

/*
 * Splits "HOST:PORT" or "[V6]:PORT".  Checks syntax only.  DRV_EINVAL with the reason.
 */
MUST_CHECK int net_split(const char *text, char *host, size_t host_cap, uint16_t *port,
                         struct error *err);

/*
 * Takes a URL where an address is wanted: of "http://HOST:PORT" (with `tls`
 * "https://HOST:PORT"), with or without a '/' at its end, HOST:PORT is left in `out`; what is
 * no URL is copied. DRV_EINVAL: a URL that says something else too, or is too long; the reason,
 * "is a URL; write HOST:PORT", quotes only host and port.
 */
MUST_CHECK int net_take_url(char *out, size_t cap, const char *text, bool tls,
                            struct error *err);

/* Resolves "HOST:PORT", "[V6]:PORT" or "unix:/PATH" to the first address.  May block on DNS
 * when HOST is a name: for start-up and tools only.  DRV_EINVAL: syntax; DRV_ENOENT: no such
 * host. */
MUST_CHECK int net_resolve(struct net_addr *out, const char *text, struct error *err);

/* As net_resolve(), but all addresses, as the resolver has them, `cap` at most.  Returns how
 * many were stored, at least 1, or the error. */
MUST_CHECK int net_resolve_all(struct net_addr *out, size_t cap, const char *text,
                               struct error *err);

/* As net_resolve(), but HOST must be a numeric address; never blocks. */
MUST_CHECK int net_parse(struct net_addr *out, const char *text, struct error *err);

/* "10.0.0.5:80", "[::1]:80", "unix:/x"; always NUL-terminated. */
void net_format(char *out, size_t cap, const struct net_addr *addr);
#define NET_TEXT_BYTES 128

/* The numeric host alone, without port or brackets. */
void net_format_host(char *out, size_t cap, const struct net_addr *addr);
uint16_t net_port(const struct net_addr *addr);

/* An IPv4 address in IPv6's clothes, as a listener on [::] gets it, becomes an IPv4 address. */
void net_unmap(struct net_addr *addr);

/* Equal for peers that count as one: by the IPv4 address, also a mapped one, or by the /64 of
 * an IPv6 address, because one host has all of that.  0 for families without hosts (Unix). */
uint64_t net_peer_key(const struct sockaddr *sa);

/* Does only this machine reach what listens there: a loopback address, "localhost", a Unix
 * socket? By the text alone: any other name counts as reachable. */
MUST_CHECK bool net_is_local(const char *text);

/* Is the numeric address, without a port, of this machine or of a private network: loopback,
 * RFC 1918, link-local, 100.64.0.0/10 (carriers, overlay networks), IPv6 fc00::/7?  Text that
 * is no address is not. */
MUST_CHECK bool net_is_private(const char *address);

/* Binds and listens: close-on-exec, non-blocking, SO_REUSEADDR.  A stale Unix socket file is
 * replaced.  Returns the descriptor, or DRV_ESYS / DRV_EINVAL / DRV_ENOENT with `err` set. */
MUST_CHECK int net_listen(const char *text, int backlog, struct error *err);

/* The address a socket is bound to (after binding port 0). */
MUST_CHECK int net_local(struct net_addr *out, int fd, struct error *err);

#endif
