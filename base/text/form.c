/* form.c - the fields of a multipart/form-data body. */
#include "base/text/form.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_BOUNDARY 70 /* RFC 2046, 5.1.1 */

static bool boundary_of(const char *content_type, char *out, size_t cap)
{
    const char *at;
    size_t n;

    if (content_type == NULL || strncasecmp(content_type, "multipart/form-data", 19) != 0)
        return false;
    at = strcasestr(content_type, "boundary=");
    if (at == NULL)
        return false;
    at += strlen("boundary=");
    n = *at == '"' ? strcspn(++at, "\"") : strcspn(at, "; \t");
    if (n == 0 || n > MAX_BOUNDARY)
        return false;
    return snprintf(out, cap, "--%.*s", (int)n, at) < (int)cap;
}

/* Does a part's head have `name="wanted"`, and not as the end of `filename="..."`? */
static bool head_names(const char *head, size_t len, const char *wanted)
{
    const char *end = head + len, *at = head;
    size_t n = strlen(wanted);

    while ((at = memmem(at, (size_t)(end - at), "name=\"", 6)) != NULL) {
        bool whole = at > head && (at[-1] == ' ' || at[-1] == ';');

        at += 6;
        if (whole && (size_t)(end - at) > n && memcmp(at, wanted, n) == 0 && at[n] == '"')
            return true;
    }
    return false;
}

bool form_find(const char *content_type, const void *body, size_t len, const char *name,
               const char **value, size_t *value_len)
{
    char boundary[MAX_BOUNDARY + 3];
    const char *at = body, *end;
    size_t boundary_len;

    if (len == 0 || !boundary_of(content_type, boundary, sizeof(boundary)))
        return false;
    boundary_len = strlen(boundary);
    end = at + len;
    at = memmem(at, len, boundary, boundary_len);
    while (at != NULL) {
        const char *head = at + boundary_len;
        const char *blank = memmem(head, (size_t)(end - head), "\r\n\r\n", 4), *next;

        if (blank == NULL)
            return false;
        next = memmem(blank + 4, (size_t)(end - blank - 4), boundary, boundary_len);
        if (next == NULL || next - (blank + 4) < 2)
            return false;
        if (head_names(head, (size_t)(blank - head), name)) {
            *value = blank + 4;
            *value_len = (size_t)(next - 2 - *value); /* without the line end before it */
            return true;
        }
        at = next;
    }
    return false;
}
