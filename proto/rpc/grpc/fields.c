/* fields.c - header fields on their way out. */
#include "proto/rpc/grpc/fields.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "proto/rpc/grpc/metadata.h"
#include "proto/rpc/grpc/status.h"

nghttp2_nv field_of(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NONE};
}

int fields_pack(struct buf *packed, const char *name, const void *value, size_t n)
{
    size_t len = strlen(name);
    bool binary = len > 4 && strcmp(name + len - 4, "-bin") == 0;

    if (!metadata_is_custom(name, len) || (!binary && n != 0 && memchr(value, '\0', n) != NULL))
        return DRV_EINVAL;
    buf_add(packed, name, len + 1);
    if (binary)
        grpc_bin_encode(packed, value, n);
    else
        buf_add(packed, value, n);
    buf_add(packed, "", 1);
    return packed->failed ? DRV_ENOMEM : 0;
}

size_t fields_unpack(nghttp2_nv *to, const char *text, size_t n)
{
    const char *at = text, *end = n == 0 ? text : text + n;
    size_t count = 0;

    while (at != end && count < FIELDS_MAX_CUSTOM) {
        const char *value = at + strlen(at) + 1;

        to[count++] = field_of(at, value);
        at = value + strlen(value) + 1;
    }
    return count;
}
