/* status.c - gRPC status codes and the small text forms of the protocol. */
#include "proto/rpc/grpc/status.h"

#include <stdio.h>
#include <string.h>

#include "base/text/buf.h"

static const char *const status_names[] = {
    [GRPC_OK] = "OK",
    [GRPC_CANCELLED] = "CANCELLED",
    [GRPC_UNKNOWN] = "UNKNOWN",
    [GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [GRPC_NOT_FOUND] = "NOT_FOUND",
    [GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [GRPC_ABORTED] = "ABORTED",
    [GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [GRPC_INTERNAL] = "INTERNAL",
    [GRPC_UNAVAILABLE] = "UNAVAILABLE",
    [GRPC_DATA_LOSS] = "DATA_LOSS",
    [GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

const char *grpc_status_name(enum grpc_status status)
{
    size_t i = (size_t)status;

    return i < ARRAY_LEN(status_names) ? status_names[i] : "UNKNOWN";
}

enum grpc_status grpc_status_parse(const void *value, size_t n)
{
    const unsigned char *p = value;

    if (n == 1 && p[0] >= '0' && p[0] <= '9')
        return (enum grpc_status)(p[0] - '0');
    if (n == 2 && p[0] == '1' && p[1] >= '0' && p[1] <= '6')
        return (enum grpc_status)(10 + p[1] - '0');
    return GRPC_UNKNOWN;
}

enum grpc_status grpc_status_from_http(unsigned http_status)
{
    switch (http_status) {
    case 400:
    case 431:
        return GRPC_INTERNAL;
    case 401:
        return GRPC_UNAUTHENTICATED;
    case 403:
        return GRPC_PERMISSION_DENIED;
    case 404:
        return GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_UNKNOWN;
    }
}

/* The numbers are those of RFC 9113 section 7; this file does without nghttp2. */
enum grpc_status grpc_status_from_h2(uint32_t h2_error_code)
{
    switch (h2_error_code) {
    case 0:  /* NO_ERROR */
    case 1:  /* PROTOCOL_ERROR */
    case 2:  /* INTERNAL_ERROR */
    case 3:  /* FLOW_CONTROL_ERROR */
    case 4:  /* SETTINGS_TIMEOUT */
    case 6:  /* FRAME_SIZE_ERROR */
    case 9:  /* COMPRESSION_ERROR */
    case 10: /* CONNECT_ERROR */
        return GRPC_INTERNAL;
    case 7: /* REFUSED_STREAM */
        return GRPC_UNAVAILABLE;
    case 8: /* CANCEL */
        return GRPC_CANCELLED;
    case 11: /* ENHANCE_YOUR_CALM */
        return GRPC_RESOURCE_EXHAUSTED;
    case 12: /* INADEQUATE_SECURITY */
        return GRPC_PERMISSION_DENIED;
    default: /* STREAM_CLOSED and the unknown have no mapping */
        return GRPC_UNKNOWN;
    }
}

void grpc_message_encode(struct buf *out, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    const unsigned char *p;

    for (p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p >= 0x20 && *p <= 0x7e && *p != '%') {
            buf_add(out, p, 1);
        } else {
            const char escaped[3] = {'%', hex[*p >> 4], hex[*p & 15]};

            buf_add(out, escaped, sizeof(escaped));
        }
    }
}

static int hex_value(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

void grpc_message_decode(struct buf *out, const void *value, size_t n)
{
    const unsigned char *p = value;
    size_t i = 0;

    while (i < n) {
        if (p[i] == '%' && n - i >= 3) {
            int high = hex_value(p[i + 1]);
            int low = hex_value(p[i + 2]);

            if (high >= 0 && low >= 0) {
                unsigned char byte = (unsigned char)(high * 16 + low);

                buf_add(out, &byte, 1);
                i += 3;
                continue;
            }
        }
        buf_add(out, p + i, 1);
        i++;
    }
}

#define MAX_TIMEOUT_VALUE UINT64_C(99999999) /* eight digits */

void grpc_timeout_encode(char out[GRPC_TIMEOUT_TEXT_BYTES], uint64_t timeout_us)
{
    static const struct {
        uint64_t us;
        char unit;
    } units[] = {{1, 'u'}, {1000, 'm'}, {1000000, 'S'}, {60000000, 'M'}, {3600000000, 'H'}};
    uint64_t value = MAX_TIMEOUT_VALUE;
    char unit = 'H';
    size_t i;

    if (timeout_us <= MAX_TIMEOUT_VALUE / 1000) {
        value = timeout_us == 0 ? 1 : timeout_us * 1000;
        unit = 'n';
    } else {
        for (i = 0; i < ARRAY_LEN(units); i++) {
            uint64_t rounded = timeout_us / units[i].us + (timeout_us % units[i].us != 0);

            if (rounded <= MAX_TIMEOUT_VALUE) {
                value = rounded;
                unit = units[i].unit;
                break;
            }
        }
    }
    (void)snprintf(out, GRPC_TIMEOUT_TEXT_BYTES, "%u%c", (unsigned)value, unit);
}

bool grpc_timeout_decode(uint64_t *timeout_us, const void *value, size_t n)
{
    const unsigned char *p = value;
    uint64_t number = 0;
    size_t i;

    if (n < 2 || n > 9)
        return false;
    for (i = 0; i < n - 1; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(p[i] - '0');
    }
    /* Eight digits of hours are 3.6e17 us: nothing here can overflow. */
    switch (p[n - 1]) {
    case 'H':
        *timeout_us = number * UINT64_C(3600000000);
        return true;
    case 'M':
        *timeout_us = number * UINT64_C(60000000);
        return true;
    case 'S':
        *timeout_us = number * UINT64_C(1000000);
        return true;
    case 'm':
        *timeout_us = number * UINT64_C(1000);
        return true;
    case 'u':
        *timeout_us = number;
        return true;
    case 'n':
        *timeout_us = (number + 999) / 1000;
        return true;
    default:
        return false;
    }
}

void grpc_bin_encode(struct buf *out, const void *bytes, size_t n)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;
    size_t i;

    for (i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t group = (uint32_t)p[i] << 16;
        char text[4];

        if (have > 1)
            group |= (uint32_t)p[i + 1] << 8;
        if (have > 2)
            group |= p[i + 2];
        text[0] = digits[group >> 18 & 63];
        text[1] = digits[group >> 12 & 63];
        text[2] = digits[group >> 6 & 63];
        text[3] = digits[group & 63];
        buf_add(out, text, have + 1);
    }
}

static int digit_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

bool grpc_bin_decode(struct buf *out, const void *text, size_t n)
{
    const unsigned char *p = text;
    uint32_t group = 0;
    unsigned bits = 0;
    size_t i;

    if (n % 4 == 0 && n != 0 && p[n - 1] == '=')
        n -= p[n - 2] == '=' ? 2 : 1;
    if (n % 4 == 1)
        return false;
    for (i = 0; i < n; i++) {
        int value = digit_value(p[i]);

        if (value < 0)
            return false;
        group = group << 6 | (uint32_t)value;
        bits += 6;
        if (bits >= 8) {
            unsigned char byte = (unsigned char)(group >> (bits - 8) & 255);

            buf_add(out, &byte, 1);
            bits -= 8;
        }
    }
    return true;
}
