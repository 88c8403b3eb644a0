/* metadata.c - the custom header fields of one call, as received. */
#include "proto/rpc/grpc/metadata.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "proto/rpc/grpc/status.h"

struct record {
    uint32_t name_len, value_len;
};

void metadata_finish(struct metadata *metadata)
{
    buf_finish(&metadata->fields);
}

bool metadata_is_custom(const void *name, size_t n)
{
    static const char *const http_names[] = {"te", "content-type", "user-agent",
                                             "accept-encoding", "content-length"};
    size_t i;

    if (n == 0 || *(const char *)name == ':' || (n >= 5 && memcmp(name, "grpc-", 5) == 0))
        return false;
    for (i = 0; i < ARRAY_LEN(http_names); i++)
        if (n == strlen(http_names[i]) && memcmp(name, http_names[i], n) == 0)
            return false;
    return true;
}

static void add(struct metadata *metadata, const void *name, size_t name_len, const void *value,
                size_t value_len)
{
    struct record record = {(uint32_t)name_len, (uint32_t)value_len};
    struct buf *out = &metadata->fields;

    buf_add(out, &record, sizeof(record));
    buf_add(out, name, name_len);
    buf_add(out, "", 1);
    buf_add(out, value, value_len);
    buf_add(out, "", 1);
}

static int add_bin(struct metadata *metadata, const void *name, size_t name_len,
                   const char *value, size_t value_len)
{
    struct buf bytes = BUF_INIT;
    int rc = 0;

    for (;;) {
        const char *comma = memchr(value, ',', value_len);
        size_t n = comma != NULL ? (size_t)(comma - value) : value_len;

        buf_reset(&bytes);
        if (!grpc_bin_decode(&bytes, value, n)) {
            rc = DRV_EINVAL;
            break;
        }
        if (bytes.failed) {
            rc = DRV_ENOMEM;
            break;
        }
        if (buf_size(&metadata->fields) + name_len + buf_size(&bytes) > METADATA_MAX_BYTES) {
            rc = DRV_ETOOBIG;
            break;
        }
        add(metadata, name, name_len, buf_head(&bytes), buf_size(&bytes));
        if (comma == NULL)
            break;
        value += n + 1;
        value_len -= n + 1;
        while (value_len != 0 && *value == ' ') {
            value++;
            value_len--;
        }
    }
    buf_finish(&bytes);
    return rc;
}

int metadata_add(struct metadata *metadata, const void *name, size_t name_len,
                 const void *value, size_t value_len)
{
    size_t before = metadata->fields.len;
    int rc = 0;

    if (name_len > 4 && memcmp((const char *)name + name_len - 4, "-bin", 4) == 0)
        rc = add_bin(metadata, name, name_len, value, value_len);
    else
        add(metadata, name, name_len, value, value_len);
    if (metadata->fields.failed)
        return DRV_ENOMEM;
    if (rc != 0)
        metadata->fields.len = before;
    return rc;
}

const void *metadata_get(const struct metadata *metadata, const char *name, size_t *n)
{
    size_t want = strlen(name), left = buf_size(&metadata->fields);
    const uint8_t *at = left == 0 ? NULL : buf_head(&metadata->fields);

    while (left != 0) {
        struct record record;
        size_t size;

        memcpy(&record, at, sizeof(record));
        size = sizeof(record) + record.name_len + 1 + record.value_len + 1;
        if (record.name_len == want && memcmp(at + sizeof(record), name, want) == 0) {
            if (n != NULL)
                *n = record.value_len;
            return at + sizeof(record) + record.name_len + 1;
        }
        at += size;
        left -= size;
    }
    return NULL;
}
