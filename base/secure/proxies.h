/*
 * proxies.h - addresses of clients, and the proxies whose word on them counts:
 * api.trusted_proxies.  Pure.
 *
 * An entry is an address (10.0.0.7, ::1), a net (10.0.0.0/8, fd00::/8) or `unix`: whoever
 * connects by a Unix socket.  IPv4 addresses that are written as IPv6 ones count as IPv4.
 */
#ifndef DROVER_BASE_SECURE_PROXIES_H
#define DROVER_BASE_SECURE_PROXIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/attrs.h"

struct error;

/* Where a connection comes from, without its port. */
struct peer_address {
    uint8_t raw[16]; /* IPv4 as IPv6 */
    bool local;      /* by a Unix socket: it has none */
};

#define PEER_TEXT_BYTES 46 /* with NUL */

void peer_address_of(struct peer_address *out, const struct sockaddr_storage *sa);
/* "10.0.0.7", "2001:db8::1".  `text` need not end with NUL. */
MUST_CHECK bool peer_address_parse(struct peer_address *out, const char *text, size_t n);
/* "unix" when it has none. */
void peer_address_text(char out[PEER_TEXT_BYTES], const struct peer_address *address);
/* As net_peer_key() of its socket address. */
uint64_t peer_address_key(const struct peer_address *address);

/* One entry, checked. */
struct proxy_net {
    struct peer_address address;
    uint8_t bits; /* of it that count */
};

/* DRV_EINVAL with the reason. */
MUST_CHECK int proxy_net_parse(struct proxy_net *out, const char *text, struct error *err);
MUST_CHECK bool proxies_have(const struct proxy_net *list, unsigned n,
                             const struct peer_address *address);

#endif
