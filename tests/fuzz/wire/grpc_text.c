/*
 * grpc_text.c - the small text forms of gRPC: status, message, timeout, base64, metadata.
 *
 * Input: `name NUL value`, as a header field would bring them.
 */
#include "proto/rpc/grpc/metadata.h"
#include "proto/rpc/grpc/status.h"
#include "tests/fuzz/fuzz.h"

static void timeouts(const void *value, size_t n)
{
    char text[GRPC_TIMEOUT_TEXT_BYTES];
    uint64_t us, again;

    if (!grpc_timeout_decode(&us, value, n))
        return;
    grpc_timeout_encode(text, us);
    MUST(grpc_timeout_decode(&again, text, strlen(text)));
    MUST(again >= us || us > UINT64_C(99999999) * 3600 * 1000000);
}

static void messages(const void *value, size_t n)
{
    struct buf plain = BUF_INIT, coded = BUF_INIT, again = BUF_INIT;

    grpc_message_decode(&plain, value, n);
    MUST(!plain.failed && buf_size(&plain) <= 3 * n);
    grpc_message_encode(&coded, buf_cstr(&plain));
    for (size_t i = 0; i < buf_size(&coded); i++)
        MUST(buf_head(&coded)[i] >= 0x20 && buf_head(&coded)[i] <= 0x7e);
    grpc_message_decode(&again, buf_head(&coded), buf_size(&coded));
    MUST(strcmp(buf_cstr(&plain), buf_cstr(&again)) == 0);
    buf_finish(&plain);
    buf_finish(&coded);
    buf_finish(&again);
}

static void base64(const void *value, size_t n)
{
    struct buf plain = BUF_INIT, coded = BUF_INIT, again = BUF_INIT;

    if (grpc_bin_decode(&plain, value, n)) {
        grpc_bin_encode(&coded, buf_head(&plain), buf_size(&plain));
        MUST(grpc_bin_decode(&again, buf_head(&coded), buf_size(&coded)));
        MUST(buf_size(&plain) == buf_size(&again));
        MUST(buf_size(&plain) == 0 ||
             memcmp(buf_head(&plain), buf_head(&again), buf_size(&plain)) == 0);
    }
    buf_finish(&plain);
    buf_finish(&coded);
    buf_finish(&again);
}

static void fields(const char *name, size_t name_len, const void *value, size_t n)
{
    struct metadata metadata = {0};
    size_t len = 0;

    if (metadata_is_custom(name, name_len) &&
        metadata_add(&metadata, name, name_len, value, n) == 0) {
        const char *got = metadata_get(&metadata, name, &len);

        MUST(got != NULL && len <= n && got[len] == '\0');
    } else {
        MUST(buf_size(&metadata.fields) == 0);
    }
    MUST(buf_size(&metadata.fields) < METADATA_MAX_BYTES + 16);
    metadata_finish(&metadata);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = memchr(data, '\0', size);
    size_t name_len = nul == NULL ? 0 : (size_t)(nul - data);
    size_t value_len = nul == NULL ? size : size - name_len - 1;
    char *name = input_text(data, name_len);
    char *value = input_copy(data + (size - value_len), value_len);

    MUST(grpc_status_parse(value, value_len) <= GRPC_UNAUTHENTICATED);
    timeouts(value, value_len);
    messages(value, value_len);
    base64(value, value_len);
    fields(name, name_len, value, value_len);
    free(name);
    free(value);
    return 0;
}
