/* headers.c - which HTTP headers pass between a client and an engine. */
#include "node/engine/headers.h"

#include <stddef.h>
#include <string.h>

static bool is_token(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > HEADERS_MAX_NAME_BYTES)
        return false;
    for (const char *p = name; *p != '\0'; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '-' || *p == '_'))
            return false;
    return true;
}

bool headers_value_ok(const char *value)
{
    size_t n = 0;

    for (const char *p = value; *p != '\0'; p++, n++)
        if (*p < 0x20 || *p > 0x7e)
            return false;
    return n <= HEADERS_MAX_VALUE_BYTES;
}

static bool starts(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

bool headers_to_engine(const char *name, const char *value)
{
    if (!is_token(name) || !headers_value_ok(value))
        return false;
    return strcmp(name, "x-request-id") == 0 || strcmp(name, "traceparent") == 0 ||
           strcmp(name, "tracestate") == 0 || strcmp(name, "x-session-id") == 0 ||
           starts(name, "anthropic-") || starts(name, "openai-") ||
           starts(name, "x-claude-code-");
}

bool headers_to_client(const char *name, const char *value)
{
    if (!is_token(name) || !headers_value_ok(value))
        return false;
    return strcmp(name, "x-request-id") == 0 || strcmp(name, "retry-after") == 0 ||
           starts(name, "openai-");
}
