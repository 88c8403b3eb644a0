/* headers.c - which HTTP headers pass between a client and an engine. */
#include "node/engine/headers.h"

#include <stddef.h>
#include <string.h>

#include "base/text/text.h"
#include "node/engine/engine.h"

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
    size_t n = strlen(value);

    return n <= HEADERS_MAX_VALUE_BYTES && text_is_printable(value, n);
}

static bool starts_with(const char *name, const char *prefix)
{
    return text_starts_with(name, strlen(name), prefix);
}

bool headers_to_engine(const char *name, const char *value)
{
    if (!is_token(name) || !headers_value_ok(value))
        return false;
    return strcmp(name, "x-client-request-id") == 0 || strcmp(name, "traceparent") == 0 ||
           strcmp(name, "tracestate") == 0 || strcmp(name, "x-session-id") == 0 ||
           strcmp(name, "x-drover-via") == 0 || starts_with(name, "anthropic-") ||
           starts_with(name, "openai-") || starts_with(name, "x-claude-code-");
}

bool headers_to_client(const char *name, const char *value)
{
    if (!is_token(name) || !headers_value_ok(value))
        return false;
    return strcmp(name, "x-request-id") == 0 || strcmp(name, "retry-after") == 0 ||
           starts_with(name, "openai-");
}

bool headers_split(const char *line, size_t n, char *name, size_t name_cap, char *value,
                   size_t value_cap)
{
    const char *colon = memchr(line, ':', n);
    size_t name_len, value_len;

    if (colon == NULL)
        return false;
    name_len = (size_t)(colon - line);
    colon++;
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r' || line[n - 1] == ' '))
        n--;
    while (colon < line + n && *colon == ' ')
        colon++;
    value_len = colon < line + n ? (size_t)(line + n - colon) : 0;
    if (name_len >= name_cap || value_len >= value_cap)
        return false;
    for (size_t i = 0; i < name_len; i++)
        name[i] = (char)(line[i] >= 'A' && line[i] <= 'Z' ? line[i] + 32 : line[i]);
    name[name_len] = '\0';
    memcpy(value, colon, value_len);
    value[value_len] = '\0';
    return memchr(value, '\0', value_len) == NULL;
}

void headers_point(struct engine_header *headers, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++) {
        headers[i].name = text;
        text += strlen(text) + 1;
        headers[i].value = text;
        text += strlen(text) + 1;
    }
}
