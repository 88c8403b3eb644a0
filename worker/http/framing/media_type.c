/* media_type.c - which content types a request may have. */
#include "worker/http/framing/media_type.h"

#include <string.h>
#include <strings.h>

#include "base/text/text.h"

/* The type without its parameters. */
static size_t type_bytes(const char *value, size_t n)
{
    size_t len = 0;

    while (len < n && strchr("; \t,", value[len]) == NULL)
        len++;
    return len;
}

static bool is_type(const char *value, size_t n, const char *expected)
{
    return type_bytes(value, n) == strlen(expected) &&
           strncasecmp(value, expected, strlen(expected)) == 0;
}

/* By a browser, for any web page. */
static bool is_sent_unasked(const char *value, size_t n)
{
    return type_bytes(value, n) == 0 || is_type(value, n, "text/plain") ||
           is_type(value, n, "application/x-www-form-urlencoded");
}

bool media_type_fits(const char *value, size_t n, bool form, bool stranger)
{
    bool is_form = is_type(value, n, "multipart/form-data");

    if (form)
        return is_form && text_is_printable(value, n);
    return !is_form && !(stranger && is_sent_unasked(value, n));
}
