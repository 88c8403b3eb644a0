/* tokens.c - see tokens.h. */
#include "base/secure/tokens.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"

#define SPACE " \t\r"

static bool is_good(const char *token, size_t n)
{
    if (n < TOKEN_MIN_BYTES || n > TOKEN_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        if (token[i] <= 0x20 || token[i] >= 0x7f)
            return false;
    return true;
}

int tokens_parse(char out[TOKENS_MAX][TOKEN_MAX_BYTES + 1], const char *text, struct error *err)
{
    unsigned count = 0;

    memset(out, 0, sizeof(out[0]) * TOKENS_MAX);
    while (*text != '\0') {
        const char *line = text + strspn(text, SPACE);
        size_t n = strcspn(line, "\n");

        text = line + n + (line[n] == '\n');
        while (n > 0 && strchr(SPACE, line[n - 1]) != NULL)
            n--;
        if (n == 0 || line[0] == '#')
            continue;
        if (count == TOKENS_MAX)
            return error_set(err, DRV_EINVAL,
                             "more than two tokens (the present and the previous)");
        if (!is_good(line, n))
            return error_set(err, DRV_EINVAL,
                             "token %u is not %d to %d printable ASCII characters without "
                             "spaces",
                             count + 1, TOKEN_MIN_BYTES, TOKEN_MAX_BYTES);
        memcpy(out[count++], line, n);
    }
    if (count == 0)
        return error_set(err, DRV_EINVAL, "it is empty; it must hold a token");
    return 0;
}
