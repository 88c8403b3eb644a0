/* model_name.c - whether two names are one model. */
#include "base/model_name.h"

#include <string.h>
#include <strings.h>

size_t model_name_untagged_len(const char *name)
{
    static const char latest[] = ":latest";
    size_t n = strlen(name), tag = strlen(latest);

    return n > tag && strcasecmp(name + n - tag, latest) == 0 ? n - tag : n;
}

/* The name without what Ollama adds at its front. */
static const char *without_prefixes(const char *name)
{
    static const char *const prefixes[] = {"registry.ollama.ai/", "library/"};

    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (strncasecmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            name += strlen(prefixes[i]);
    return name;
}

bool model_name_equal(const char *a, const char *b)
{
    const char *x = without_prefixes(a), *y = without_prefixes(b);
    size_t n = model_name_untagged_len(x);

    return n == model_name_untagged_len(y) && strncasecmp(x, y, n) == 0;
}
