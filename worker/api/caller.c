/* caller.c - maps an API key to the caller's name. */
#include "worker/api/caller.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config/config.h"
#include "base/error.h"
#include "shm/facts/usage.h"

int callers_init(struct callers *callers, const struct api_keys *keys, struct scoreboard *board,
                 struct error *err)
{
    callers->keys = keys;
    callers->usage_rows = NULL;
    if (keys->count == 0)
        return 0;
    callers->usage_rows = calloc(keys->count, sizeof(*callers->usage_rows));
    if (callers->usage_rows == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    for (unsigned i = 0; i < keys->count; i++)
        callers->usage_rows[i] = usage_claim(board, keys->list[i].name);
    return 0;
}

void callers_finish(struct callers *callers)
{
    free(callers->usage_rows);
    callers->usage_rows = NULL;
}

/* Where the key begins in "Bearer KEY"; at the end when it is another scheme. */
static size_t skip_scheme(const char *text, size_t len)
{
    static const char scheme[] = "bearer";
    size_t n = sizeof(scheme) - 1;

    if (len <= n || strncasecmp(text, scheme, n) != 0 || (text[n] != ' ' && text[n] != '\t'))
        return len;
    while (n < len && (text[n] == ' ' || text[n] == '\t'))
        n++;
    return n;
}

bool callers_find(const struct callers *callers, const struct caller_headers *headers,
                  const char **name, int *usage_row, bool *shown)
{
    size_t skipped = skip_scheme(headers->authorization, headers->authorization_len);
    size_t bearer_len = headers->authorization_len - skipped;
    int found = -1;

    *shown = bearer_len != 0 || headers->x_api_key_len != 0 || headers->api_key_len != 0;
    if (bearer_len != 0)
        found = api_keys_find(callers->keys, headers->authorization + skipped, bearer_len);
    if (found == -1 && headers->x_api_key_len != 0)
        found = api_keys_find(callers->keys, headers->x_api_key, headers->x_api_key_len);
    if (found == -1 && headers->api_key_len != 0)
        found = api_keys_find(callers->keys, headers->api_key, headers->api_key_len);
    if (found == -1)
        return false;
    *name = callers->keys->list[found].name;
    *usage_row = callers->usage_rows[found];
    return true;
}
