/*
 * api_keys.h - the API's clients: names and digests of keys, never the keys.
 *
 * A key is 256 random bits, so a plain SHA-256 of it is as hard to turn back as the key is to
 * guess: salts and slow hashes are for passwords, which people choose.  A file has one line a
 * key,
 *
 *     NAME sha256:<64 hex digits>
 *
 * and lines that are empty or begin with '#'.  Names go to the access log and the metrics.
 */
#ifndef DROVER_BASE_API_KEYS_H
#define DROVER_BASE_API_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct error;

#define API_KEYS_MAX          256u /* names are label values of metrics, so they are bounded */
#define API_KEY_NAME_BYTES    64   /* with NUL */
#define API_KEY_DIGEST_BYTES  32
#define API_KEY_TEXT_BYTES    64  /* of a key made here, with NUL */
#define API_KEY_MAX_PRESENTED 256 /* bytes of a key that a client may show */

struct api_key {
    char name[API_KEY_NAME_BYTES]; /* [A-Za-z0-9._-]{1,63}, unique */
    uint8_t digest[API_KEY_DIGEST_BYTES];
};

struct api_keys {
    struct api_key *list; /* owned; NULL = no file: everybody may */
    unsigned count;
};

/* Reads the text of a file; `text` is used up.  On failure *keys is empty.  DRV_EINVAL: `err`
 * names the line and what is wrong with it; DRV_ENOMEM. */
MUST_CHECK int api_keys_parse(struct api_keys *keys, char *text, struct error *err);
void api_keys_finish(struct api_keys *keys);

/* The index of the key that a client shows, or -1.  Takes as long whichever it is. */
MUST_CHECK int api_keys_find(const struct api_keys *keys, const char *shown, size_t n);

MUST_CHECK bool api_key_name_good(const char *name);

/* A new key, from the kernel's random numbers. */
void api_key_make(char key[API_KEY_TEXT_BYTES]);

/* Appends the line of a file for `key`, with its line break. */
void api_key_line(struct buf *out, const char *name, const char *key);

#endif
