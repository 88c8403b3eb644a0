/* addresses.c - the addresses of a host name, and what the node at each is called. */
#include "health/names/addresses.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct address *)a)->text, ((const struct address *)b)->text);
}

bool addresses_has(const struct addresses *addresses, const char *text)
{
    for (unsigned i = 0; i < addresses->count; i++) {
        if (strcmp(addresses->at[i].text, text) == 0)
            return true;
    }
    return false;
}

void addresses_set(struct addresses *out, const struct net_addr *list, size_t n)
{
    out->count = 0;
    for (size_t i = 0; i < n && out->count < ADDRESSES_MAX; i++) {
        char text[NET_TEXT_BYTES];

        if (list[i].sa.ss_family != list[0].sa.ss_family)
            continue;
        net_format(text, sizeof(text), &list[i]);
        if (strlen(text) >= NODE_ADDRESS_BYTES || addresses_has(out, text))
            continue;
        (void)strlcpy(out->at[out->count].text, text, NODE_ADDRESS_BYTES);
        out->at[out->count++].addr = list[i];
    }
    qsort(out->at, out->count, sizeof(out->at[0]), compare);
}

void addresses_name(char out[NODE_NAME_BYTES], const char *name, const struct address *address,
                    unsigned count)
{
    char host[NET_TEXT_BYTES];
    size_t room;

    if (count == 1) {
        (void)strlcpy(out, name, NODE_NAME_BYTES);
        return;
    }
    net_format_host(host, sizeof(host), &address->addr);
    for (char *p = host; *p != '\0'; p++) {
        if (*p == ':' || *p == '%')
            *p = '_';
    }
    host[NODE_NAME_BYTES - 3] = '\0'; /* longer than any address */
    room = NODE_NAME_BYTES - 2 - strlen(host);
    (void)strlcpy(out, name, room + 1);
    (void)strlcat(out, "-", NODE_NAME_BYTES);
    (void)strlcat(out, host, NODE_NAME_BYTES);
}

bool addresses_is_name(const char *derived, const char *name)
{
    const char *dash = strrchr(derived, '-');
    size_t n = dash == NULL ? 0 : (size_t)(dash - derived);

    if (strcmp(derived, name) == 0)
        return true;
    if (n == 0 || strncmp(derived, name, n) != 0)
        return false;
    return n == strlen(name) || strlen(derived) == NODE_NAME_BYTES - 1; /* cut to fit */
}
