/* host.c - is a request's Host header ours? */
#include "health/admin/host.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

bool host_is_local(const char *host, size_t n)
{
    char name[INET6_ADDRSTRLEN + 2], *port;
    unsigned char raw[16];

    if (n >= sizeof(name))
        return false;
    memcpy(name, host, n);
    name[n] = '\0';
    if (strlen(name) != n)
        return false;
    port = strrchr(name, ':');
    if (name[0] == '[') {
        char *end = strchr(name, ']');

        if (end == NULL || (end[1] != '\0' && end[1] != ':'))
            return false;
        *end = '\0';
        return inet_pton(AF_INET6, name + 1, raw) == 1;
    }
    if (port != NULL)
        *port = '\0';
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, raw) == 1;
}
