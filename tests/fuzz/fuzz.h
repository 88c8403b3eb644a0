/*
 * fuzz.h - what the fuzz targets share: the entry that libFuzzer calls, its bytes taken from
 * the front, and a check that stops it.
 *
 * A target must do the same for the same bytes: whatever varies comes from the input.
 */
#ifndef DROVER_TESTS_FUZZ_H
#define DROVER_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A condition that must hold for any input.  libFuzzer keeps the input that made it fail. */
#define MUST(condition)                                                             \
    do {                                                                            \
        if (!(condition)) {                                                         \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, \
                          #condition);                                              \
            abort();                                                                \
        }                                                                           \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint32_t input_byte(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

static inline uint32_t input_u24(struct input *in)
{
    uint32_t a = input_byte(in), b = input_byte(in);

    return a << 16 | b << 8 | input_byte(in);
}

/* At most `n` bytes; *out gets how many. */
static inline const uint8_t *input_bytes(struct input *in, size_t n, size_t *out)
{
    const uint8_t *from = in->at;

    *out = n < in->left ? n : in->left;
    in->at += *out;
    in->left -= *out;
    return from;
}

/* The rest, in pieces of `step` bytes, or in one when `step` is 0. */
static inline const uint8_t *input_piece(struct input *in, size_t step, size_t *out)
{
    return input_bytes(in, step == 0 ? in->left : step, out);
}

/* A copy of its own, so that reading one byte too far is seen; the caller frees it. */
static inline char *input_copy(const void *bytes, size_t n)
{
    char *copy = malloc(n == 0 ? 1 : n);

    MUST(copy != NULL);
    if (n != 0)
        memcpy(copy, bytes, n);
    return copy;
}

/* The same with a NUL at its end. */
static inline char *input_text(const void *bytes, size_t n)
{
    char *copy = malloc(n + 1);

    MUST(copy != NULL);
    if (n != 0)
        memcpy(copy, bytes, n);
    copy[n] = '\0';
    return copy;
}

#endif
