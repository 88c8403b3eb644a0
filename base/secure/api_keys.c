/* api_keys.c - a file of API keys, and the comparison with what a client shows. */
#include "base/secure/api_keys.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"

/* Services and secret scanners know a key by this. */
#define KEY_PREFIX    "sk-drover-"
#define KEY_BYTES     32
#define DIGEST_PREFIX "sha256:"
#define NAME_CHARS    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define SPACE         " \t\r"

static_assert(API_KEY_DIGEST_BYTES == SHA256_DIGEST_LENGTH, "the digest is SHA-256");
static_assert(sizeof(KEY_PREFIX) + (KEY_BYTES * 4 + 2) / 3 <= API_KEY_TEXT_BYTES,
              "a key made here fits");

bool api_key_name_good(const char *name)
{
    size_t n = strlen(name);

    return n >= 1 && n < API_KEY_NAME_BYTES && strspn(name, NAME_CHARS) == n;
}

static bool parse_digest(uint8_t out[API_KEY_DIGEST_BYTES], const char *text)
{
    if (strncmp(text, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0)
        return false;
    text += strlen(DIGEST_PREFIX);
    if (strlen(text) != (size_t)2 * API_KEY_DIGEST_BYTES)
        return false;
    for (size_t i = 0; i < API_KEY_DIGEST_BYTES; i++) {
        int high = json_hex_value(text[2 * i]), low = json_hex_value(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int add(struct api_keys *keys, unsigned line, const char *name, const char *digest,
               struct error *err)
{
    struct api_key *key = &keys->list[keys->count];

    if (keys->count == API_KEYS_MAX)
        return error_set(err, DRV_EINVAL, "line %u: more than %u keys", line, API_KEYS_MAX);
    if (!api_key_name_good(name))
        return error_set(err, DRV_EINVAL, "line %u: a name is 1 to %d of A-Z a-z 0-9 . _ -",
                         line, API_KEY_NAME_BYTES - 1);
    /* The text is not shown: it may be a key, put here by mistake. */
    if (!parse_digest(key->digest, digest))
        return error_set(err, DRV_EINVAL,
                         "line %u: after the name there must be " DIGEST_PREFIX
                         " and 64 hex digits, as `droverctl key new` prints them",
                         line);
    for (unsigned i = 0; i < keys->count; i++) {
        if (strcmp(keys->list[i].name, name) == 0)
            return error_set(err, DRV_EINVAL, "line %u: there is a key '%s' already", line,
                             name);
        if (memcmp(keys->list[i].digest, key->digest, sizeof(key->digest)) == 0)
            return error_set(err, DRV_EINVAL, "line %u: the same key as '%s'", line,
                             keys->list[i].name);
    }
    (void)strlcpy(key->name, name, sizeof(key->name));
    keys->count++;
    return 0;
}

int api_keys_parse(struct api_keys *keys, char *text, struct error *err)
{
    unsigned number = 0;
    char *line;
    int rc = 0;

    *keys = (struct api_keys){.list = calloc(API_KEYS_MAX + 1, sizeof(*keys->list))};
    if (keys->list == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    while (rc == 0 && (line = strsep(&text, "\n")) != NULL) {
        char *rest = NULL, *name = strtok_r(line, SPACE, &rest);
        char *digest = strtok_r(NULL, SPACE, &rest);

        number++;
        if (name == NULL || name[0] == '#')
            continue;
        if (strtok_r(NULL, SPACE, &rest) != NULL)
            rc = error_set(err, DRV_EINVAL, "line %u: more than a name and a digest", number);
        else
            rc = add(keys, number, name, digest == NULL ? "" : digest, err);
    }
    if (rc == 0 && keys->count == 0)
        rc = error_set(err, DRV_EINVAL, "holds no key; `droverctl key new NAME` makes one");
    if (rc != 0)
        api_keys_finish(keys);
    return rc;
}

void api_keys_finish(struct api_keys *keys)
{
    free(keys->list);
    *keys = (struct api_keys){0};
}

int api_keys_find(const struct api_keys *keys, const char *shown, size_t n)
{
    uint8_t digest[API_KEY_DIGEST_BYTES];
    int found = -1;

    if (n == 0 || n > API_KEY_MAX_PRESENTED)
        return -1;
    (void)SHA256((const unsigned char *)shown, n, digest);
    for (unsigned i = 0; i < keys->count; i++)
        if (CRYPTO_memcmp(keys->list[i].digest, digest, sizeof(digest)) == 0)
            found = (int)i;
    return found;
}

void api_key_make(char key[API_KEY_TEXT_BYTES])
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[KEY_BYTES];
    size_t at = strlen(KEY_PREFIX);
    uint32_t bits = 0;
    int have = 0;

    arc4random_buf(random, sizeof(random));
    (void)strlcpy(key, KEY_PREFIX, API_KEY_TEXT_BYTES);
    for (size_t i = 0; i < sizeof(random); i++) {
        bits = bits << 8 | random[i];
        for (have += 8; have >= 6; have -= 6)
            key[at++] = digits[bits >> (have - 6) & 63];
    }
    if (have != 0)
        key[at++] = digits[bits << (6 - have) & 63];
    key[at] = '\0';
    explicit_bzero(random, sizeof(random));
}

void api_key_line(struct buf *out, const char *name, const char *key)
{
    uint8_t digest[API_KEY_DIGEST_BYTES];

    (void)SHA256((const unsigned char *)key, strlen(key), digest);
    buf_printf(out, "%s " DIGEST_PREFIX, name);
    for (size_t i = 0; i < sizeof(digest); i++)
        buf_printf(out, "%02x", digest[i]);
    buf_str(out, "\n");
}
