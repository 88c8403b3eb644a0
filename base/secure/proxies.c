/* proxies.c - addresses of clients, and the proxies whose word on them counts. */
#include "base/secure/proxies.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/io/net.h"

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
#define V4_BITS (sizeof(v4_prefix) * 8)

/* ---- addresses --------------------------------------------------------------------------- */

static bool is_v4(const struct peer_address *address)
{
    return memcmp(address->raw, v4_prefix, sizeof(v4_prefix)) == 0;
}

void peer_address_of(struct peer_address *out, const struct sockaddr_storage *sa)
{
    *out = (struct peer_address){.local = false};
    if (sa->ss_family == AF_INET) {
        memcpy(out->raw, v4_prefix, sizeof(v4_prefix));
        memcpy(out->raw + sizeof(v4_prefix),
               &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
    } else if (sa->ss_family == AF_INET6) {
        memcpy(out->raw, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    } else {
        out->local = true;
    }
}

bool peer_address_parse(struct peer_address *out, const char *text, size_t n)
{
    char copy[PEER_TEXT_BYTES];

    *out = (struct peer_address){.local = false};
    if (n >= sizeof(copy) || memchr(text, '\0', n) != NULL)
        return false;
    memcpy(copy, text, n);
    copy[n] = '\0';
    memcpy(out->raw, v4_prefix, sizeof(v4_prefix));
    return inet_pton(AF_INET, copy, out->raw + sizeof(v4_prefix)) == 1 ||
           inet_pton(AF_INET6, copy, out->raw) == 1;
}

void peer_address_text(char out[PEER_TEXT_BYTES], const struct peer_address *address)
{
    const char *text = NULL;

    if (!address->local)
        text = is_v4(address)
                   ? inet_ntop(AF_INET, address->raw + sizeof(v4_prefix), out, PEER_TEXT_BYTES)
                   : inet_ntop(AF_INET6, address->raw, out, PEER_TEXT_BYTES);
    if (text == NULL)
        (void)strlcpy(out, "unix", PEER_TEXT_BYTES);
}

uint64_t peer_address_key(const struct peer_address *address)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6};

    if (address->local)
        return 0;
    memcpy(&sa.sin6_addr, address->raw, sizeof(address->raw));
    return net_peer_key((const struct sockaddr *)&sa);
}

/* ---- proxies ----------------------------------------------------------------------------- */

static bool has_only(const uint8_t raw[16], unsigned bits)
{
    for (unsigned i = bits; i < 128; i++)
        if ((raw[i / 8] >> (7 - i % 8) & 1) != 0)
            return false;
    return true;
}

int proxy_net_parse(struct proxy_net *out, const char *text, struct error *err)
{
    const char *slash = strchr(text, '/');
    size_t n = slash == NULL ? strlen(text) : (size_t)(slash - text);
    unsigned long bits, most;
    char *end;

    *out = (struct proxy_net){.bits = 128};
    if (strcmp(text, "unix") == 0) {
        out->address.local = true;
        return 0;
    }
    if (!peer_address_parse(&out->address, text, n))
        return error_set(err, DRV_EINVAL, "an entry is ADDRESS, ADDRESS/BITS or unix");
    if (slash == NULL)
        return 0;
    most = memchr(text, ':', n) == NULL ? 32 : 128;
    bits = strtoul(slash + 1, &end, 10);
    if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > most)
        return error_set(err, DRV_EINVAL, "a net of such addresses has 0 to %lu bits", most);
    out->bits = (uint8_t)(most == 32 ? V4_BITS + bits : bits);
    if (!has_only(out->address.raw, out->bits))
        return error_set(err, DRV_EINVAL, "the address has bits beyond its first %lu", bits);
    return 0;
}

static bool is_in(const struct proxy_net *net, const struct peer_address *address)
{
    unsigned whole = net->bits / 8, rest = net->bits % 8;

    if (net->address.local || address->local)
        return net->address.local && address->local;
    if (memcmp(net->address.raw, address->raw, whole) != 0)
        return false;
    return rest == 0 || (net->address.raw[whole] ^ address->raw[whole]) >> (8 - rest) == 0;
}

bool proxies_have(const struct proxy_net *list, unsigned n, const struct peer_address *address)
{
    for (unsigned i = 0; i < n; i++)
        if (is_in(&list[i], address))
            return true;
    return false;
}
