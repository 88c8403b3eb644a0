/* unasked.c - an event that is in a stream only because the node asked for usage. */
#include "node/body/unasked.h"

#include "base/text/buf.h"
#include "base/text/json.h"

/* Every event has these. */
static bool is_usual(const struct json_value *key)
{
    static const char *const names[] = {
        "id",          "object", "created", "model", "choices", "usage", "system_fingerprint",
        "service_tier"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (json_equal(key, names[i]))
            return true;
    return false;
}

bool unasked_members(struct buf *out, const struct json_value *root)
{
    struct json_value key, value;
    struct json_iter it;
    bool some = false;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &value)) {
        if (value.type == JSON_NULL || is_usual(&key))
            continue;
        buf_add(out, ",", 1);
        buf_add(out, key.text, key.len);
        buf_add(out, ":", 1);
        buf_add(out, value.text, value.len);
        some = true;
    }
    return some;
}
